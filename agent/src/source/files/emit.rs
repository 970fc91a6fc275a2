//! Emits what changed from one state of the cluster to the next.

use tokio::sync::mpsc;

use super::cluster::Cluster;
use crate::model::{Event, Kind, ObjectName, Problem};

/// Emits everything where there is nothing before it, else what is different.
///
/// # Errors
/// Where nobody listens.
pub(super) async fn emit(
    before: Option<&Cluster>,
    now: &Cluster,
    events: &mpsc::Sender<Event>,
) -> Result<(), mpsc::error::SendError<Event>> {
    let nothing = Cluster::default();
    let old = before.unwrap_or(&nothing);
    // Before the objects: an object that was unusable says itself what is wrong with it now.
    for (kind, name) in old.problems.keys() {
        let key = (kind.clone(), name.clone());
        if !now.problems.contains_key(&key) {
            events.send(said(&key, Vec::new())).await?;
        }
    }
    for (kind, name) in old.objects.keys() {
        if !now.objects.contains_key(&(*kind, name.clone())) {
            events.send(Event::Delete(*kind, name.clone())).await?;
        }
    }
    for kind in Kind::ALL {
        if before.is_none() {
            events.send(Event::Begin(kind)).await?;
        }
        for (key, new) in now.objects.iter().filter(|((k, _), _)| *k == kind) {
            if old.objects.get(key) != Some(new) {
                let (known, problems) = new;
                let event = Event::Apply(known.object(), problems.clone());
                events.send(event).await?;
            }
        }
        problems(old, now, events, |k| *k == kind.to_string()).await?;
        if before.is_none() {
            events.send(Event::End(kind)).await?;
        }
    }
    let is_ours = |k: &String| Kind::ALL.iter().any(|kind| kind.to_string() == *k);
    problems(old, now, events, |k| !is_ours(k)).await
}

async fn problems(
    old: &Cluster,
    now: &Cluster,
    events: &mpsc::Sender<Event>,
    wanted: impl Fn(&String) -> bool,
) -> Result<(), mpsc::error::SendError<Event>> {
    for (of, problems) in now.problems.iter().filter(|((kind, _), _)| wanted(kind)) {
        if old.problems.get(of) != Some(problems) {
            events.send(said(of, problems.clone())).await?;
        }
    }
    Ok(())
}

fn said((kind, object): &(String, ObjectName), problems: Vec<Problem>) -> Event {
    Event::Problems {
        kind: kind.clone(),
        object: object.clone(),
        problems,
    }
}
