//! A way to the API server from outside of its network: a port, of the machine's loopback or in another laboratory,
//! whose connections go on to the server in its namespace.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread,
};

use anyhow::Result;
use tokio::{io::copy_bidirectional, net::TcpStream, sync::oneshot, task::JoinSet};

use crate::lab::namespace::Namespace;

/// The relay; it ends when this is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Relay {
    /// Listens on a free port of the machine's loopback for connections to `target` in that namespace.
    ///
    /// # Errors
    /// Where no port is free.
    pub fn start(namespace: &Arc<Namespace>, target: SocketAddr) -> Result<Self> {
        Self::with_listener(TcpListener::bind(("127.0.0.1", 0))?, namespace, target)
    }

    /// Passes connections of a listener, which may be in any namespace, on to `target` in that namespace.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn with_listener(
        listener: TcpListener,
        namespace: &Arc<Namespace>,
        target: SocketAddr,
    ) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let namespace = Arc::clone(namespace);
        let (end, ended) = oneshot::channel();
        // The listener belongs to the namespace that it was made in, and connections to the one of the thread.
        let thread = thread::Builder::new().name("relay".into()).spawn(move || {
            let relayed = namespace.enter().and_then(|()| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(async {
                    tokio::select! {
                        result = serve(listener, target) => result,
                        _ = ended => Ok(()),
                    }
                })
            });
            if let Err(e) = relayed {
                eprintln!("the relay to the API server ended: {e:#}");
            }
        })?;
        Ok(Self {
            address,
            end: Some(end),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            let _ = end.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, target: SocketAddr) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((mut near, _)) = listener.accept() => {
                connections.spawn(async move {
                    // While the API server is away, its clients see a connection that closes at once.
                    if let Ok(mut far) = TcpStream::connect(target).await {
                        // Server and clients send what is said at once; held back here, an event would be 40 ms late.
                        let _ = near.set_nodelay(true).and(far.set_nodelay(true));
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
