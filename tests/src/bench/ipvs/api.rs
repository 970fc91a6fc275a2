//! An API server of lists that are ready as text, and of one EndpointSlice that changes: the real one would take most of
//! an emulated processor, and not always as much. It speaks JSON, streams lists, and takes what is posted without a look.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    thread,
};

use anyhow::Result;
use serde_json::{Value, json};

use crate::lab::Node;

/// The server, on a node's loopback interface. It ends with the process.
pub(super) struct Api {
    shared: Arc<Mutex<Shared>>,
    address: String,
}

struct Shared {
    kinds: BTreeMap<String, Kind>,
    watchers: Vec<(String, Sender<String>)>,
    version: u64,
}

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

impl Api {
    /// Starts it, with lists by the plural of their kind.
    pub(super) fn start(node: &Node, lists: Vec<(&str, Vec<Value>)>) -> Result<Self> {
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
        let shared = Arc::new(Mutex::new(shared));
        let listener = node
            .namespace()
            .run(|| TcpListener::bind("127.0.0.1:0"))??;
        let address = listener.local_addr()?.to_string();
        let served = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&served);
                // Clients go without a word.
                thread::spawn(move || drop(serve(stream, &shared)));
            }
        });
        Ok(Self { shared, address })
    }

    /// Writes how to reach it.
    pub(super) fn write_kubeconfig(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "it", "user": {}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        });
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// Changes an object, and tells all who watch.
    pub(super) fn change(&self, plural: &str, object: Value) -> Result<()> {
        let mut shared = lock(&self.shared);
        let text = shared.put(plural, object)?;
        let event = format!("{{\"type\":\"MODIFIED\",\"object\":{text}}}\n");
        shared
            .watchers
            .retain(|(of, watcher)| of != plural || watcher.send(event.clone()).is_ok());
        Ok(())
    }
}

impl Shared {
    /// Takes an object in; returns it as text.
    fn put(&mut self, plural: &str, mut object: Value) -> Result<String> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        let name = format!(
            "{}/{}",
            text(&metadata["namespace"]),
            text(&metadata["name"])
        );
        object["metadata"]["uid"] = format!("{plural}:{name}").into();
        let kind = self.kinds.entry(plural.to_owned()).or_insert_with(|| Kind {
            api_version: text(&object["apiVersion"]),
            kind: text(&object["kind"]),
            items: BTreeMap::new(),
        });
        let written = serde_json::to_string(&object)?;
        kind.items.insert(name, written.clone());
        Ok(written)
    }

    fn list(&self, plural: &str) -> Option<String> {
        let kind = self.kinds.get(plural)?;
        let items: Vec<&str> = kind.items.values().map(String::as_str).collect();
        Some(format!(
            "{{\"apiVersion\":\"{}\",\"kind\":\"{}List\",\"metadata\":{{\"resourceVersion\":\"{}\"}},\"items\":[{}]}}",
            kind.api_version,
            kind.kind,
            self.version,
            items.join(",")
        ))
    }

    /// What a new watch begins with, and where it goes on.
    fn watch(&mut self, plural: &str, with_list: bool) -> Option<(String, Receiver<String>)> {
        let kind = self.kinds.get(plural)?;
        let mut first = String::new();
        if with_list {
            for item in kind.items.values() {
                first.push_str(&format!("{{\"type\":\"ADDED\",\"object\":{item}}}\n"));
            }
            let end = json!({"type": "BOOKMARK", "object": {
                "apiVersion": kind.api_version, "kind": kind.kind,
                "metadata": {
                    "resourceVersion": self.version.to_string(),
                    "annotations": {"k8s.io/initial-events-end": "true"},
                },
            }});
            first.push_str(&format!("{end}\n"));
        }
        let (sender, events) = mpsc::channel();
        self.watchers.push((plural.to_owned(), sender));
        Some((first, events))
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
            let watch = lock(shared).watch(last, with_list);
            if let Some((first, events)) = watch {
                return follow(&mut stream, &first, &events);
            }
            answer(&mut stream, "404 Not Found", &unknown())?;
        } else {
            let found = {
                let shared = lock(shared);
                shared.list(last).or_else(|| {
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

fn follow(stream: &mut TcpStream, first: &str, events: &Receiver<String>) -> io::Result<()> {
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
    )?;
    let mut next = first.to_owned();
    loop {
        if !next.is_empty() {
            stream.write_all(format!("{:x}\r\n{next}\r\n", next.len()).as_bytes())?;
        }
        match events.recv() {
            Ok(event) => next = event,
            Err(_) => return Ok(()),
        }
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
