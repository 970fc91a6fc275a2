//! The agent's Unix socket: what `signpost dns` learns the zone from, so that a node watches the API server once.
//!
//! A client gets all objects at once, reduced to what names are made of, and then the changes. One that does not keep up
//! is dropped, and comes back for a new snapshot: nothing here ever waits for a client. The objects are those of the
//! registry, which shares them; they are put into the form in which they are sent for each client.

pub mod cached;
mod compared;
pub mod logged;
mod server;
pub mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::mpsc;

use cached::{Asked, Cached, Keeper};
use logged::Logged;

use crate::{
    model::{EndpointSlice, Event, Kind, Labels, Namespace, Object, ObjectName, Pod, Service},
    zone::ZoneConfig,
};

pub use server::serve;
pub use wire::{Hello, Line};

/// Name of the socket in the agent's run folder.
pub const SOCKET: &str = "agent.sock";

/// Lines that wait for a client before it is dropped: half a minute of a cluster that rolls everything out anew.
const QUEUE: usize = 16_384;

/// Answers that wait for who watches them.
const LOGGED: usize = 4096;

/// The kinds of object that names are made of.
pub const KINDS: [Kind; 3] = [Kind::Namespace, Kind::Service, Kind::EndpointSlice];
/// Those that are handed on: Pods too, where the source says something of them.
const HANDED: [Kind; 4] = [
    Kind::Namespace,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::Pod,
];

/// The agent's end: hands on what its source says. Cheap to clone; calls take microseconds and never block on clients.
#[derive(Clone)]
pub struct Feed {
    state: Arc<Mutex<State>>,
    dns_alive: Option<Arc<OwnedFd>>,
    taken: Option<Arc<Mutex<Taken>>>,
    /// The user, beside root, whose processes are believed.
    user: u32,
    /// Who is told of servers that go by another configuration.
    problems: Option<mpsc::Sender<Event>>,
}

/// What DNS servers have handed over. One of them counts: the one that said last that it begins.
#[derive(Debug)]
struct Taken {
    keeper: Box<dyn Keeper>,
    session: Option<u64>,
}

#[derive(Debug)]
struct State {
    hello: Hello,
    in_sync: bool,
    objects: BTreeMap<(Kind, ObjectName), Known>,
    /// Lists that have begun: what was not named since.
    unnamed: BTreeMap<Kind, BTreeSet<ObjectName>>,
    complete: BTreeSet<Kind>,
    clients: Vec<mpsc::Sender<Bytes>>,
    watchers: Vec<Watcher>,
    /// What clients were told of watchers.
    watched: bool,
    /// How many clients go by another configuration.
    differing: usize,
}

/// Who watches what is answered.
#[derive(Debug)]
struct Watcher {
    lines: mpsc::Sender<Bytes>,
    /// How many answers it did not get.
    lost: u64,
}

/// Watches what is answered, until it is dropped.
struct Watching {
    feed: Feed,
    lines: mpsc::Receiver<Bytes>,
}

/// An object that names are made of.
#[derive(Clone, Debug)]
enum Known {
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Namespace(Labels),
    Pod(Arc<Pod>),
}

/// What a new client gets: all there is, then the changes.
struct Subscription {
    hello: Line,
    snapshot: Vec<Line>,
    changes: mpsc::Receiver<Bytes>,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("dns_alive", &self.dns_alive)
            .finish_non_exhaustive()
    }
}

