//! Notes on objects: Events of the API, where kube-proxy posts them too.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc;

use super::{KubeOptions, configuration};
use crate::model::ObjectName;

/// Who posts.
const CONTROLLER: &str = "signpost";

/// Something that the owner of an object has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The object.
    pub regarding: Regarding,
    /// Why, in one word that scripts look for.
    pub reason: &'static str,
    /// What was tried.
    pub action: &'static str,
    /// What happened; empty where the reason says it all.
    pub text: String,
}

/// What a note is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Regarding {
    /// A Service, of which something is wrong.
    Service(ObjectName),
    /// A Node, of which something is said.
    Node(String),
}

impl Note {
    /// A proxy begins its work on a node, as kube-proxy says it.
    pub fn starting(node: &str) -> Self {
        Self {
            regarding: Regarding::Node(node.to_owned()),
            reason: "Starting",
            action: "StartSignpost",
            text: String::new(),
        }
    }
}

/// Posts notes until nobody writes any more. What cannot be posted is said in the log.
///
/// # Errors
/// Where the configuration cannot be used.
pub async fn post(options: KubeOptions, mut notes: mpsc::Receiver<Note>) -> anyhow::Result<()> {
    let client = Client::try_from(configuration(&options).await?)?;
    let recorder = Recorder::new(
        client,
        Reporter {
            controller: CONTROLLER.to_owned(),
            instance: options.node,
        },
    );
    while let Some(note) = notes.recv().await {
        let (event, object) = event(note);
        if let Err(error) = recorder.publish(&event, &object).await {
            tracing::warn!(%error, note = event.note, "an Event cannot be posted");
        }
    }
    Ok(())
}

fn event(note: Note) -> (Event, ObjectReference) {
    let Note {
        regarding,
        reason,
        action,
        text,
    } = note;
    let (type_, kind, namespace, name) = match &regarding {
        Regarding::Service(ObjectName { namespace, name }) => {
            (EventType::Warning, "Service", Some(&**namespace), &**name)
        }
        Regarding::Node(name) => (EventType::Normal, "Node", None, &**name),
    };
    let event = Event {
        type_,
        reason: reason.to_owned(),
        note: (!text.is_empty()).then_some(text),
        action: action.to_owned(),
        secondary: None,
    };
    let object = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some(kind.to_owned()),
        namespace: namespace.map(str::to_owned),
        name: Some(name.to_owned()),
        ..ObjectReference::default()
    };
    (event, object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_a_warning_about_its_service() {
        let (event, object) = event(Note {
            regarding: Regarding::Service(ObjectName::new("prod", "ent")),
            reason: "FailedToStartServiceHealthcheck",
            action: "Listen",
            text: "it did not work".to_owned(),
        });
        assert!(matches!(event.type_, EventType::Warning));
        assert_eq!(event.reason, "FailedToStartServiceHealthcheck");
        assert_eq!(object.kind.as_deref(), Some("Service"));
        assert_eq!(object.namespace.as_deref(), Some("prod"));
        assert_eq!(object.name.as_deref(), Some("ent"));
    }

    #[test]
    fn that_a_proxy_starts_is_nothing_to_warn_of() {
        let (event, object) = event(Note::starting("one"));
        assert!(matches!(event.type_, EventType::Normal));
        assert_eq!((event.reason.as_str(), event.note), ("Starting", None));
        assert_eq!(object.kind.as_deref(), Some("Node"));
        assert_eq!(
            (object.namespace, object.name.as_deref()),
            (None, Some("one"))
        );
    }
}
