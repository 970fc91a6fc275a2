//! An API server of lists that are ready as text, for machines whose processor is emulated: the real one would take most
//! of it, and not always as much. It speaks JSON, streams lists and what changes in them, knows one field selector, and
//! takes what is posted without a look. It defaults and checks nothing.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use anyhow::Result;
use serde_json::{Value, json};

use crate::lab::Node;

/// Clients take a watch that says nothing for longer for a dead one.
const BOOKMARK: Duration = Duration::from_secs(30);

/// The server. It ends with the process.
#[derive(Debug)]
pub struct Lists {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    /// By plural.
    kinds: BTreeMap<String, Kind>,
    watchers: Vec<Watcher>,
    version: u64,
}

#[derive(Debug)]
struct Watcher {
    plural: String,
    /// The only object that it wants to hear of.
    name: Option<String>,
    events: Sender<String>,
}

#[derive(Debug)]
struct Kind {
    api_version: String,
    kind: String,
    items: BTreeMap<String, String>,
}

/// What a client asks.
struct Request {
    method: String,
    path: String,
    query: String,
    body: Vec<u8>,
}

impl Request {
    /// The only object that it is about: `fieldSelector=metadata.name=NAME`.
    fn name(&self) -> Option<&str> {
        let mut parameters = self.query.split('&');
        let selector = parameters.find_map(|p| p.strip_prefix("fieldSelector="))?;
        let name = selector.strip_prefix("metadata.name")?;
        name.strip_prefix('=').or_else(|| name.strip_prefix("%3D"))
    }
}

impl Lists {
    /// One with lists by the plural of their kind. It has no other kinds than these.
    ///
    /// # Errors
    /// Where an object has no text.
    pub fn new(lists: Vec<(&str, Vec<Value>)>) -> Result<Self> {
        let mut shared = Shared {
            kinds: BTreeMap::new(),
            watchers: Vec::new(),
            version: 1,
        };
        for (plural, objects) in lists {
            for object in objects {
                shared.put(plural, object)?;
            }
        }
        Ok(Self {
            shared: Arc::new(Mutex::new(shared)),
        })
    }

    /// Listens on a node's loopback interface; returns the kubeconfig that says where, in the node's folder.
    ///
    /// # Errors
    /// Where the node's network or folder cannot be used.
    pub fn listen(&self, node: &Node) -> Result<PathBuf> {
        let listener = node
            .namespace()
            .run(|| TcpListener::bind("127.0.0.1:0"))??;
        let address = listener.local_addr()?;
        let served = Arc::clone(&self.shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&served);
                // Clients go without a word.
                thread::spawn(move || drop(serve(stream, &shared)));
            }
        });
        let path = node.folder().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "it", "user": {}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        });
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// Takes in an object, which may be there already, and tells all who watch.
    ///
    /// # Errors
    /// Where it has no text.
    pub fn put(&self, plural: &str, object: Value) -> Result<()> {
        let mut shared = lock(&self.shared);
        let put = shared.put(plural, object)?;
        let event = if put.is_new { "ADDED" } else { "MODIFIED" };
        shared.tell(plural, &put.name, event, &put.text);
        Ok(())
    }

    /// Removes an object, and tells all who watch.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        let mut shared = lock(&self.shared);
        let kind = shared.kinds.get_mut(plural);
        let Some(text) = kind.and_then(|kind| kind.items.remove(&format!("{namespace}/{name}")))
        else {
            return;
        };
        shared.version += 1;
        shared.tell(plural, name, "DELETED", &text);
    }
}

/// What came of taking an object in.
struct Put {
    is_new: bool,
    name: String,
    text: String,
}

