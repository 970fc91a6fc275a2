//! Another proxy on this node: which of its connections are alive, and whether this node is left to it.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep},
};

use crate::{
    admin::Metrics,
    dataplane::{
        Handover,
        ebpf::{
            drain,
            takeover::{self, Looked},
        },
    },
};

/// How often connection tracking is looked at while it has connections of another proxy,
const SOON: Duration = Duration::from_secs(5);
/// and while it has none.
const LATER: Duration = Duration::from_secs(60);
/// How often it is asked whether this node is to drain.
const TURN: Duration = Duration::from_secs(1);

/// How this node stands to another proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherProxy {
    /// Its connections that are alive.
    pub connections: u64,
    /// Its flows of UDP that are remembered.
    pub datagrams: u64,
    /// Why its connections are not known.
    pub trouble: Option<String>,
    /// New connections are left to it.
    pub drain: bool,
}

impl OtherProxy {
    /// What the programs are told.
    pub const fn handover(&self) -> Handover {
        Handover {
            takeover: self.connections > 0 || self.trouble.is_some(),
            drain: self.drain,
        }
    }
}

impl fmt::Display for OtherProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.trouble {
            Some(trouble) => write!(f, "not known: {trouble}")?,
            None if self.connections + self.datagrams == 0 => f.write_str("none")?,
            None => write!(
                f,
                "{} of its connections alive, {} flows of UDP remembered",
                self.connections, self.datagrams
            )?,
        }
        if self.drain {
            f.write_str("; new connections are left to it")?;
        }
        Ok(())
    }
}

/// Looks again and again, once the maps are filled; for as long as somebody listens. `before` is what the programs were
/// told at the start; `virtual_server` says how many connections IPVS still has.
///
/// # Errors
/// None: what goes wrong is said in what is found.
pub async fn follow(
    root: PathBuf,
    before: Handover,
    mut filled: watch::Receiver<bool>,
    virtual_server: watch::Receiver<u64>,
    metrics: Arc<Metrics>,
    found: watch::Sender<Option<OtherProxy>>,
) {
    if filled.wait_for(|filled| *filled).await.is_err() {
        return;
    }
    if let Err(error) = drain::take_back(&root) {
        tracing::warn!(?root, %error, "the next agent will leave new connections alone until it is in sync");
    }
    let mut takeover = before.takeover;
    let mut confirmed = false;
    while !found.is_closed() {
        let begun = Instant::now();
        let drain = drain::is_on(&root);
        let folder = root.clone();
        let looked = spawn_blocking(move || takeover::look(&folder)).await;
        let looked = looked.unwrap_or_else(|panic| Err(panic.into()));
        if let Ok(Looked { deleted, .. }) = looked {
            metrics.proxy().reconciled(begun.elapsed(), deleted);
        }
        let mut now = other_proxy(looked, drain);
        now.connections += *virtual_server.borrow();
        // A list of a table that changes all the time may lack one: only the second empty one counts.
        let ends = takeover && !now.handover().takeover;
        if ends && !std::mem::replace(&mut confirmed, true) {
            sleep(TURN).await;
            continue;
        }
        confirmed = false;
        say(takeover, &now);
        takeover = now.handover().takeover;
        let pause = if takeover || now.datagrams > 0 {
            SOON
        } else {
            LATER
        };
        metrics.other_proxy(&now);
        found.send_replace(Some(now));
        // Not a moment later than a change of this node's draining.
        while begun.elapsed() < pause && drain::is_on(&root) == drain && !found.is_closed() {
            sleep(TURN).await;
        }
    }
}

fn other_proxy(looked: anyhow::Result<Looked>, drain: bool) -> OtherProxy {
    match looked {
        Ok(Looked { alive, .. }) => OtherProxy {
            connections: alive.connections,
            datagrams: alive.datagrams,
            trouble: None,
            drain,
        },
        Err(error) => OtherProxy {
            trouble: Some(format!("{error:#}")),
            drain,
            ..OtherProxy::default()
        },
    }
}

fn say(before: bool, now: &OtherProxy) {
    let after = now.handover().takeover;
    if let Some(trouble) = &now.trouble {
        tracing::warn!(
            trouble,
            "whether another proxy's connections are alive is not known; connections that are not ours are left alone"
        );
    } else if after && !before {
        tracing::info!(
            connections = now.connections,
            "connections of another proxy are alive and left to it"
        );
    } else if before && !after {
        tracing::info!("no connection of another proxy is alive any more");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_are_alive_or_not_known_are_left_alone() {
        let none = OtherProxy::default();
        assert_eq!(none.handover(), Handover::default());
        assert_eq!(none.to_string(), "none");
        let datagrams = OtherProxy {
            datagrams: 2,
            ..OtherProxy::default()
        };
        assert!(!datagrams.handover().takeover);
        let alive = OtherProxy {
            connections: 3,
            drain: true,
            ..datagrams
        };
        assert!(alive.handover().takeover && alive.handover().drain);
        assert_eq!(
            alive.to_string(),
            "3 of its connections alive, 2 flows of UDP remembered; new connections are left to it"
        );
        let unknown = other_proxy(Err(anyhow::anyhow!("no")), false);
        assert!(unknown.handover().takeover);
        assert_eq!(unknown.to_string(), "not known: no");
    }
}
