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

/// Something that the owner of a Service has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The Service.
    pub service: ObjectName,
    /// Why, in one word that scripts look for.
    pub reason: &'static str,
    /// What was tried.
    pub action: &'static str,
    /// What happened.
    pub text: String,
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
        service,
        reason,
        action,
        text,
    } = note;
    let event = Event {
        type_: EventType::Warning,
        reason: reason.to_owned(),
        note: Some(text),
        action: action.to_owned(),
        secondary: None,
    };
    let object = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Service".to_owned()),
        namespace: Some(service.namespace.to_string()),
        name: Some(service.name.to_string()),
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
            service: ObjectName::new("prod", "ent"),
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
}
