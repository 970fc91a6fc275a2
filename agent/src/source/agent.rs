//! The node's agent as source: its socket hands on what it has learned.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt as _,
    net::{UnixStream, unix::OwnedWriteHalf},
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use crate::{
    feed::{
        Hello, Line,
        cached::{Asked, Cached, Said},
        logged::Logged,
        wire::{Reader, encode},
    },
    model::Event,
};

/// The longest wait before the socket is tried again.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// The first wait.
const MIN_WAIT: Duration = Duration::from_millis(50);
/// An agent that accepts a connection says hello at once.
const HELLO: Duration = Duration::from_secs(5);

/// What the agent says beside events.
#[derive(Debug)]
pub enum News {
    /// The zone's configuration.
    Hello(Hello),
    /// The map of the *dns alive* clock; a new agent may have a new one.
    Clock(OwnedFd),
    /// What the kernel gave of the answers that were handed over.
    Asked(Vec<Asked>),
}

/// What is handed over to the agent.
#[derive(Debug)]
pub struct Handed {
    /// The number under which answers hold ([`Said::Session`]).
    pub session: watch::Receiver<u64>,
    /// Answers, each with the number under which it holds.
    pub answers: mpsc::Receiver<(u64, Cached)>,
    /// Questions that were answered while somebody watches.
    pub logged: mpsc::Receiver<Logged>,
    /// What the server goes by ([`Said::Options`]), once the agent wants to know.
    pub options: watch::Receiver<Option<u64>>,
}

/// Follows an agent until nobody listens to `events`. An agent that is not there is waited for, for ever. What it
/// said stays true while it is away: its next snapshot replaces it, list by list, when the list is complete.
///
/// Events are in order with each other, and news with news; a hello comes before the first event of its agent.
///
/// # Errors
/// None at the moment; the type is that of all sources.
pub async fn run(
    socket: PathBuf,
    events: mpsc::Sender<Event>,
    in_sync: watch::Sender<bool>,
    news: mpsc::Sender<News>,
    mut handed: Handed,
) -> anyhow::Result<()> {
    let mut wait = MIN_WAIT;
    loop {
        let ended = tokio::select! {
            () = events.closed() => return Ok(()),
            ended = follow(&socket, &events, &in_sync, &news, &mut handed, &mut wait) => ended,
        };
        in_sync.send_replace(false);
        match ended {
            Ok(()) => tracing::info!(?socket, "the agent closed the feed"),
            Err(error) => tracing::debug!(?socket, %error, "the agent cannot be reached"),
        }
        tokio::select! {
            () = events.closed() => return Ok(()),
            () = sleep(wait) => {}
        }
        wait = (wait * 2).min(MAX_WAIT);
    }
}

async fn follow(
    socket: &Path,
    events: &mpsc::Sender<Event>,
    in_sync: &watch::Sender<bool>,
    news: &mpsc::Sender<News>,
    handed: &mut Handed,
    wait: &mut Duration,
) -> io::Result<()> {
    let (read, write) = UnixStream::connect(socket).await?.into_split();
    tokio::select! {
        ended = hear(socket, Reader::new(read), events, in_sync, news, wait) => ended,
        ended = say(write, handed) => ended,
    }
}

/// Says what is handed over, for as long as there is somebody who hands over.
async fn say(mut stream: OwnedWriteHalf, handed: &mut Handed) -> io::Result<()> {
    let Handed {
        session,
        answers,
        logged,
        options,
    } = handed;
    session.mark_changed();
    options.mark_changed();
    // Of the time when nobody listened.
    while logged.try_recv().is_ok() {}
    let mut open = true;
    while open {
        let line = tokio::select! {
            biased;
            changed = session.changed() => {
                open = changed.is_ok();
                encode(&Said::Session(*session.borrow_and_update()))
            }
            answer = answers.recv() => match answer {
                Some((of, answer)) if of == *session.borrow() => encode(&Said::Cached(answer)),
                Some(_) => continue,
                None => break,
            },
            Ok(()) = options.changed() => match *options.borrow_and_update() {
                Some(options) => encode(&Said::Options(options)),
                None => continue,
            },
            Some(logged) = logged.recv() => encode(&Said::Logged(logged)),
        };
        stream.write_all(&line).await?;
    }
    std::future::pending().await
}

