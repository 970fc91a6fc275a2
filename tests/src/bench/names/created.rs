//! How long a new Service takes to have a name, counted from the moment that a watcher which has nothing to do with the
//! servers saw it.

use std::{
    net::UdpSocket,
    pin::pin,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::json;

use super::{
    CORE_DNS, SIGNPOST,
    rivals::{HEADLESS_ENDPOINTS, Rival, Rivals, SERVICES},
};
use crate::{
    bench::{
        figure::{Figure, Reach},
        progress::Progress,
        question::question,
        site::DNS,
        statistics::{Estimate, tail},
    },
    lab::Pod,
};

/// New Services with each of the servers.
const TRIES: usize = 300;
/// Between two questions.
const BREATH: Duration = Duration::from_micros(200);
const PATIENCE: Duration = Duration::from_secs(30);

/// When the watcher saw a Service.
struct Seen {
    name: String,
    at: Instant,
}

/// Measures it.
pub(super) fn run(rivals: &Rivals) -> Result<Vec<Figure>> {
    let progress = Progress::new("created", 2 * TRIES);
    let mut figures = Vec::new();
    for (who, rival, reach) in [
        (SIGNPOST, &rivals.signpost, Some(Reach::AtMost(10.0))),
        (CORE_DNS, &rivals.core_dns, None),
    ] {
        let samples = series(rivals, rival, who, &progress)?;
        for (part, measured, reach) in [
            ("median", Estimate::of(&samples), None),
            ("p99", tail(&samples), reach),
        ] {
            figures.push(Figure {
                suite: "names".to_owned(),
                what: format!(
                    "{SERVICES} Services, {HEADLESS_ENDPOINTS} headless endpoints: a new one to its name, {who}: {part}"
                ),
                unit: "ms".to_owned(),
                measured,
                against: None,
                reach,
                samples: samples.clone(),
            });
        }
    }
    Ok(figures)
}

fn series(rivals: &Rivals, rival: &Rival, who: &str, progress: &Progress) -> Result<Vec<f64>> {
    let (sender, seen) = mpsc::channel();
    let services: Api<Service> = Api::namespaced(rivals.objects.client.clone(), "default");
    let watching = rivals.objects.runtime().spawn(watch(services, sender));
    let mut took = Vec::new();
    for number in 0..TRIES {
        let name = format!("new-{}-{number}", who.to_lowercase());
        let asked = question(&format!("{name}.default.svc.cluster.local."), RecordType::A)?;
        let time = thread::scope(|scope| {
            let asking = scope.spawn(|| appears(&rival.client, &asked));
            let object = json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"namespace": "default", "name": name},
                "spec": {"ports": [{"name": "answers", "port": 80}]},
            });
            rivals.objects.create_services(vec![object])?;
            let at = loop {
                let event = seen
                    .recv_timeout(PATIENCE)
                    .context("the watcher sees nothing")?;
                if event.name == name {
                    break event.at;
                }
            };
            let appeared: Instant = asking
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                .with_context(|| format!("{who} does not know {name}"))?;
            // The server may well be told before the watcher.
            anyhow::Ok(appeared.saturating_duration_since(at))
        })?;
        took.push(time.as_secs_f64() * 1e3);
        progress.step();
    }
    watching.abort();
    Ok(took)
}

/// Asks until there is an answer; returns when that question was sent.
fn appears(client: &Pod, question: &[u8]) -> Result<Instant> {
    let begin = Instant::now();
    client.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((DNS, 53))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut buffer = [0; 4096];
        loop {
            let at = Instant::now();
            socket.send(question)?;
            let length = socket.recv(&mut buffer)?;
            let answer = Message::from_vec(&buffer[..length])?;
            if !answer.answers.is_empty() {
                return Ok(at);
            }
            ensure!(
                answer.metadata.response_code == ResponseCode::NXDomain,
                "{answer}"
            );
            ensure!(begin.elapsed() < PATIENCE, "it stays unknown");
            thread::sleep(BREATH);
        }
    })?
}

async fn watch(services: Api<Service>, seen: mpsc::Sender<Seen>) {
    let mut events = pin!(watcher(services, watcher::Config::default()).applied_objects());
    while let Some(event) = events.next().await {
        let at = Instant::now();
        let name = event.ok().and_then(|service| service.metadata.name);
        if let Some(name) = name
            && seen.send(Seen { name, at }).is_err()
        {
            return;
        }
    }
}
