//! A large cluster: how long until all of it works, and what it takes in memory.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use hickory_proto::rr::RecordType;

use super::{
    figure::{Figure, Reach},
    progress::Progress,
    question::question,
    site::{ANSWERS, DNS},
    statistics::Estimate,
};
use crate::lab::{
    Agent, Cni, Lab, Pod,
    links::{add_local_route, add_route},
};

/// Services.
pub(super) const SERVICES: u32 = 10_000;
/// Endpoints of each.
pub(super) const ENDPOINTS: u32 = 10;
/// Services in one file.
const IN_A_FILE: u32 = 100;
/// Every so manieth Service is connected to; all are resolved.
const CONNECT_EVERY: u32 = 100;
/// Cold starts.
const STARTS: usize = 5;
/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// All endpoints are in here. One server, on the second node, has all of these addresses.
const PODS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 128, 0, 0), 12);
/// All Services are in here.
const SERVICE_IPS: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 0);

/// What one start showed.
struct Start {
    seconds: f64,
    cpu_seconds: f64,
    resident: f64,
    peak: f64,
    maps: f64,
}

/// Measures it.
///
/// # Errors
/// Where a Service does not come to work.
pub fn run() -> anyhow::Result<Vec<Figure>> {
    let progress = Progress::new("scale", STARTS);
    let folder = tempfile::tempdir()?;
    write_manifests(folder.path())?;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        starts.push(start(folder.path())?);
        progress.step();
    }
    let figure = |what: &str, unit: &str, reach, number: fn(&Start) -> f64| {
        let samples: Vec<_> = starts.iter().map(number).collect();
        Figure {
            suite: "scale".to_owned(),
            what: format!("{SERVICES} Services of {ENDPOINTS} endpoints: {what}"),
            unit: unit.to_owned(),
            measured: Estimate::of(&samples),
            against: None,
            reach,
            samples,
        }
    };
    Ok(vec![
        figure(
            "cold start to last Service reachable",
            "s",
            Some(Reach::AtMost(5.0)),
            |start| start.seconds,
        ),
        figure("CPU time of the agent until then", "s", None, |start| {
            start.cpu_seconds
        }),
        figure(
            "resident memory and maps",
            "MB",
            Some(Reach::AtMost(250.0)),
            |start| start.resident + start.maps,
        ),
        figure("resident memory of the agent", "MB", None, |start| {
            start.resident
        }),
        figure("its peak", "MB", None, |start| start.peak),
        figure("memory of the maps", "MB", None, |start| start.maps),
    ])
}

/// The ClusterIP of a Service.
pub(super) fn service_ip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(SERVICE_IPS.to_bits() + 1 + service)
}

/// The address of an endpoint of a Service.
pub(super) const fn pod_ip(service: u32, endpoint: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(PODS.0.to_bits() + 1 + service * ENDPOINTS + endpoint)
}

/// As `kubectl get -o yaml` has them, reduced to what a user would write.
fn write_manifests(folder: &Path) -> anyhow::Result<()> {
    let dns = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: kube-dns\n  namespace: kube-system\n\
         spec:\n  clusterIP: {DNS}\n  ports:\n  - name: dns\n    port: 53\n    protocol: UDP\n"
    );
    fs::write(folder.join("dns.yaml"), dns)?;
    for file in 0..SERVICES / IN_A_FILE {
        let mut text = String::new();
        for service in file * IN_A_FILE..(file + 1) * IN_A_FILE {
            write_service(&mut text, service)?;
        }
        fs::write(folder.join(format!("services-{file}.yaml")), text)?;
    }
    Ok(())
}

fn write_service(text: &mut String, service: u32) -> std::fmt::Result {
    let (ip, namespace) = (service_ip(service), namespace(service));
    write!(
        text,
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: service-{service}\n  namespace: {namespace}\n\
         spec:\n  clusterIP: {ip}\n  ports:\n  - name: http\n    port: 80\n    targetPort: {ANSWERS}\n    protocol: TCP\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: service-{service}-abcde\n  \
         namespace: {namespace}\n  labels:\n    kubernetes.io/service-name: service-{service}\n\
         addressType: IPv4\nports:\n- name: http\n  port: {ANSWERS}\n  protocol: TCP\nendpoints:\n"
    )?;
    for endpoint in 0..ENDPOINTS {
        let ip = pod_ip(service, endpoint);
        write!(
            text,
            "- addresses:\n  - {ip}\n  conditions:\n    ready: true\n    serving: true\n    terminating: false\n  \
             nodeName: node-{}\n",
            endpoint * 100 + service % 100
        )?;
    }
    Ok(())
}

