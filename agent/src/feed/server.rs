//! The feed's socket.

use std::{
    fs, io,
    os::{fd::AsRawFd as _, unix::fs::PermissionsExt as _},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::{
    io::AsyncWriteExt as _,
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::codec::{FramedRead, LinesCodec};

use super::{Feed, Line, Subscription, Watching, cached::Said, compared::Compared, encoded, wire};

/// A client that takes nothing for so long is dropped.
const PATIENCE: Duration = Duration::from_secs(30);
/// Lines written at once.
const BATCH: usize = 256;
/// The longest line of a client: an answer, with some names.
const LINE: usize = 64 << 10;
/// How often it is looked for answers that run out soon and are given often.
const LOOK: Duration = Duration::from_millis(250);

/// Serves a feed on a socket until the process ends. Whoever may enter the socket's folder may connect: the DNS
/// server has a user of its own.
///
/// # Errors
/// Where the socket cannot be made.
pub async fn serve(feed: Feed, socket: &Path) -> anyhow::Result<()> {
    let listener = bind(socket).with_context(|| {
        let path = socket.display();
        format!("the socket {path} for signpost dns cannot be made; see --run-folder")
    })?;
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let feed = feed.clone();
                    clients.spawn(async move {
                        tracing::info!("a DNS server listens to the feed");
                        let ended = client(&feed, stream).await;
                        tracing::info!(reason = ?ended.err(), "a DNS server left the feed");
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a DNS server cannot connect to the feed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

// The new socket takes the old one's place in one step: there is always one to connect to.
fn bind(socket: &Path) -> io::Result<UnixListener> {
    let mut new = socket.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    if let Err(error) = fs::remove_file(new)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let listener = UnixListener::bind(new)?;
    fs::set_permissions(new, fs::Permissions::from_mode(0o666))?;
    fs::rename(new, socket)?;
    Ok(listener)
}

async fn client(feed: &Feed, stream: UnixStream) -> io::Result<()> {
    let user = stream.peer_cred()?.uid();
    let believed = is_believed(feed, user);
    let mut watching: Option<Watching> = None;
    let Subscription {
        hello,
        snapshot,
        mut changes,
    } = feed.subscribe();
    let hello = encoded(&hello);
    let sent = match &feed.dns_alive {
        Some(fd) => wire::send_with_fd(&stream, &hello, fd.as_raw_fd()).await?,
        None => 0,
    };
    let (read, mut stream) = stream.into_split();
    write(&mut stream, &hello[sent..]).await?;
    for lines in snapshot.chunks(BATCH) {
        let lines: Vec<Bytes> = lines.iter().map(encoded).collect();
        write(&mut stream, &joined(&lines)).await?;
    }
    drop(snapshot);
    let mut lines = Vec::with_capacity(BATCH);
    let mut said = FramedRead::new(read, LinesCodec::new_with_max_length(LINE));
    let mut session = None;
    let mut going_by = GoingBy::new(feed);
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            count = changes.recv_many(&mut lines, BATCH) => {
                if count == 0 {
                    return Err(io::Error::other("it did not keep up"));
                }
                write(&mut stream, &joined(&lines)).await?;
                lines.clear();
            }
            line = said.next() => {
                let Some(line) = line else { return Ok(()) };
                let said = serde_json::from_str(&line.map_err(io::Error::other)?)?;
                match said {
                    Said::Watch if may_watch(user) => watching = Some(feed.watch()),
                    Said::Watch => return Err(io::ErrorKind::PermissionDenied.into()),
                    Said::Options(options) => going_by.options = Some(options).filter(|_| believed),
                    said if believed => take(feed, &mut session, said),
                    _ => {}
                }
            }
            Some(line) = next(&mut watching) => {
                lines.push(line);
                if let Some(watching) = &mut watching {
                    while lines.len() < BATCH && let Ok(line) = watching.lines.try_recv() {
                        lines.push(line);
                    }
                }
                write(&mut stream, &joined(&lines)).await?;
                lines.clear();
            }
            _ = look.tick(), if session.is_some() || going_by.options.is_some() => {
                going_by.look();
                let asked = session.zip(feed.taken()).map(|(session, mut taken)| taken.asked(session));
                if let Some(asked) = asked && !asked.is_empty() {
                    write(&mut stream, &Line::Asked(asked).encode()).await?;
                }
            }
        }
    }
}

/// What configuration a client goes by.
struct GoingBy<'a> {
    feed: &'a Feed,
    options: Option<u64>,
    compared: Compared,
}

impl<'a> GoingBy<'a> {
    fn new(feed: &'a Feed) -> Self {
        Self {
            feed,
            options: None,
            compared: Compared::default(),
        }
    }

    fn look(&mut self) {
        let same = self.options.is_none_or(|of| self.feed.goes_by(of));
        if let Some(differs) = self.compared.look(same, Instant::now()) {
            self.feed.differs(differs);
        }
    }
}

impl Drop for GoingBy<'_> {
    fn drop(&mut self) {
        if self.compared.differs() {
            self.feed.differs(false);
        }
    }
}

/// Whether what a client says is taken: answers that it hands over are what every pod of this node gets to hear.
fn is_believed(feed: &Feed, user: u32) -> bool {
    let believed = user == 0 || user == feed.user;
    if !believed && feed.taken.is_some() {
        tracing::warn!(
            user,
            "a DNS server of another user than --dns-user hands over no answers"
        );
    }
    believed
}

/// Whether a client may know what all pods ask: root, as for the maps, and whom the agent itself runs as.
fn may_watch(user: u32) -> bool {
    user == 0 || user == nix::unistd::getuid().as_raw()
}

/// The next answer for who watches.
async fn next(watching: &mut Option<Watching>) -> Option<Bytes> {
    match watching {
        Some(watching) => watching.lines.recv().await,
        None => std::future::pending().await,
    }
}

fn take(feed: &Feed, session: &mut Option<u64>, said: Said) {
    if let Said::Logged(logged) = &said {
        return feed.logged(logged);
    }
    let Some(mut taken) = feed.taken() else {
        return;
    };
    match (said, &session) {
        (Said::Session(number), _) => {
            *session = Some(number);
            taken.begin(number);
        }
        (Said::Cached(cached), Some(session)) => taken.keep(*session, &cached),
        (Said::Cached(_) | Said::Logged(_) | Said::Options(_) | Said::Watch, _) => {}
    }
}

async fn write(stream: &mut OwnedWriteHalf, bytes: &[u8]) -> io::Result<()> {
    timeout(PATIENCE, stream.write_all(bytes))
        .await
        .map_err(|_| io::Error::other("it does not read"))?
}

fn joined(lines: &[Bytes]) -> BytesMut {
    let mut all = BytesMut::with_capacity(lines.iter().map(Bytes::len).sum());
    for line in lines {
        all.extend_from_slice(line);
    }
    all
}
