//! Whether the watches are alive, seen from the traffic of the client.
//!
//! A watch of something that does not change says nothing for minutes, and the watcher hides the bookmarks that the
//! API server sends meanwhile (about one a minute). So it is the bytes that are watched: every piece of an answer to
//! a watch is a sign of life.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task,
};

use futures::{FutureExt as _, TryFutureExt as _, future::BoxFuture};
use http::{Request, Response};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use kube::client::Body;
use tokio::{sync::watch, time::Instant};

use super::Timing;
use crate::model::Kind;

/// What is known of the watches.
#[derive(Clone, Debug)]
pub(super) struct Contact {
    watches: Arc<Mutex<BTreeMap<Kind, Watch>>>,
    timing: Timing,
}

#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    /// The full list was emitted.
    listed: bool,
    /// Answers to watches that go on.
    open: usize,
    heard: Option<Instant>,
    closed: Option<Instant>,
}

impl Contact {
    /// Nothing is known yet.
    pub(super) fn new(timing: Timing) -> Self {
        Self {
            watches: Arc::default(),
            timing,
        }
    }

    /// How long things may take.
    pub(super) const fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Says that a list has begun (`false`) or was emitted in full (`true`).
    pub(super) fn set_listed(&self, kind: Kind, listed: bool) {
        self.watches().entry(kind).or_default().listed = listed;
    }

    /// Whether these kinds are listed and their watches alive.
    pub(super) fn is_alive(&self, kinds: &[Kind], now: Instant) -> bool {
        let watches = self.watches();
        kinds.iter().all(|kind| {
            watches.get(kind).is_some_and(|watch| {
                let within = |then: Option<Instant>, limit| then.is_some_and(|t| now - t < limit);
                watch.listed
                    && within(watch.heard, self.timing.silence)
                    && (watch.open > 0 || within(watch.closed, self.timing.pause))
            })
        })
    }

    /// Reports for ever whether these kinds are alive.
    pub(super) async fn report(&self, kinds: &[Kind], in_sync: &watch::Sender<bool>) {
        loop {
            let alive = self.is_alive(kinds, Instant::now());
            in_sync.send_if_modified(|told| std::mem::replace(told, alive) != alive);
            tokio::time::sleep(self.timing.look).await;
        }
    }

    fn watches(&self) -> MutexGuard<'_, BTreeMap<Kind, Watch>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets a [`Contact`] see the traffic of a client.
#[derive(Clone, Debug)]
pub(super) struct ContactLayer(pub(super) Contact);

impl<S> tower::Layer<S> for ContactLayer {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Observed {
            inner,
            contact: self.0.clone(),
        }
    }
}

/// A client whose traffic is seen.
#[derive(Clone, Debug)]
pub(super) struct Observed<S> {
    inner: S,
    contact: Contact,
}

impl<S, B> tower::Service<Request<Body>> for Observed<S>
where
    S: tower::Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: HttpBody<Data = bytes::Bytes> + Send + 'static,
    B::Error: 'static,
{
    type Response = Response<UnsyncBoxBody<bytes::Bytes, B::Error>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> task::Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let kind = watched_kind(request.uri());
        let contact = self.contact.clone();
        self.inner
            .call(request)
            .map_ok(move |response| {
                let open = kind
                    .filter(|_| response.status().is_success())
                    .map(|kind| Open::new(kind, contact));
                response.map(|body| {
                    body.map_frame(move |frame| {
                        if let Some(open) = &open {
                            open.heard();
                        }
                        frame
                    })
                    .boxed_unsync()
                })
            })
            .boxed()
    }
}

/// An answer to a watch, as long as it goes on.
struct Open {
    kind: Kind,
    contact: Contact,
}

impl Open {
    fn new(kind: Kind, contact: Contact) -> Self {
        let open = Self { kind, contact };
        open.update(|watch| watch.open += 1);
        open
    }

