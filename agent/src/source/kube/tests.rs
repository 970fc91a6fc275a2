//! The source against an API server of a few lines, for what a real one does not do on demand.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use futures::StreamExt as _;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::timeout;
use tower::{Layer as _, service_fn};

use super::*;
use crate::{model::ObjectName, registry::Registry};

const QUICK: Timing = Timing {
    first_wait: Duration::from_millis(100),
    longest_wait: Duration::from_millis(200),
    streamed_list: Duration::from_millis(500),
    silence: Duration::from_secs(60),
    pause: Duration::from_millis(300),
    look: Duration::from_millis(5),
};

type Answer = Response<UnsyncBoxBody<bytes::Bytes, Infallible>>;

/// How the server answers the next request for Services; other kinds are empty and still.
enum Script {
    /// A document, with a status.
    Say(u16, Value),
    /// A watch that says these things and then goes on or ends.
    Watch { events: Vec<Value>, goes_on: bool },
}

#[derive(Clone, Default)]
struct Server {
    services: Arc<Mutex<VecDeque<Script>>>,
    asked: Arc<Mutex<Vec<String>>>,
    asked_for_pods: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn answer(&self, request: &Request<Body>) -> Answer {
        let uri = request.uri().to_string();
        let script = if request.uri().path() == "/api/v1/services" {
            self.asked.lock().unwrap().push(uri);
            let script = self.services.lock().unwrap().pop_front();
            script.unwrap_or(Script::Say(503, status(503)))
        } else {
            if request.uri().path() == "/api/v1/pods" {
                self.asked_for_pods.lock().unwrap().push(uri);
            }
            Script::Watch {
                events: vec![listed()],
                goes_on: true,
            }
        };
        match script {
            Script::Say(code, value) => {
                let body = Full::new(value.to_string().into()).boxed_unsync();
                Response::builder().status(code).body(body).unwrap()
            }
            Script::Watch { events, goes_on } => {
                let lines = events
                    .into_iter()
                    .map(|event| Ok(Frame::data(format!("{event}\n").into())));
                let lines = futures::stream::iter(lines);
                let body = if goes_on {
                    StreamBody::new(lines.chain(futures::stream::pending())).boxed_unsync()
                } else {
                    StreamBody::new(lines).boxed_unsync()
                };
                Response::new(body)
            }
        }
    }
}

struct Watched {
    server: Server,
    events: mpsc::Receiver<Event>,
    in_sync: watch::Receiver<bool>,
    registry: Registry,
}

impl Watched {
    fn start(script: Vec<Script>) -> Self {
        Self::with_pods(script, None)
    }

    fn with_pods(script: Vec<Script>, pods: Option<watch::Receiver<bool>>) -> Self {
        let server = Server::default();
        *server.services.lock().unwrap() = script.into();
        let contact = Contact::new(QUICK);
        let answering = server.clone();
        let service = service_fn(move |request: Request<Body>| {
            let answer = answering.answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let client = Client::new(ContactLayer(contact.clone()).layer(service), "default");
        let (sender, events) = mpsc::channel(16);
        let (told, in_sync) = watch::channel(false);
        tokio::spawn(async move { watch_all(client, contact, (None, pods), sender, told).await });
        Self {
            server,
            events,
            in_sync,
            registry: Registry::default(),
        }
    }

    async fn until(&mut self, holds: impl Fn(&Registry) -> bool) {
        while !holds(&self.registry) {
            let event = timeout(Duration::from_secs(20), self.events.recv()).await;
            self.registry
                .apply(event.expect("an event").expect("a source that runs"));
        }
    }

    async fn until_services(&mut self, names: &[&str]) {
        self.until(|registry| {
            let found: Vec<_> = registry.services().map(|s| &*s.name.name).collect();
            registry.is_complete(&[Kind::Service]) && found == names
        })
        .await;
    }

    fn asked(&self) -> Vec<String> {
        self.server.asked.lock().unwrap().clone()
    }
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "a", "name": name, "resourceVersion": "5"},
        "spec": {"clusterIP": "None"},
    })
}

fn event(kind: &str, object: Value) -> Value {
    json!({"type": kind, "object": object})
}

/// The bookmark that ends a streamed list.
fn listed() -> Value {
    event(
        "BOOKMARK",
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {
            "resourceVersion": "5", "annotations": {"k8s.io/initial-events-end": "true"},
        }}),
    )
}

fn list(names: &[&str]) -> Value {
    let items: Vec<_> = names.iter().map(|name| service(name)).collect();
    json!({"apiVersion": "v1", "kind": "ServiceList", "metadata": {"resourceVersion": "5"}, "items": items})
}

fn status(code: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": "no", "reason": "No", "code": code})
}

#[tokio::test]
async fn a_streamed_list_is_watched_on() {
    let mut watched = Watched::start(vec![Script::Watch {
        events: vec![
            event("ADDED", service("x")),
            event("ADDED", service("y")),
            listed(),
            event("MODIFIED", service("z")),
            event("DELETED", service("x")),
        ],
        goes_on: true,
    }]);
    watched.until_services(&["y", "z"]).await;
    assert!(watched.asked()[0].contains("sendInitialEvents=true"));
    assert_eq!(watched.asked().len(), 1);
}

