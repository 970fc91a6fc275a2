//! Keeps the *dns alive* clock going for as long as the server really answers.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use tokio::{
    net::UdpSocket,
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{clock::Clock, state::State};

/// How often the clock is set. It is stale after [`signpost_common::dns::DNS_ALIVE_FOR`].
const TICK: Duration = Duration::from_millis(200);
/// The server answers itself faster than this, or it is not well.
const PATIENCE: Duration = Duration::from_millis(200);

/// Asks the server at `server` its own name, and sets the clock whenever it answers and its zone is complete. Stops
/// the clock at `stop`.
///
/// # Errors
/// Where no socket can be made.
pub(super) async fn keep(
    server: SocketAddr,
    state: Arc<State>,
    probe: Arc<AtomicU16>,
    clocks: watch::Receiver<Option<Arc<Clock>>>,
    stop: CancellationToken,
) -> io::Result<()> {
    let server = reachable(server);
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    probe.store(socket.local_addr()?.port(), Ordering::Relaxed);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut answered = true;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => {
                if let Some(clock) = clocks.borrow().as_ref() {
                    clock.stop();
                }
                return Ok(());
            }
        }
        let domain = state.read().zone.config().domain.to_string();
        let answers = matches!(timeout(PATIENCE, ask(&socket, &domain)).await, Ok(Ok(())));
        if answers != answered {
            answered = answers;
            if answers {
                tracing::info!("the server answers itself again");
            } else {
                tracing::warn!(%server, "the server does not answer itself; the node's questions go elsewhere");
            }
        }
        let clock = clocks.borrow().clone();
        if let Some(clock) = clock
            && answers
            && state.is_synced()
            && !stop.is_cancelled()
        {
            clock.tick();
        }
    }
}

/// Takes over the map that came from the agent; a map that cannot be mapped leaves the clock stopped.
pub(super) fn take_over(fd: OwnedFd, clocks: &watch::Sender<Option<Arc<Clock>>>) {
    match Clock::new(fd) {
        Ok(clock) => {
            clocks.send_replace(Some(Arc::new(clock)));
        }
        Err(error) => {
            tracing::warn!(%error, "the agent's clock cannot be mapped; the node's questions go to any DNS server");
        }
    }
}

async fn ask(socket: &UdpSocket, domain: &str) -> io::Result<()> {
    let mut message = Message::query();
    let id = rand::random();
    message.metadata.id = id;
    let name = Name::from_ascii(domain).map_err(io::Error::other)?;
    message.add_query(Query::query(name, RecordType::SOA));
    let bytes = message.to_vec().map_err(io::Error::other)?;
    socket.send(&bytes).await?;
    let mut answer = [0; 512];
    loop {
        let length = socket.recv(&mut answer).await?;
        // An answer that came too late is for an earlier question.
        if answer[..length].starts_with(&id.to_be_bytes()) {
            return Ok(());
        }
    }
}

/// A socket that is bound to any address is asked on the loopback.
fn reachable(mut server: SocketAddr) -> SocketAddr {
    if server.ip().is_unspecified() {
        server.set_ip(match server {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    server
}
