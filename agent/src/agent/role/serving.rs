//! The parts of the process: how they run and end.

use std::{io, net::SocketAddr, time::Duration};

use anyhow::{Context as _, anyhow};
use axum::Router;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tokio_util::sync::CancellationToken;

use crate::admin;

/// An address that is taken is tried again after so long.
const TAKEN: Duration = Duration::from_secs(2);

/// Ends when the process is told to.
pub(super) fn until_signalled() -> anyhow::Result<impl Future<Output = anyhow::Result<()>>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("told to end by SIGTERM"),
            _ = interrupt.recv() => tracing::info!("told to end by SIGINT"),
        }
        Ok(())
    })
}

/// A part that the agent cannot do without: that it ends is an error, however it ends.
pub(super) async fn part<E: Into<anyhow::Error>>(
    name: &'static str,
    work: impl Future<Output = Result<(), E>>,
) -> anyhow::Result<()> {
    match work.await {
        Ok(()) => Err(anyhow!("{name}: ended")),
        Err(error) => Err(error.into().context(name)),
    }
}

/// Serves routes from when the address is free: kube-proxy has the same ports by default, and goes only after the agent
/// has come.
pub(super) async fn serve_at(
    address: SocketAddr,
    flag: &'static str,
    routes: Router,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut said = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(
                        "{address} is taken, by another proxy perhaps; trying again, or change {flag}"
                    );
                }
                tokio::time::sleep(TAKEN).await;
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot listen on {address}; change {flag}"));
            }
        }
    };
    admin::serve(listener, routes, stop).await?;
    Ok(())
}

/// Runs a future on a thread of its own, where it may block.
pub(super) fn on_a_thread(
    work: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) -> anyhow::Result<oneshot::Receiver<anyhow::Result<()>>> {
    let (ended, wait) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("loop".to_owned())
        .spawn(move || {
            // Nobody waits any more when the process is about to end.
            let _ = ended.send(runtime.block_on(work));
        })?;
    Ok(wait)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn an_address_that_is_taken_is_served_once_it_is_free() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = serve_at(address, "--here", Router::new(), stop.clone());
        let serving = tokio::spawn(serving);
        tokio::task::yield_now().await;
        assert!(!serving.is_finished());
        drop(taken);
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.cancel();
        serving.await.unwrap().unwrap();
    }
}