impl Shared {
    fn put(&mut self, plural: &str, mut object: Value) -> Result<Put> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        let name = text(&metadata["name"]);
        let path = format!("{}/{name}", text(&metadata["namespace"]));
        object["metadata"]["uid"] = format!("{plural}:{path}").into();
        let kind = self.kinds.entry(plural.to_owned()).or_insert_with(|| Kind {
            api_version: text(&object["apiVersion"]),
            kind: text(&object["kind"]),
            items: BTreeMap::new(),
        });
        let text = serde_json::to_string(&object)?;
        let is_new = kind.items.insert(path, text.clone()).is_none();
        Ok(Put { is_new, name, text })
    }

    fn tell(&mut self, plural: &str, name: &str, kind: &str, text: &str) {
        let event = format!("{{\"type\":\"{kind}\",\"object\":{text}}}\n");
        self.watchers.retain(|watcher| {
            let wants = watcher.name.as_ref().is_none_or(|only| only == name);
            watcher.plural != plural || !wants || watcher.events.send(event.clone()).is_ok()
        });
    }

    fn list(&self, plural: &str, name: Option<&str>) -> Option<String> {
        let kind = self.kinds.get(plural)?;
        let items: Vec<&str> = kind.named(name).collect();
        Some(format!(
            "{{\"apiVersion\":\"{}\",\"kind\":\"{}List\",\"metadata\":{{\"resourceVersion\":\"{}\"}},\"items\":[{}]}}",
            kind.api_version,
            kind.kind,
            self.version,
            items.join(",")
        ))
    }

    /// What a new watch begins with, and where it goes on.
    fn watch(
        &mut self,
        plural: &str,
        name: Option<&str>,
        with_list: bool,
    ) -> Option<(String, Receiver<String>)> {
        let kind = self.kinds.get(plural)?;
        let mut first = String::new();
        if with_list {
            for item in kind.named(name) {
                first.push_str(&format!("{{\"type\":\"ADDED\",\"object\":{item}}}\n"));
            }
            first.push_str(&kind.bookmark(self.version, true));
        }
        let (events, receiver) = mpsc::channel();
        self.watchers.push(Watcher {
            plural: plural.to_owned(),
            name: name.map(str::to_owned),
            events,
        });
        Some((first, receiver))
    }

    /// What says that a watch is alive.
    fn bookmark(&self, plural: &str) -> String {
        let kind = self.kinds.get(plural);
        kind.map_or_else(String::new, |kind| kind.bookmark(self.version, false))
    }
}

impl Kind {
    /// The objects, or the one of this name.
    fn named(&self, name: Option<&str>) -> impl Iterator<Item = &str> {
        let items = self.items.iter();
        items
            .filter(move |(path, _)| name.is_none_or(|name| path.rsplit('/').next() == Some(name)))
            .map(|(_, text)| text.as_str())
    }

    fn bookmark(&self, version: u64, ends_list: bool) -> String {
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if ends_list {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let event = json!({"type": "BOOKMARK", "object": {
            "apiVersion": self.api_version, "kind": self.kind, "metadata": metadata,
        }});
        format!("{event}\n")
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers the requests of one connection.
fn serve(mut stream: TcpStream, shared: &Mutex<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = read(&mut reader)? {
        let mut segments = request.path.rsplit('/');
        let (last, before) = (
            segments.next().unwrap_or_default(),
            segments.next().unwrap_or_default(),
        );
        if request.method != "GET" {
            answer(&mut stream, "201 Created", &request.body)?;
        } else if request.query.split('&').any(|p| p.starts_with("watch=")) {
            let with_list = request.query.contains("sendInitialEvents=true");
            let watch = lock(shared).watch(last, request.name(), with_list);
            if let Some((first, events)) = watch {
                let bookmark = || lock(shared).bookmark(last);
                return follow(&mut stream, first, &events, bookmark);
            }
            answer(&mut stream, "404 Not Found", &unknown())?;
        } else {
            let found = {
                let shared = lock(shared);
                shared.list(last, request.name()).or_else(|| {
                    let items = &shared.kinds.get(before)?.items;
                    items.get(&format!("/{last}")).cloned()
                })
            };
            match found {
                Some(text) => answer(&mut stream, "200 OK", text.as_bytes())?,
                None => answer(&mut stream, "404 Not Found", &unknown())?,
            }
        }
    }
    Ok(())
}

fn unknown() -> Vec<u8> {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404,
    });
    status.to_string().into_bytes()
}

fn answer(stream: &mut TcpStream, status: &str, body: &[u8]) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat())
}

/// Passes events on until the client or the server has gone.
fn follow(
    stream: &mut TcpStream,
    first: String,
    events: &Receiver<String>,
    bookmark: impl Fn() -> String,
) -> io::Result<()> {
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
    )?;
    let mut next = first;
    loop {
        if !next.is_empty() {
            stream.write_all(format!("{:x}\r\n{next}\r\n", next.len()).as_bytes())?;
        }
        next = match events.recv_timeout(BOOKMARK) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => bookmark(),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
    }
}

/// The next request; `None` where the client has gone.
fn read(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Request {
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        body,
    }))
}
