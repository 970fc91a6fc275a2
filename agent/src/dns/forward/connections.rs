//! Connections to an upstream over TCP and TLS, kept for a while: one question at a time on each.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};

/// The most connections that are kept.
const KEPT: usize = 32;

/// What is needed for TLS.
#[derive(Clone)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// A connection, whatever it is made of.
trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// The connections.
pub(super) struct Connections {
    address: SocketAddr,
    tls: Option<Tls>,
    expire: Duration,
    idle: Mutex<Vec<(Box<dyn Stream>, Instant)>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections")
            .field("address", &self.address)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// With the name that is in the certificate.
    ///
    /// # Errors
    /// Where it is no name.
    pub(super) fn new(config: &Arc<ClientConfig>, name: &str) -> anyhow::Result<Self> {
        let name = ServerName::try_from(name.to_owned());
        Ok(Self {
            config: Arc::clone(config),
            name: name.context("the server name for TLS is neither a name nor an address")?,
        })
    }
}

/// Trusts who is signed by these, or by the authorities of the system.
///
/// # Errors
/// Where there are no certificates.
pub(super) fn client_config(ca: Option<&Path>) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = ca {
        let path = file.display();
        let certificates = CertificateDer::pem_file_iter(file);
        for certificate in certificates.with_context(|| format!("cannot read {path}"))? {
            let certificate = certificate.with_context(|| format!("{path} is no PEM file"))?;
            roots
                .add(certificate)
                .with_context(|| format!("{path} has a certificate that cannot be used"))?;
        }
        anyhow::ensure!(!roots.is_empty(), "{path} has no certificate");
    } else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        anyhow::ensure!(
            !roots.is_empty(),
            "the system has no certificates for upstreams over TLS; name a file with tls.ca"
        );
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("TLS cannot be had")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl Connections {
    pub(super) fn new(address: SocketAddr, tls: Option<Tls>, expire: Duration) -> Self {
        Self {
            address,
            tls,
            expire,
            idle: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// Sends a message and reads the next one. A kept connection that the other side has closed is replaced by a new
    /// one.
    ///
    /// # Errors
    /// Where there is no answer.
    pub(super) async fn exchange(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        let length = u16::try_from(message.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(message);
        while let Some(mut stream) = self.take() {
            if let Ok(answer) = send(&mut stream, &framed).await {
                self.hits.fetch_add(1, Ordering::Relaxed);
                self.keep(stream);
                return Ok(answer);
            }
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let mut stream = self.connect().await?;
        let answer = send(&mut stream, &framed).await?;
        self.keep(stream);
        Ok(answer)
    }

    /// How often a connection was there already, and how often one had to be made.
    pub(super) fn counts(&self) -> (u64, u64) {
        (
            self.hits.load(Ordering::Relaxed),
            self.misses.load(Ordering::Relaxed),
        )
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let connector = TlsConnector::from(Arc::clone(&tls.config));
        Ok(Box::new(connector.connect(tls.name.clone(), stream).await?))
    }

    fn take(&self) -> Option<Box<dyn Stream>> {
        let mut idle = self.lock();
        idle.retain(|(_, since)| since.elapsed() < self.expire);
        idle.pop().map(|(stream, _)| stream)
    }

    fn keep(&self, stream: Box<dyn Stream>) {
        let mut idle = self.lock();
        if idle.len() < KEPT && !self.expire.is_zero() {
            idle.push((stream, Instant::now()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Box<dyn Stream>, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn send(stream: &mut Box<dyn Stream>, framed: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(framed).await?;
    stream.flush().await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
