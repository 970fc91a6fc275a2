//! Upstreams over TLS.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hickory_proto::{op::ResponseCode, rr::RecordType};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use super::stand::{Bench, addresses, upstream_answer};

/// A name server over TLS, which says that it is `dns.example.com`.
struct Encrypted {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// Who signed its certificate.
    authority: String,
}

impl Encrypted {
    async fn start() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = vec!["dns.example.com".to_owned()];
        let own = CertificateParams::new(names)
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut question = vec![0; length.into()];
                        stream.read_exact(&mut question).await.unwrap();
                        let answer = upstream_answer(&question, false);
                        stream.write_u16(answer.len() as u16).await.unwrap();
                        stream.write_all(&answer).await.unwrap();
                        stream.flush().await.unwrap();
                    }
                });
            }
        });
        Self {
            address,
            connections,
            authority: issuer.pem(),
        }
    }

    /// A server that asks it under a name.
    async fn asked_as(&self, name: &str) -> (Bench, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let [ca, file] = ["ca.pem", "dns.yaml"].map(|name| folder.path().join(name));
        std::fs::write(&ca, &self.authority).unwrap();
        let yaml = format!(
            "forward: {{upstreams: ['tls://127.0.0.1%{name}:{}'], tls: {{ca: {}}}, readTimeout: 1s}}\nloop: false\n",
            self.address.port(),
            ca.display()
        );
        std::fs::write(&file, yaml).unwrap();
        let bench = Bench::new(&["--dns-config", file.to_str().unwrap()]).await;
        (bench, folder)
    }
}

#[tokio::test]
async fn an_upstream_over_tls_is_asked_over_one_connection() {
    let upstream = Encrypted::start().await;
    let (bench, _folder) = upstream.asked_as("dns.example.com").await;
    for name in ["example.com.", "letters.example.com.", "large.example.com."] {
        let answer = bench.ask(name, RecordType::A).await;
        assert_eq!(
            answer.metadata.response_code,
            ResponseCode::NoError,
            "{name}"
        );
    }
    let answer = bench.ask("www.example.com.", RecordType::A).await;
    assert_eq!(addresses(&answer), [Ipv4Addr::new(192, 0, 2, 1)]);
    assert_eq!(upstream.connections.load(Ordering::Relaxed), 1);
    let (_, metrics) = bench.http(bench.listening.metrics, "/metrics").await;
    let hits = format!(
        "coredns_proxy_conn_cache_hits_total{{proxy_name=\"forward\",to=\"{}\"}} 3",
        upstream.address
    );
    assert!(metrics.contains(&hits), "{metrics}");
}

#[tokio::test]
async fn an_upstream_with_another_name_in_its_certificate_is_not_believed() {
    let upstream = Encrypted::start().await;
    let (bench, _folder) = upstream.asked_as("other.example.com").await;
    let answer = bench.ask("example.com.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(upstream.connections.load(Ordering::Relaxed), 0);
}