pub(super) fn namespace(service: u32) -> String {
    format!("team-{}", service % 50)
}

fn start(manifests: &Path) -> anyhow::Result<Start> {
    let lab = Lab::builder()
        .node("one", Cni::Routed)
        .node("two", Cni::Routed)
        .start()?;
    let pod = lab.node("one")?.pod("client")?;
    serve_all(&lab)?;
    // The binary is looked for, and cargo perhaps asked, before the clock runs.
    crate::lab::programs::signpost()?;
    let begin = Instant::now();
    let (agent, seconds, ticks) = thread::scope(|scope| {
        let prober = scope.spawn(|| probe(&pod, begin));
        let agent = Agent::of_folder(lab.node("one")?, manifests, &[])?;
        let seconds = prober
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let ticks = cpu_seconds(agent.id().context("the agent has ended")?)?;
        anyhow::Ok((agent, seconds, ticks))
    })?;
    // What was only needed for the start has been given back by then.
    thread::sleep(Duration::from_secs(3));
    let id = agent.id().context("the agent has ended")?;
    Ok(Start {
        seconds,
        cpu_seconds: ticks,
        resident: status(id, "VmRSS:")?,
        peak: status(id, "VmHWM:")?,
        maps: maps(id)?,
    })
}

/// One server for all endpoints, on the second node.
pub(super) fn serve_all(lab: &Lab) -> anyhow::Result<()> {
    let (one, two) = (lab.node("one")?, lab.node("two")?);
    let network = (PODS.0.into(), PODS.1);
    add_route(one.namespace(), network, Some(two.addresses()[0]), "eth0")?;
    add_local_route(two.namespace(), network)?;
    let listener = two
        .namespace()
        .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, ANSWERS)))??;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"here");
        }
    });
    Ok(())
}

/// Waits until every Service resolves and every hundredth, with the last, can be connected to. Returns the seconds
/// since `begin`.
pub(super) fn probe(pod: &Pod, begin: Instant) -> anyhow::Result<f64> {
    pod.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((DNS, 53))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        for service in 0..SERVICES {
            let name = format!(
                "service-{service}.{}.svc.cluster.local.",
                namespace(service)
            );
            let asked = question(&name, RecordType::A)?;
            until(begin, &name, || resolve(&socket, &asked, service))?;
            if service % CONNECT_EVERY == 0 || service == SERVICES - 1 {
                until(begin, &name, || connect(service))?;
            }
        }
        Ok(begin.elapsed().as_secs_f64())
    })?
}

fn until(
    begin: Instant,
    what: &str,
    mut attempt: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    while let Err(error) = attempt() {
        ensure!(begin.elapsed() < PATIENCE, "{what}: {error:#}");
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn resolve(socket: &UdpSocket, asked: &[u8], service: u32) -> anyhow::Result<()> {
    socket.send(asked)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    ensure!(
        answer[..length].ends_with(&service_ip(service).octets()),
        "not the answer"
    );
    Ok(())
}

fn connect(service: u32) -> anyhow::Result<()> {
    let address = SocketAddr::from((service_ip(service), 80));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(500))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    ensure!(text == "here", "not the server");
    Ok(())
}

/// CPU time that a process has used.
pub(super) fn cpu_seconds(id: u32) -> anyhow::Result<f64> {
    // Nanoseconds on a processor, of each thread; those that have ended are missing.
    let mut nanoseconds = 0_u64;
    for thread in fs::read_dir(format!("/proc/{id}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        let first = text.split(' ').next().context("no number")?;
        nanoseconds += first.parse::<u64>()?;
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// A line of a process's status, in MB.
pub(super) fn status(id: u32, field: &str) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kilobytes: f64 = number.context("no such line")?.parse()?;
    Ok(kilobytes * 1024.0 / 1e6)
}

/// Memory of the maps that a process has open, in MB, as the kernel accounts for it.
pub(super) fn maps(id: u32) -> anyhow::Result<f64> {
    let mut bytes = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{id}/fdinfo"))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().parse::<u64>().ok())
        };
        if let (Some(map), Some(memory)) = (field("map_id:"), field("memlock:")) {
            bytes.insert(map, memory);
        }
    }
    ensure!(!bytes.is_empty(), "the agent has no maps");
    Ok(bytes.values().sum::<u64>() as f64 / 1e6)
}