async fn hear(
    socket: &Path,
    mut reader: Reader,
    events: &mpsc::Sender<Event>,
    in_sync: &watch::Sender<bool>,
    news: &mpsc::Sender<News>,
    wait: &mut Duration,
) -> io::Result<()> {
    let mut first = true;
    loop {
        let line = if first {
            let hello = timeout(HELLO, reader.line()).await;
            hello.map_err(|_| io::Error::other("the agent says nothing"))??
        } else {
            reader.line().await?
        };
        let Some(line) = line else { return Ok(()) };
        if let Some(fd) = reader.take_fd() {
            news.send(News::Clock(fd)).await.map_err(nobody)?;
        }
        match line {
            Line::Hello(hello) => {
                if first {
                    tracing::info!(?socket, domain = %hello.domain, "the agent is there");
                    *wait = MIN_WAIT;
                }
                news.send(News::Hello(hello)).await.map_err(nobody)?;
            }
            Line::Event(event) => events.send(event).await.map_err(nobody)?,
            Line::Asked(asked) => news.send(News::Asked(asked)).await.map_err(nobody)?,
            Line::InSync(value) => {
                in_sync.send_replace(value);
            }
            // That is for who watches.
            Line::Logged(_) => {}
        }
        first = false;
    }
}

fn nobody<T>(_: mpsc::error::SendError<T>) -> io::Error {
    io::Error::other("nobody listens")
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::AsFd as _,
        sync::{Arc, Mutex},
    };

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;
    use crate::{
        feed::{
            self, Feed,
            cached::{End, Keeper, Question},
        },
        model::{Kind, Object, ObjectName},
        registry::Registry,
        zone::ZoneConfig,
    };

    fn hello() -> Hello {
        Hello {
            domain: "cluster.local".parse().unwrap(),
            ttl: 30,
            dns: vec![[10, 96, 0, 10].into()],
            options: Some(1),
            takes_answers: false,
            watched: false,
        }
    }

    fn namespace(name: &str) -> Event {
        Event::Apply(Object::Namespace(ObjectName::new("", name).into()), vec![])
    }

    struct Client {
        session: watch::Sender<u64>,
        answers: mpsc::Sender<(u64, Cached)>,
        logged: mpsc::Sender<Logged>,
        options: watch::Sender<Option<u64>>,
        events: mpsc::Receiver<Event>,
        news: mpsc::Receiver<News>,
        in_sync: watch::Receiver<bool>,
        registry: Registry,
    }

    impl Client {
        fn of(socket: &Path) -> Self {
            let (events_in, events) = mpsc::channel(16);
            let (news_in, news) = mpsc::channel(16);
            let (in_sync_in, in_sync) = watch::channel(false);
            let (session, session_out) = watch::channel(1);
            let (answers, answers_out) = mpsc::channel(16);
            let (logged, logged_out) = mpsc::channel(16);
            let (options, options_out) = watch::channel(Some(1));
            let handed = Handed {
                session: session_out,
                answers: answers_out,
                logged: logged_out,
                options: options_out,
            };
            tokio::spawn(run(
                socket.to_owned(),
                events_in,
                in_sync_in,
                news_in,
                handed,
            ));
            Self {
                session,
                answers,
                logged,
                options,
                events,
                news,
                in_sync,
                registry: Registry::default(),
            }
        }

        async fn namespaces(&mut self, expected: &[&str]) {
            let wait = async {
                while self.registry.namespaces().map(|n| &**n).collect::<Vec<_>>() != expected {
                    let event = self.events.recv().await.unwrap();
                    self.registry.apply(event);
                }
            };
            timeout(Duration::from_secs(5), wait).await.unwrap();
        }
    }

    fn agent(folder: &Path, fd: Option<OwnedFd>) -> (Feed, tokio::task::JoinHandle<()>) {
        let feed = Feed::new(hello(), fd);
        let (served, socket) = (feed.clone(), folder.join(feed::SOCKET));
        let task = tokio::spawn(async move { feed::serve(served, &socket).await.unwrap() });
        (feed, task)
    }

    #[tokio::test]
    async fn a_client_gets_all_there_is_and_then_the_changes() {
        let folder = tempfile::tempdir().unwrap();
        let memory = memfd_create("clock", MFdFlags::empty()).unwrap();
        nix::unistd::ftruncate(memory.as_fd(), 4096).unwrap();
        let (feed, _task) = agent(folder.path(), Some(memory));
        feed.event(&Event::Begin(Kind::Namespace));
        feed.event(&namespace("dev"));
        let mut client = Client::of(&folder.path().join(feed::SOCKET));
        client.namespaces(&["dev"]).await;
        assert!(!client.registry.is_complete(&[Kind::Namespace]));
        feed.event(&namespace("prod"));
        feed.event(&Event::End(Kind::Namespace));
        feed.in_sync(true);
        client.namespaces(&["dev", "prod"]).await;
        client.in_sync.wait_for(|s| *s).await.unwrap();
        let Some(News::Clock(fd)) = client.news.recv().await else {
            panic!("no clock")
        };
        assert_eq!(nix::sys::stat::fstat(fd).unwrap().st_size, 4096);
        assert!(matches!(client.news.recv().await, Some(News::Hello(h)) if h == hello()));
        feed.event(&Event::Delete(Kind::Namespace, ObjectName::new("", "dev")));
        client.namespaces(&["prod"]).await;
        assert!(client.registry.is_complete(&[Kind::Namespace]));
        let moved = Hello {
            dns: vec![],
            ..hello()
        };
        feed.hello(moved.clone());
        assert!(matches!(client.news.recv().await, Some(News::Hello(h)) if h == moved));
    }

    #[tokio::test]
    async fn what_an_agent_said_stays_until_the_next_ones_list_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        // The client may be there first.
        let mut client = Client::of(&folder.path().join(feed::SOCKET));
        let (feed, task) = agent(folder.path(), None);
        feed.event(&Event::Begin(Kind::Namespace));
        feed.event(&namespace("dev"));
        feed.event(&namespace("gone"));
        feed.event(&Event::End(Kind::Namespace));
        feed.in_sync(true);
        client.namespaces(&["dev", "gone"]).await;
        client.in_sync.wait_for(|s| *s).await.unwrap();
        task.abort();
        client.in_sync.wait_for(|s| !*s).await.unwrap();

        let (feed, _task) = agent(folder.path(), None);
        feed.event(&Event::Begin(Kind::Namespace));
        feed.event(&namespace("new"));
        client.namespaces(&["dev", "gone", "new"]).await;
        feed.event(&namespace("dev"));
        feed.event(&Event::End(Kind::Namespace));
        client.namespaces(&["dev", "new"]).await;
    }

    #[tokio::test]
    async fn a_relist_of_the_agent_deletes_what_it_does_not_name() {
        let folder = tempfile::tempdir().unwrap();
        let (feed, _task) = agent(folder.path(), None);
        let mut client = Client::of(&folder.path().join(feed::SOCKET));
        for names in [["a", "b"], ["b", "c"]] {
            feed.event(&Event::Begin(Kind::Namespace));
            for name in names {
                feed.event(&namespace(name));
            }
            feed.event(&Event::End(Kind::Namespace));
            client.namespaces(&names).await;
        }
    }

    #[tokio::test]
    async fn of_several_servers_the_one_counts_that_began_last() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::default();
        let socket = folder.path().join(feed::SOCKET);
        let feed = Feed::new(hello(), None);
        let user = nix::unistd::getuid().as_raw();
        let feed = feed.taking(Box::new(kept.clone())).believing(user);
        let served = socket.clone();
        tokio::spawn(async move { feed::serve(feed, &served).await.unwrap() });
        let one = Client::of(&socket);
        let hand = async |client: &Client, session, name: &str| {
            let answer = (session, cached(name));
            client.answers.send(answer).await.unwrap();
        };
        hand(&one, 1, "a").await;
        kept.until(&["a"]).await;
        // Another configuration takes it back, and with it what still comes from before.
        one.session.send_replace(2);
        kept.until(&[]).await;
        hand(&one, 1, "b").await;
        hand(&one, 2, "c").await;
        kept.until(&["c"]).await;
        let other = Client::of(&socket);
        hand(&other, 1, "d").await;
        kept.until(&["d"]).await;
        hand(&one, 2, "e").await;
        hand(&other, 1, "f").await;
        kept.until(&["d", "f"]).await;
        one.session.send_replace(3);
        kept.until(&[]).await;
        hand(&one, 3, "g").await;
        kept.until(&["g"]).await;
    }

    #[tokio::test]
    async fn a_server_that_goes_by_another_configuration_is_told_of_until_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join(feed::SOCKET);
        let user = nix::unistd::getuid().as_raw();
        let (problems, mut told) = mpsc::channel(4);
        let feed = Feed::new(hello(), None).believing(user).telling(problems);
        let served = socket.clone();
        tokio::spawn(async move { feed::serve(feed, &served).await.unwrap() });
        let mut next = async || {
            // It has to last for some seconds.
            let told = timeout(Duration::from_secs(60), told.recv()).await;
            match told.unwrap().unwrap() {
                Event::Problems { problems, .. } => problems.len(),
                other => panic!("{other:?}"),
            }
        };
        let server = Client::of(&socket);
        server.options.send_replace(Some(2));
        assert_eq!(next().await, 1);
        server.options.send_replace(Some(1));
        assert_eq!(next().await, 0);
        server.options.send_replace(Some(3));
        assert_eq!(next().await, 1);
        drop(server);
        assert_eq!(next().await, 0);
    }

    #[tokio::test]
    async fn answers_are_told_to_who_watches_and_while_somebody_does() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join(feed::SOCKET);
        let user = nix::unistd::getuid().as_raw();
        let feed = Feed::new(hello(), None).believing(user);
        let served = socket.clone();
        tokio::spawn(async move { feed::serve(feed, &served).await.unwrap() });
        let mut server = Client::of(&socket);
        server.until_watched(false).await;
        let (read, mut write) = UnixStream::connect(&socket).await.unwrap().into_split();
        write.write_all(&encode(&Said::Watch)).await.unwrap();
        server.until_watched(true).await;
        let mut reader = Reader::new(read);
        for lost in [0, 7] {
            server.logged.send(logged(lost)).await.unwrap();
            let told = loop {
                if let Line::Logged(logged) = reader.line().await.unwrap().unwrap() {
                    break logged;
                }
            };
            assert_eq!(told, logged(lost));
        }
        drop((reader, write));
        server.until_watched(false).await;
    }

    impl Client {
        async fn until_watched(&mut self, watched: bool) {
            let wait = async {
                loop {
                    if let Some(News::Hello(hello)) = self.news.recv().await
                        && hello.watched == watched
                    {
                        return;
                    }
                }
            };
            timeout(Duration::from_secs(5), wait).await.unwrap();
        }
    }

    fn logged(lost: u64) -> Logged {
        Logged {
            at: 1,
            took: 2,
            client: [10, 0, 0, 1].into(),
            port: 3,
            tcp: true,
            name: "www.example.com".parse().unwrap(),
            qtype: 1,
            code: 0,
            records: 4,
            by: crate::feed::logged::By::Upstream,
            lost,
        }
    }

    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<String>>>);

    impl Kept {
        async fn until(&self, expected: &[&str]) {
            let wait = async {
                while *self.0.lock().unwrap() != expected {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            let waited = timeout(Duration::from_secs(5), wait).await;
            waited.unwrap_or_else(|_| panic!("{:?}", self.0.lock().unwrap()));
        }
    }

    impl Keeper for Kept {
        fn flush(&mut self) -> anyhow::Result<()> {
            self.0.lock().unwrap().clear();
            Ok(())
        }

        fn keep(&mut self, cached: &Cached) -> anyhow::Result<()> {
            let name = cached.question.name.to_string();
            self.0.lock().unwrap().push(name);
            Ok(())
        }

        fn asked(&mut self) -> Vec<Asked> {
            Vec::new()
        }

        fn configure(&mut self, _: &ZoneConfig) -> anyhow::Result<()> {
            self.flush()
        }
    }

    fn cached(name: &str) -> Cached {
        Cached {
            question: Question {
                name: name.parse().unwrap(),
                qtype: 1,
            },
            until: 1,
            due: 1,
            authoritative: false,
            recursion_available: true,
            authentic_data: false,
            chain: Vec::new(),
            end: End::Addresses(vec![[192, 0, 2, 1].into()]),
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_dropped_and_holds_up_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let (feed, _task) = agent(folder.path(), None);
        let socket = folder.path().join(feed::SOCKET);
        let mut good = Client::of(&socket);
        good.news.recv().await.unwrap();
        let _lazy = UnixStream::connect(&socket).await.unwrap();
        timeout(Duration::from_secs(5), async {
            while feed.clients() < 2 {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
        let counted = tokio::spawn(async move {
            let mut count = 0;
            while let Some(event) = good.events.recv().await {
                count += 1;
                if matches!(event, Event::Apply(object, _) if &*object.name().name == "n29999") {
                    break;
                }
            }
            count
        });
        for n in 0..30_000 {
            feed.event(&namespace(&format!("n{n}")));
            if n % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        assert!(
            timeout(Duration::from_secs(10), counted)
                .await
                .unwrap()
                .unwrap()
                >= 30_000
        );
        assert_eq!(feed.clients(), 1);
    }
}
