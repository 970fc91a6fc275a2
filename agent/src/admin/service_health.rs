//! The health checks of load balancers (`healthCheckNodePort`): a server for each Service of type LoadBalancer with
//! `externalTrafficPolicy: Local`, byte for byte as kube-proxy's.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Router,
    http::{HeaderValue, StatusCode},
    response::{IntoResponse as _, Response},
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    time::{Duration, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{Health, proxy_health::json};
use crate::{
    model::{Family, ObjectName},
    plan::HealthCheck,
};

/// A port that somebody else has is tried again after so long.
const AGAIN: Duration = Duration::from_secs(30);
/// Connections that wait to be answered, as the standard library has it.
const BACKLOG: u32 = 128;

/// What is to be served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceHealth {
    /// The health checks.
    pub checks: BTreeSet<HealthCheck>,
    /// The addresses at which NodePorts are served.
    pub addresses: BTreeSet<IpAddr>,
}

/// A server that could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotStarted {
    /// The Service that it is for.
    pub service: ObjectName,
    /// Its port.
    pub port: u16,
    /// Why.
    pub reason: String,
}

type Key = (ObjectName, Family, IpAddr, u16);

/// A server that runs, and how many endpoints it reports.
struct Server {
    endpoints: watch::Sender<usize>,
    stop: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Serves what is wanted until nobody says any more what that is. `failed` hears once of each server that cannot be
/// started; it is tried again.
pub async fn serve(
    mut wanted: watch::Receiver<ServiceHealth>,
    health: Arc<Health>,
    mut failed: impl FnMut(NotStarted),
) {
    let mut servers: BTreeMap<Key, Server> = BTreeMap::new();
    let mut told: BTreeSet<(ObjectName, u16)> = BTreeSet::new();
    loop {
        let now = listeners(&wanted.borrow_and_update());
        servers.retain(|key, _| now.contains_key(key));
        let mut failing = BTreeSet::new();
        for (key, endpoints) in now {
            if let Some(server) = servers.get(&key) {
                server.endpoints.send_replace(endpoints);
                continue;
            }
            let (service, _, address, port) = &key;
            match listen(SocketAddr::new(*address, *port)) {
                Ok(listener) => {
                    let server = start(listener, service, endpoints, Arc::clone(&health));
                    servers.insert(key, server);
                }
                Err(error) => {
                    let of = (service.clone(), *port);
                    if !told.contains(&of) && !failing.contains(&of) {
                        failed(NotStarted {
                            service: service.clone(),
                            port: *port,
                            reason: format!("listen tcp {address}:{port}: {error}"),
                        });
                    }
                    failing.insert(of);
                }
            }
        }
        told = failing;
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = sleep(AGAIN), if !told.is_empty() => {}
        }
    }
}

/// Every listener that is wanted, with how many endpoints it reports. Link-local addresses are of no use to a load
/// balancer.
fn listeners(wanted: &ServiceHealth) -> BTreeMap<Key, usize> {
    let usable = |address: &&IpAddr| match address {
        IpAddr::V4(address) => !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    };
    let mut all = BTreeMap::new();
    for check in &wanted.checks {
        let of_family = |address: &&IpAddr| Family::of(**address) == check.family;
        for address in wanted.addresses.iter().filter(usable).filter(of_family) {
            let key = (check.service.clone(), check.family, *address, check.port);
            all.insert(key, check.endpoints);
        }
    }
    all
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = match at {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

fn start(
    listener: TcpListener,
    service: &ObjectName,
    endpoints: usize,
    health: Arc<Health>,
) -> Server {
    let (sender, endpoints) = watch::channel(endpoints);
    let stop = CancellationToken::new();
    let name = service.clone();
    // Any path, any method.
    let routes = Router::new().fallback(move || {
        let answer = answer(&name, *endpoints.borrow(), health.proxy().healthy);
        async move { answer }
    });
    tokio::spawn(super::serve(listener, routes, stop.clone()));
    Server {
        endpoints: sender,
        stop,
    }
}

fn answer(service: &ObjectName, endpoints: usize, healthy: bool) -> Response {
    let code = if endpoints > 0 && healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let ObjectName { namespace, name } = service;
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\"localEndpoints\": {endpoints},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    );
    let mut response = json(code, body).into_response();
    response.headers_mut().insert(
        "x-load-balancing-endpoint-weight",
        HeaderValue::from(endpoints),
    );
    response
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        sync::mpsc,
    };

    use super::*;

    async fn ask(port: u16) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = "POST /any/path HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    fn wanted(name: &str, port: u16, endpoints: usize) -> ServiceHealth {
        ServiceHealth {
            checks: [HealthCheck {
                service: ObjectName::new("prod", name),
                family: Family::V4,
                port,
                endpoints,
            }]
            .into(),
            addresses: ["127.0.0.1", "::1", "fe80::1"]
                .map(|a| a.parse().unwrap())
                .into(),
        }
    }

    /// A port that nobody has.
    async fn free_port() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    }

    async fn until(port: u16, holds: impl Fn(&std::io::Result<String>) -> bool) -> String {
        for _ in 0..2000 {
            let answer = ask(port).await;
            if holds(&answer) {
                return answer.unwrap_or_default();
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("it never came about");
    }

    #[tokio::test]
    async fn a_load_balancer_reads_how_many_endpoints_are_here() {
        let port = free_port().await;
        let (sender, receiver) = watch::channel(wanted("ent", port, 2));
        let health = Arc::new(Health::default());
        health.updated();
        tokio::spawn(serve(receiver, health, |failed| panic!("{failed:?}")));
        let answer = until(port, Result::is_ok).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let head = head.to_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        for line in [
            "content-type: application/json",
            "x-content-type-options: nosniff",
            "x-load-balancing-endpoint-weight: 2",
        ] {
            assert!(head.lines().any(|l| l == line), "{line} is not in {head}");
        }
        assert_eq!(
            body,
            "{\n\t\"service\": {\n\t\t\"namespace\": \"prod\",\n\t\t\"name\": \"ent\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"
        );

        sender.send_replace(wanted("ent", port, 0));
        let is_gone =
            |a: &std::io::Result<String>| a.as_ref().is_ok_and(|a| a.starts_with("HTTP/1.1 503"));
        assert!(until(port, is_gone).await.contains("\"localEndpoints\": 0"));
        sender.send_replace(ServiceHealth::default());
        until(port, Result::is_err).await;
    }

    #[tokio::test]
    async fn a_port_that_somebody_else_has_is_told_once() {
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = other.local_addr().unwrap().port();
        let (sender, receiver) = watch::channel(wanted("ent", port, 1));
        let (failed_in, mut failed) = mpsc::unbounded_channel();
        let health = Arc::new(Health::default());
        tokio::spawn(serve(receiver, health, move |f| failed_in.send(f).unwrap()));
        let first = failed.recv().await.unwrap();
        assert_eq!(
            (first.service, first.port),
            (ObjectName::new("prod", "ent"), port)
        );
        assert!(
            first.reason.contains(&format!("127.0.0.1:{port}")),
            "{}",
            first.reason
        );

        sender.send_replace(wanted("ent", port, 2));
        sender.send_replace(wanted("other", port, 2));
        let next = failed.recv().await.unwrap();
        assert_eq!(next.service, ObjectName::new("prod", "other"));
    }
}
