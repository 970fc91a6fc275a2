//! The node's agent as source: its socket hands on what it has learned.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    net::UnixStream,
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use crate::{
    feed::{Hello, Line, wire::Reader},
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
) -> anyhow::Result<()> {
    let mut wait = MIN_WAIT;
    loop {
        let ended = tokio::select! {
            () = events.closed() => return Ok(()),
            ended = follow(&socket, &events, &in_sync, &news, &mut wait) => ended,
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
    wait: &mut Duration,
) -> io::Result<()> {
    let mut reader = Reader::new(UnixStream::connect(socket).await?);
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
            Line::InSync(value) => {
                in_sync.send_replace(value);
            }
        }
        first = false;
    }
}

fn nobody<T>(_: mpsc::error::SendError<T>) -> io::Error {
    io::Error::other("nobody listens")
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;
    use crate::{
        feed::{self, Feed},
        model::{Kind, Object, ObjectName},
        registry::Registry,
    };

    fn hello() -> Hello {
        Hello {
            domain: "cluster.local".parse().unwrap(),
            ttl: 30,
            dns: vec![[10, 96, 0, 10].into()],
        }
    }

    fn namespace(name: &str) -> Event {
        Event::Apply(Object::Namespace(ObjectName::new("", name)), vec![])
    }

    struct Client {
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
            tokio::spawn(run(socket.to_owned(), events_in, in_sync_in, news_in));
            Self {
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
