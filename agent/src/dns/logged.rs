//! Tells of answers while somebody watches (`signpost monitor dns`).

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::mpsc;

use super::{clock::monotonic, forward::From};
use crate::{
    feed::logged::{By, Logged},
    zone::Name,
};

/// Answers that wait for the agent.
const QUEUE: usize = 1024;

/// Whether somebody watches, and where it is told.
#[derive(Debug)]
pub(super) struct Watch {
    on: AtomicBool,
    logged: mpsc::Sender<Logged>,
    lost: AtomicU64,
}

/// A question that was answered.
#[derive(Debug)]
pub(super) struct Told<'a> {
    pub(super) client: (IpAddr, u16),
    pub(super) tcp: bool,
    pub(super) name: &'a Name,
    pub(super) qtype: u16,
    pub(super) code: u16,
    pub(super) records: usize,
    pub(super) by: By,
    pub(super) took: Duration,
}

impl Watch {
    /// What tells, and where it arrives.
    pub(super) fn new() -> (Self, mpsc::Receiver<Logged>) {
        let (logged, logged_out) = mpsc::channel(QUEUE);
        let this = Self {
            on: AtomicBool::new(false),
            logged,
            lost: AtomicU64::new(0),
        };
        (this, logged_out)
    }

    /// Whether somebody watches.
    pub(super) fn set(&self, on: bool) {
        if self.on.swap(on, Ordering::Relaxed) != on {
            self.lost.store(0, Ordering::Relaxed);
            tracing::info!(on, "answers are watched");
        }
    }

    /// Tells of an answer, where somebody watches.
    pub(super) fn tell(&self, told: &Told<'_>) {
        if !self.on.load(Ordering::Relaxed) {
            return;
        }
        let Some(now) = monotonic() else { return };
        let took = told.took.as_nanos() as u64;
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let logged = Logged {
            at: now.saturating_sub(took),
            took,
            client: told.client.0.to_canonical(),
            port: told.client.1,
            tcp: told.tcp,
            name: told.name.clone(),
            qtype: told.qtype,
            code: told.code,
            records: told.records as u16,
            by: told.by,
            lost,
        };
        if self.logged.try_send(logged).is_err() {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

/// Where the answer to a forwarded question comes from.
pub(super) const fn by(from: From) -> By {
    match from {
        From::Cache { .. } => By::Cache,
        From::Stale => By::Stale,
        From::Upstream => By::Upstream,
        From::Rejected | From::Nobody => By::Server,
    }
}
