//! What is told of answers while somebody watches.

use tokio::{
    io::AsyncWriteExt as _,
    net::{UnixStream, unix::OwnedWriteHalf},
};

use super::*;
use crate::feed::{
    self, Line,
    cached::Said,
    logged::{By, Logged},
    wire::{Reader, encode},
};

struct Watcher {
    reader: Reader,
    _write: OwnedWriteHalf,
}

impl Watcher {
    /// Who is told of the answers from now on.
    async fn of(bench: &Bench) -> Self {
        let socket = bench.folder.path().join(feed::SOCKET);
        let (read, mut write) = UnixStream::connect(socket).await.unwrap().into_split();
        write.write_all(&encode(&Said::Watch)).await.unwrap();
        let mut this = Self {
            reader: Reader::new(read),
            _write: write,
        };
        // Until the server knows of it.
        loop {
            bench
                .ask("dns-version.cluster.local.", RecordType::TXT)
                .await;
            if timeout(Duration::from_millis(20), this.next())
                .await
                .is_ok()
            {
                return this;
            }
        }
    }

    async fn next(&mut self) -> Logged {
        loop {
            if let Line::Logged(logged) = self.reader.line().await.unwrap().unwrap() {
                return logged;
            }
        }
    }

    /// The next answer about a name.
    async fn about(&mut self, name: &str) -> Logged {
        let wait = async {
            loop {
                let logged = self.next().await;
                if logged.name.to_string() == name {
                    return logged;
                }
            }
        };
        timeout(Duration::from_secs(5), wait).await.unwrap()
    }
}

#[tokio::test]
async fn each_answer_is_told_with_where_it_comes_from() {
    let bench = Bench::new(&[]).await;
    let mut watcher = Watcher::of(&bench).await;
    for (name, by) in [
        ("Ent.dev.svc.cluster.local.", By::Zone),
        ("none.dev.svc.cluster.local.", By::Zone),
        ("www.example.com.", By::Upstream),
        ("www.example.com.", By::Cache),
        ("ext.dev.svc.cluster.local.", By::Cache),
        ("none.example.com.", By::Upstream),
    ] {
        let answer = bench.ask(name, RecordType::A).await;
        let plain = name.trim_end_matches('.').to_lowercase();
        let logged = watcher.about(&plain).await;
        assert!(logged.client.is_loopback() && logged.port > 0 && !logged.tcp);
        assert_eq!((logged.qtype, logged.by), (1, by), "{name}");
        assert_eq!(logged.code, u16::from(answer.metadata.response_code));
        assert_eq!(usize::from(logged.records), answer.answers.len());
        assert!(logged.at > 0 && logged.took > 0);
    }
    bench
        .tcp(&question("ent.dev.svc.cluster.local.", RecordType::A))
        .await;
    assert!(watcher.about("ent.dev.svc.cluster.local").await.tcp);
}