impl Feed {
    /// A feed without objects. `dns_alive` is the map of that name, where the dataplane has one.
    pub fn new(hello: Hello, dns_alive: Option<OwnedFd>) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                hello,
                in_sync: false,
                objects: BTreeMap::new(),
                unnamed: BTreeMap::new(),
                complete: BTreeSet::new(),
                clients: Vec::new(),
                watchers: Vec::new(),
                watched: false,
                differing: 0,
            })),
            dns_alive: dns_alive.map(Arc::new),
            taken: None,
            user: 0,
            problems: None,
        }
    }

    /// As it is, and believes DNS servers that run as this user as it does those of root.
    #[must_use]
    pub fn believing(self, user: u32) -> Self {
        Self { user, ..self }
    }

    /// As it is, and takes answers from DNS servers that it believes.
    #[must_use]
    pub fn taking(self, keeper: Box<dyn Keeper>) -> Self {
        let taken = Taken {
            keeper,
            session: None,
        };
        Self {
            taken: Some(Arc::new(Mutex::new(taken))),
            ..self
        }
    }

    /// As it is, and tells of DNS servers that go by another configuration of the zone.
    #[must_use]
    pub fn telling(self, problems: mpsc::Sender<Event>) -> Self {
        Self {
            problems: Some(problems),
            ..self
        }
    }

    /// Whether a DNS server goes by the agent's configuration of the zone.
    fn goes_by(&self, options: u64) -> bool {
        let own = self.lock().hello.options;
        own.is_none_or(|own| own == options)
    }

    /// A DNS server began or ceased to go by another configuration.
    fn differs(&self, differs: bool) {
        let mut state = self.lock();
        let before = state.differing;
        state.differing = if differs {
            before + 1
        } else {
            before.saturating_sub(1)
        };
        let news = (before == 0) != (state.differing == 0);
        drop(state);
        if news && let Some(problems) = self.problems.clone() {
            tokio::spawn(async move {
                // Nobody listens any more when the agent ends.
                let _ = problems.send(compared::event(differs)).await;
            });
        }
    }

    /// Hands an event on. What names do not depend on is left out.
    pub fn event(&self, event: &Event) {
        self.lock().event(event);
    }

    /// Hands on whether the source is in contact with what it reads.
    pub fn in_sync(&self, in_sync: bool) {
        let mut state = self.lock();
        if state.in_sync != in_sync {
            state.in_sync = in_sync;
            state.send(&Line::InSync(in_sync).encode());
        }
    }

    /// Hands on another configuration of the zone.
    pub fn hello(&self, hello: Hello) {
        let mut state = self.lock();
        if state.hello != hello {
            state.hello = hello;
            let line = state.hello().encode();
            state.send(&line);
        }
    }

    /// Takes over another configuration of the zone for what DNS servers hand over.
    pub fn zone(&self, zone: &ZoneConfig) {
        if let Some(mut taken) = self.taken()
            && let Err(error) = taken.keeper.configure(zone)
        {
            tracing::error!(
                "answers from before another configuration may be given until they run out: {error:#}"
            );
        }
    }

    /// How many clients listen.
    pub fn clients(&self) -> usize {
        let mut state = self.lock();
        state.clients.retain(|client| !client.is_closed());
        state.clients.len()
    }

    fn subscribe(&self) -> Subscription {
        let (sender, changes) = mpsc::channel(QUEUE);
        let mut state = self.lock();
        state.clients.push(sender);
        Subscription {
            hello: state.hello(),
            snapshot: state.snapshot(),
            changes,
        }
    }

    /// Watches what DNS servers answer: they tell of it from now on.
    fn watch(&self) -> Watching {
        let (lines, received) = mpsc::channel(LOGGED);
        let mut state = self.lock();
        state.watchers.push(Watcher { lines, lost: 0 });
        state.count_watchers();
        drop(state);
        Watching {
            feed: self.clone(),
            lines: received,
        }
    }

    /// A DNS server has answered.
    fn logged(&self, logged: &Logged) {
        let mut state = self.lock();
        for watcher in &mut state.watchers {
            let lost = watcher.lost + logged.lost;
            let line = Line::Logged(Logged {
                lost,
                ..logged.clone()
            });
            watcher.lost = match watcher.lines.try_send(line.encode()) {
                Ok(()) => 0,
                Err(_) => lost + 1,
            };
        }
    }

    fn taken(&self) -> Option<MutexGuard<'_, Taken>> {
        let taken = self.taken.as_ref()?;
        Some(taken.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// A DNS server says under which number it answers. What was handed over under another one counts no more.
    fn begin(&mut self, session: u64) {
        if self.session == Some(session) {
            return;
        }
        // Nothing is taken where what is there cannot be forgotten.
        self.session = None;
        match self.keeper.flush() {
            Ok(()) => self.session = Some(session),
            Err(error) => {
                tracing::error!(
                    "old answers of a DNS server may be given until they run out: {error:#}"
                );
            }
        }
    }

    fn keep(&mut self, session: u64, cached: &Cached) {
        if self.session != Some(session) {
            return;
        }
        if let Err(error) = self.keeper.keep(cached) {
            let name = &cached.question.name;
            tracing::debug!(%name, "an answer is not kept for the kernel: {error:#}");
        }
    }

    fn asked(&mut self, session: u64) -> Vec<Asked> {
        if self.session == Some(session) {
            self.keeper.asked()
        } else {
            Vec::new()
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.lines.close();
        self.feed.lock().count_watchers();
    }
}

impl State {
    fn hello(&self) -> Line {
        Line::Hello(Hello {
            watched: self.watched,
            ..self.hello.clone()
        })
    }

    /// Tells clients when the first one comes to watch and when the last one goes.
    fn count_watchers(&mut self) {
        self.watchers.retain(|watcher| !watcher.lines.is_closed());
        let watched = !self.watchers.is_empty();
        if self.watched != watched {
            self.watched = watched;
            let line = self.hello().encode();
            self.send(&line);
        }
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Begin(kind) if HANDED.contains(kind) => {
                let known = self.objects.keys().filter(|(k, _)| k == kind);
                let known = known.map(|(_, name)| name.clone()).collect();
                self.unnamed.insert(*kind, known);
            }
            Event::Apply(object, _) if HANDED.contains(&object.kind()) => {
                let (kind, name) = (object.kind(), object.name().clone());
                if let Some(unnamed) = self.unnamed.get_mut(&kind) {
                    unnamed.remove(&name);
                }
                let Some(known) = Known::of(object) else {
                    return;
                };
                let before = self.objects.insert((kind, name), known);
                if self.clients.is_empty() {
                    return;
                }
                let before = before.map(|known| reduced(&known.object(object.name())));
                let now = reduced(object);
                if before.as_ref() != Some(&now) {
                    self.send(&apply(now).encode());
                }
            }
            Event::Delete(kind, name) => self.delete(*kind, name.clone()),
            Event::End(kind) if HANDED.contains(kind) => {
                for name in self.unnamed.remove(kind).unwrap_or_default() {
                    self.delete(*kind, name);
                }
                if self.complete.insert(*kind) {
                    self.send(&Line::Event(Event::End(*kind)).encode());
                }
            }
            _ => {}
        }
    }

    fn delete(&mut self, kind: Kind, name: ObjectName) {
        let key = (kind, name);
        if self.objects.remove(&key).is_some() {
            self.send(&Line::Event(Event::Delete(key.0, key.1)).encode());
        }
    }

    fn snapshot(&self) -> Vec<Line> {
        let mut lines = Vec::with_capacity(self.objects.len() + 2 * HANDED.len() + 1);
        for kind in HANDED {
            // A server of before there were Pods does not know the kind.
            let listed = self.complete.contains(&kind) || self.unnamed.contains_key(&kind);
            if kind == Kind::Pod && !listed {
                continue;
            }
            lines.push(Line::Event(Event::Begin(kind)));
            let objects = self.objects.iter().filter(|((k, _), _)| *k == kind);
            lines.extend(objects.map(|((_, name), known)| apply(known.object(name))));
            // A list that the agent has not seen the end of does not end here either.
            if self.complete.contains(&kind) {
                lines.push(Line::Event(Event::End(kind)));
            }
        }
        lines.push(Line::InSync(self.in_sync));
        lines
    }

    fn send(&mut self, line: &Bytes) {
        self.clients
            .retain(|client| match client.try_send(line.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Closed(_)) => false,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    tracing::warn!("a DNS server does not read from the feed and is dropped");
                    false
                }
            });
    }
}