    fn heard(&self) {
        self.update(|_| ());
    }

    fn update(&self, change: impl FnOnce(&mut Watch)) {
        let mut watches = self.contact.watches();
        let watch = watches.entry(self.kind).or_default();
        change(watch);
        watch.heard = Some(Instant::now());
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut watches = self.contact.watches();
        let watch = watches.entry(self.kind).or_default();
        watch.open = watch.open.saturating_sub(1);
        watch.closed = Some(Instant::now());
    }
}

fn watched_kind(uri: &http::Uri) -> Option<Kind> {
    let is_watch = uri
        .query()?
        .split('&')
        .any(|pair| matches!(pair, "watch=true" | "watch=1"));
    let resource = uri.path().rsplit('/').next()?;
    Some(match resource {
        _ if !is_watch => return None,
        "services" => Kind::Service,
        "endpointslices" => Kind::EndpointSlice,
        "namespaces" => Kind::Namespace,
        "nodes" => Kind::Node,
        "servicecidrs" => Kind::ServiceCidr,
        "pods" => Kind::Pod,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::TIMING, *};

    const ONE: [Kind; 1] = [Kind::Service];

    fn listed() -> Contact {
        let contact = Contact::new(TIMING);
        contact.set_listed(Kind::Service, true);
        contact
    }

    #[test]
    fn a_watch_is_told_by_its_url() {
        let kind = |uri: &str| watched_kind(&uri.parse().unwrap());
        assert_eq!(
            kind("/api/v1/services?watch=true&timeoutSeconds=290"),
            Some(Kind::Service)
        );
        assert_eq!(
            kind("/apis/discovery.k8s.io/v1/endpointslices?a=b&watch=true"),
            Some(Kind::EndpointSlice)
        );
        assert_eq!(kind("/api/v1/services?limit=500"), None);
        assert_eq!(kind("/api/v1/pods?watch=true"), Some(Kind::Pod));
        assert_eq!(kind("/api/v1/configmaps?watch=true"), None);
    }

    #[test]
    fn a_watch_is_alive_while_it_speaks() {
        let contact = listed();
        assert!(!contact.is_alive(&ONE, Instant::now()), "no watch yet");
        let open = Open::new(Kind::Service, contact.clone());
        open.heard();
        let last = Instant::now();
        assert!(contact.is_alive(&ONE, last + TIMING.silence / 2));
        assert!(!contact.is_alive(&ONE, last + TIMING.silence));
    }

    #[test]
    fn a_watch_that_ended_has_a_moment_to_begin_again() {
        let contact = listed();
        drop(Open::new(Kind::Service, contact.clone()));
        let end = Instant::now();
        assert!(contact.is_alive(&ONE, end + TIMING.pause / 2));
        assert!(!contact.is_alive(&ONE, end + TIMING.pause));
        let _open = Open::new(Kind::Service, contact.clone());
        assert!(contact.is_alive(&ONE, end + TIMING.pause));
    }

    #[test]
    fn the_end_of_a_silent_watch_is_no_sign_of_life() {
        let quick = Timing {
            silence: std::time::Duration::ZERO,
            ..TIMING
        };
        let contact = Contact::new(quick);
        contact.set_listed(Kind::Service, true);
        drop(Open::new(Kind::Service, contact.clone()));
        assert!(!contact.is_alive(&ONE, Instant::now()));
    }

    #[test]
    fn every_kind_has_to_be_alive_and_listed() {
        let contact = listed();
        let _services = Open::new(Kind::Service, contact.clone());
        let kinds = [Kind::Service, Kind::Namespace];
        assert!(!contact.is_alive(&kinds, Instant::now()));
        let _namespaces = Open::new(Kind::Namespace, contact.clone());
        assert!(!contact.is_alive(&kinds, Instant::now()));
        contact.set_listed(Kind::Namespace, true);
        assert!(contact.is_alive(&kinds, Instant::now()));
    }
}