#[tokio::test]
async fn a_server_that_does_not_stream_lists_is_asked_for_pages() {
    let mut watched = Watched::start(vec![
        Script::Say(422, status(422)),
        Script::Say(200, list(&["x"])),
        Script::Watch {
            events: vec![event("ADDED", service("y"))],
            goes_on: true,
        },
    ]);
    watched.until_services(&["x", "y"]).await;
    let asked = watched.asked();
    assert!(asked[1].contains("limit=500") && !asked[1].contains("watch="));
    assert!(asked[2].contains("watch=true") && asked[2].contains("resourceVersion=5"));
}

#[tokio::test]
async fn a_server_that_never_ends_the_streamed_list_is_asked_for_pages() {
    let mut watched = Watched::start(vec![
        Script::Watch {
            events: vec![event("ADDED", service("old"))],
            goes_on: true,
        },
        Script::Say(200, list(&["x"])),
        Script::Watch {
            events: vec![],
            goes_on: true,
        },
    ]);
    watched.until_services(&["x"]).await;
}

#[tokio::test]
async fn a_server_that_forgot_the_version_is_listed_anew() {
    let mut watched = Watched::start(vec![
        Script::Watch {
            events: vec![
                event("ADDED", service("x")),
                listed(),
                event("ERROR", status(410)),
            ],
            goes_on: false,
        },
        Script::Watch {
            events: vec![event("ADDED", service("y")), listed()],
            goes_on: true,
        },
    ]);
    watched.until_services(&["y"]).await;
}

#[tokio::test]
async fn a_server_that_is_away_changes_nothing_but_the_health() {
    let mut watched = Watched::start(vec![
        Script::Watch {
            events: vec![event("ADDED", service("x")), listed()],
            goes_on: false,
        },
        Script::Say(503, status(503)),
        Script::Say(503, status(503)),
        Script::Say(503, status(503)),
        Script::Say(503, status(503)),
        Script::Say(503, status(503)),
        Script::Say(503, status(503)),
        Script::Watch {
            events: vec![event("ADDED", service("y"))],
            goes_on: true,
        },
    ]);
    watched.until_services(&["x"]).await;
    watched
        .until(|r| r.is_complete(&[Kind::Service, Kind::EndpointSlice, Kind::Namespace]))
        .await;
    watched.in_sync.wait_for(|told| *told).await.unwrap();
    watched.in_sync.wait_for(|told| !*told).await.unwrap();
    assert!(
        watched
            .registry
            .service(&ObjectName::new("a", "x"))
            .is_some()
    );
    watched.until_services(&["x", "y"]).await;
    watched.in_sync.wait_for(|told| *told).await.unwrap();
    let resumed = watched.asked().pop().unwrap();
    assert!(resumed.contains("resourceVersion=5"), "{resumed}");
}

#[tokio::test]
async fn an_object_that_cannot_be_used_is_named() {
    let mut bad = service("x");
    bad["spec"] = json!({"type": "ExternalName", "externalName": "a b"});
    let mut watched = Watched::start(vec![Script::Watch {
        events: vec![event("ADDED", bad), listed()],
        goes_on: true,
    }]);
    watched.until(|r| r.is_complete(&[Kind::Service])).await;
    let problems = watched.registry.problems();
    assert_eq!(problems.first().unwrap().field, "spec.externalName");
}

#[tokio::test]
async fn pods_are_watched_only_while_their_names_are_verified() {
    const ALL: [Kind; 3] = [Kind::Service, Kind::EndpointSlice, Kind::Namespace];
    let nothing = || {
        vec![Script::Watch {
            events: vec![listed()],
            goes_on: true,
        }]
    };
    let (verified, wanted) = watch::channel(false);
    let mut watched = Watched::with_pods(nothing(), Some(wanted));
    watched.until(|r| r.is_complete(&ALL)).await;
    let asked = |watched: &Watched| watched.server.asked_for_pods.lock().unwrap().clone();
    assert_eq!(asked(&watched), Vec::<String>::new());
    verified.send_replace(true);
    watched.until(|r| r.is_complete(&[Kind::Pod])).await;
    let [question] = &asked(&watched)[..] else {
        panic!("{:?}", asked(&watched));
    };
    assert!(
        question.contains("fieldSelector=status.phase"),
        "{question}"
    );

    // Nor by who has no use for them at all.
    let mut watched = Watched::start(nothing());
    watched.until(|r| r.is_complete(&ALL)).await;
    assert_eq!(asked(&watched), Vec::<String>::new());
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_an_error() {
    let options = KubeOptions {
        kubeconfig: Some("/nowhere/kubeconfig".into()),
        ..KubeOptions::default()
    };
    let error = configuration(&options).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/kubeconfig"));
    let options = KubeOptions {
        server: Some("not a url".to_owned()),
        ..KubeOptions::default()
    };
    assert!(configuration(&options).await.is_err());
}