impl Known {
    fn of(object: &Object) -> Option<Self> {
        match object {
            Object::Service(service) => Some(Self::Service(service.clone())),
            Object::EndpointSlice(slice) => Some(Self::EndpointSlice(slice.clone())),
            Object::Namespace(namespace) => Some(Self::Namespace(namespace.labels.clone())),
            Object::Pod(pod) => Some(Self::Pod(pod.clone())),
            Object::Node(_) | Object::ServiceCidr(_) => None,
        }
    }

    fn object(&self, name: &ObjectName) -> Object {
        match self {
            Self::Service(service) => Object::Service(service.clone()),
            Self::EndpointSlice(slice) => Object::EndpointSlice(slice.clone()),
            Self::Namespace(labels) => Object::Namespace(Namespace {
                name: name.clone(),
                labels: labels.clone(),
            }),
            Self::Pod(pod) => Object::Pod(pod.clone()),
        }
    }
}

const fn apply(object: Object) -> Line {
    Line::Event(Event::Apply(object, Vec::new()))
}

/// A line as it is sent.
fn encoded(line: &Line) -> Bytes {
    match line {
        Line::Event(Event::Apply(object, _)) => apply(reduced(object)).encode(),
        line => line.encode(),
    }
}

/// Without what no name depends on, so that a change of that is no change.
fn reduced(object: &Object) -> Object {
    let mut object = object.clone();
    if let Object::EndpointSlice(slice) = &mut object {
        let slice = Arc::make_mut(slice);
        slice.triggered = None;
        slice.endpoints.retain(|e| e.ready);
        for endpoint in &mut slice.endpoints {
            endpoint.serving = true;
            endpoint.terminating = false;
            endpoint.node = None;
            endpoint.hints = None;
        }
    }
    object
}
