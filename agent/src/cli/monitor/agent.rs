//! What the agent's socket says: answers of the DNS server, and the endpoints that tell who asks.

use std::{io, path::PathBuf, time::Duration};

use tokio::{io::AsyncWriteExt as _, net::UnixStream, sync::mpsc, time::sleep};

use crate::{
    feed::{
        Line,
        cached::Said,
        logged::Logged,
        wire::{Reader, encode},
    },
    model::Event,
};

/// How often an agent is looked for that is not there.
const AGAIN: Duration = Duration::from_secs(1);

/// What was heard.
#[derive(Debug)]
pub(super) enum News {
    /// An agent is there, which says everything from the beginning.
    There,
    /// An object changed.
    Event(Event),
    /// An answer of the DNS server.
    Logged(Logged),
    /// There is no agent, or not any more.
    Away(String),
}

/// Follows the agent until nobody listens.
pub(super) async fn follow(socket: PathBuf, news: mpsc::Sender<News>) {
    let mut away = false;
    loop {
        let ended = hear(&socket, &news, &mut away).await;
        if news.is_closed() {
            return;
        }
        // Once, not with every attempt.
        if !away {
            away = true;
            let why = ended.map_or_else(|error| error.to_string(), |()| "it went away".to_owned());
            if news.send(News::Away(why)).await.is_err() {
                return;
            }
        }
        sleep(AGAIN).await;
    }
}

async fn hear(socket: &PathBuf, news: &mpsc::Sender<News>, away: &mut bool) -> io::Result<()> {
    let nobody = |_| io::Error::other("nobody listens");
    let (read, mut write) = UnixStream::connect(socket).await?.into_split();
    write.write_all(&encode(&Said::Watch)).await?;
    let mut reader = Reader::new(read);
    let mut first = true;
    while let Some(line) = reader.line().await? {
        drop(reader.take_fd());
        if first {
            news.send(News::There).await.map_err(nobody)?;
            first = false;
        }
        match line {
            Line::Event(event) => news.send(News::Event(event)).await.map_err(nobody)?,
            Line::Logged(logged) => news.send(News::Logged(logged)).await.map_err(nobody)?,
            Line::Hello(hello) => *away &= !hello.watched,
            Line::InSync(_) | Line::Asked(_) => {}
        }
    }
    Ok(())
}
