//! Names, as real resolvers see them.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, ensure};
use domain::base::Message as DomainMessage;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use signpost_tests::lab::{Agent, Cni, Kubelet, Lab, Pod, Upstream, dns, programs, upstream, wait};

use crate::small::{CNIS, PATIENCE, PROGRAMMED};

/// The cluster's DNS addresses.
pub(crate) const DNS: [&str; 2] = ["10.96.0.10", "fd00:96::a"];

/// The Services that the tests ask for, beside `kube-dns`.
const MANIFESTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: dev}
---
apiVersion: v1
kind: Namespace
metadata: {name: prod}
---
apiVersion: v1
kind: Service
metadata: {namespace: kube-system, name: kube-dns}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00:96::a"]
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  selector: {k8s-app: kube-dns}
  ports:
  - {name: dns, port: 53, protocol: UDP}
  - {name: dns-tcp, port: 53, protocol: TCP}
---
apiVersion: v1
kind: Service
metadata: {namespace: dev, name: ent}
spec:
  clusterIP: 10.96.2.1
  clusterIPs: [10.96.2.1, "fd00:96::2:1"]
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  ports: [{port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {namespace: prod, name: ent}
spec: {clusterIP: 10.96.2.2, ports: [{port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: dev, name: set}
spec: {clusterIP: None, selector: {app: set}, ports: [{name: web, port: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: dev, name: set-0, labels: {app: set}}
spec: {hostname: set-0, subdomain: set, containers: [{name: c, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: dev, name: set-1, labels: {app: set}}
spec: {hostname: set-1, subdomain: set, containers: [{name: c, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: dev, name: jump}
spec: {containers: []}
"#;

/// A node with `signpost dns`. Fields are dropped in their order.
pub(crate) struct Names {
    pub(crate) agent: Agent,
    pub(crate) dns: Pod,
    pub(crate) jump: Pod,
    kubelet: Kubelet,
    pub(crate) upstream: Upstream,
    _lab: Lab,
}

impl Names {
    pub(crate) fn start(cni: Cni) -> anyhow::Result<Self> {
        Self::with_nameserver(cni, DNS[0])
    }

    fn with_nameserver(cni: Cni, nameserver: &str) -> anyhow::Result<Self> {
        let lab = Lab::builder()
            .node("one", cni)
            .nameservers(&[nameserver.parse()?])
            .start()?;
        let upstream = Upstream::start(&lab)?;
        let mut kubelet = Kubelet::new(&lab);
        kubelet.apply(MANIFESTS)?;
        let agent = Agent::start(lab.node("one")?)?;
        let dns = dns::start(&mut kubelet, &agent, "signpost-dns")?;
        let jump = kubelet.pod("dev", "jump")?.clone();
        let names = Self {
            agent,
            dns,
            jump,
            kubelet,
            upstream,
            _lab: lab,
        };
        wait::until("a negative answer of the kernel", PROGRAMMED, || {
            names.resolve("nothing.dev").ok();
            let counters = names.agent.counters()?;
            ensure!(counters["dns_nxdomain"] > 0, "{counters:?}");
            Ok(())
        })
        .with_context(|| names.agent.log())?;
        wait::until("an answer of signpost dns", PROGRAMMED, || {
            let server = SocketAddr::new(nameserver.parse()?, 53);
            // The kernel leaves pods' names of IPv6 to it.
            let name = "2001-db8--1.dev.pod.cluster.local.";
            let answer = names
                .jump
                .run(|| dns::ask(server, name, RecordType::AAAA))??;
            ensure!(answer.answers.len() == 1, "{answer}");
            Ok(())
        })?;
        Ok(names)
    }

    /// Adds objects.
    pub(crate) fn apply(&mut self, manifests: &str) -> anyhow::Result<()> {
        self.kubelet.apply(manifests)
    }

    /// What glibc's resolver finds, through the search list.
    pub(crate) fn resolve(&self, name: &str) -> anyhow::Result<Vec<IpAddr>> {
        let mut command = self.jump.command(programs::lab_pod()?)?;
        addresses(&command.args(["resolve", name]).text()?)
    }

    fn dig(&self, args: &str) -> anyhow::Result<String> {
        let mut command = self.jump.command("dig")?;
        command
            .args(["+tries=1", "+timeout=2"])
            .args(args.split(' '));
        command.text()
    }

    /// Sends a question to the cluster's DNS and gives the bytes of the answer.
    fn ask(&self, question: &[u8]) -> anyhow::Result<Vec<u8>> {
        self.jump.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(SocketAddr::new(DNS[0].parse()?, 53))?;
            socket.send(question)?;
            let mut buffer = vec![0; 4096];
            let length = socket.recv(&mut buffer)?;
            buffer.truncate(length);
            Ok(buffer)
        })?
    }
}

/// Addresses, one a line, in order and each once.
pub(crate) fn addresses(lines: &str) -> anyhow::Result<Vec<IpAddr>> {
    let parsed: Result<Vec<IpAddr>, _> = lines.lines().map(str::parse).collect();
    let mut found = parsed.with_context(|| lines.to_owned())?;
    found.sort();
    found.dedup();
    Ok(found)
}

fn question(name: &str, kind: RecordType, edns: bool) -> anyhow::Result<Message> {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name)?, kind));
    if edns {
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        message.edns = Some(edns);
    }
    Ok(message)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn glibc_finds_what_the_search_list_leads_to() -> anyhow::Result<()> {
    for cni in CNIS {
        let names = Names::start(cni)?;
        let dev: Vec<IpAddr> = vec!["10.96.2.1".parse()?, "fd00:96::2:1".parse()?];
        assert_eq!(names.resolve("ent")?, dev, "{cni:?}");
        assert_eq!(names.resolve("ent.dev")?, dev);
        assert_eq!(names.resolve("ent.dev.svc.cluster.local.")?, dev);
        let prod: [IpAddr; 1] = ["10.96.2.2".parse()?];
        assert_eq!(names.resolve("ent.prod")?, prod);
        assert_eq!(names.resolve("ent.prod.svc.cluster.local")?, prod);
        let pods = [0, 1].map(|n| names.kubelet.pod("dev", &format!("set-{n}")).cloned());
        let [first, second] = pods;
        let (first, second) = (first?, second?);
        let mut set = vec![first.v4(), first.v6(), second.v4(), second.v6()];
        set.sort();
        // A headless Service of one family, as the API server makes it by default.
        set.retain(IpAddr::is_ipv4);
        assert_eq!(names.resolve("set")?, set);
        assert_eq!(names.resolve("set-1.set")?, [second.v4()]);
        assert!(names.resolve("nothing").is_err());
        assert!(names.resolve("ent.nowhere").is_err());
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn musl_finds_the_same() -> anyhow::Result<()> {
    let names = Names::start(Cni::Routed)?;
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/getaddrinfo.c");
    let program = names.jump.folder().join("getaddrinfo");
    let compiled = Command::new("musl-gcc")
        .args(["-static", "-Os", "-o"])
        .args([&program, &source])
        .status()?;
    ensure!(compiled.success(), "musl-gcc: {compiled}");
    let resolve = |name: &str| addresses(&names.jump.command(&program)?.arg(name).text()?);
    for name in ["ent", "ent.prod", "ent.dev.svc.cluster.local", "set"] {
        assert_eq!(resolve(name)?, names.resolve(name)?, "{name}");
    }
    assert!(resolve("nothing").is_err());
    let found = resolve("www.example.com")?;
    let (v4, v6) = upstream::ADDRESSES;
    assert_eq!(found, [IpAddr::from(v4), IpAddr::from(v6)]);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn misses_of_the_search_list_never_leave_the_kernel() -> anyhow::Result<()> {
    let names = Names::start(Cni::Routed)?;
    let before = names.agent.counters()?;
    let asked_before = names.upstream.questions().len();
    let (v4, v6) = upstream::ADDRESSES;
    let found = names.resolve("www.example.com")?;
    assert_eq!(found, [IpAddr::from(v4), IpAddr::from(v6)]);
    let after = names.agent.counters()?;
    assert_eq!(after["dns_nxdomain"] - before["dns_nxdomain"], 6);
    assert_eq!(after["dns_outside"] - before["dns_outside"], 2);
    for cause in ["dns_unproven", "dns_user", "dns_unusual", "dns_not_in_sync"] {
        assert_eq!(after[cause], before[cause], "{cause}");
    }
    let asked = names.upstream.questions().split_off(asked_before);
    assert!(
        asked.iter().all(|q| q.starts_with("www.example.com. ")),
        "{asked:?}"
    );
    Ok(())
}

/// As glibc asks: both questions are sent before the first answer is read. One that gets lost costs it five seconds.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn both_types_asked_at_once_from_one_socket_are_both_answered() -> anyhow::Result<()> {
    let kernel = "ent.dev.svc.cluster.local.";
    let pods = "10-1-2-3.dev.pod.cluster.local.";
    let outside = "www.example.com.";
    for cni in CNIS {
        let names = Names::start(cni)?;
        for (a, aaaa) in [
            (kernel, kernel),
            (
                "nothing.dev.svc.cluster.local.",
                "nothing.dev.svc.cluster.local.",
            ),
            ("ent.prod.svc.cluster.local.", "ent.prod.svc.cluster.local."),
            (pods, pods),
            (outside, outside),
            (kernel, outside),
            (outside, kernel),
            (pods, kernel),
        ] {
            for round in 0..20 {
                let mut questions = vec![
                    question(a, RecordType::A, false)?,
                    question(aaaa, RecordType::AAAA, false)?,
                ];
                if round % 2 == 1 {
                    questions.reverse();
                }
                let mut answered = names.jump.run(|| {
                    let socket = UdpSocket::bind("0.0.0.0:0")?;
                    socket.set_read_timeout(Some(PATIENCE))?;
                    socket.connect(SocketAddr::new(DNS[0].parse()?, 53))?;
                    for question in &questions {
                        socket.send(&question.to_vec()?)?;
                    }
                    let mut answered = Vec::new();
                    for _ in &questions {
                        let mut buffer = [0; 4096];
                        let length = socket.recv(&mut buffer)?;
                        answered.push(Message::from_vec(&buffer[..length])?.metadata.id);
                    }
                    anyhow::Ok(answered)
                })??;
                let mut asked: Vec<u16> = questions.iter().map(|q| q.metadata.id).collect();
                asked.sort_unstable();
                answered.sort_unstable();
                assert_eq!(answered, asked, "{cni:?}: {a} and {aaaa}");
            }
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_dns_pods_answer_all_where_the_node_says_so() -> anyhow::Result<()> {
    let mut names = Names::start(Cni::Routed)?;
    let dev = names.resolve("ent")?;
    let node = names.agent.node().clone();
    names.agent.terminate();
    let flags = ["--dns-answers", "pods"];
    names.agent = Agent::with_flags(&node, &flags)?;
    let before = names.agent.counters()?;
    assert_eq!(names.resolve("ent")?, dev);
    assert!(names.resolve("nothing").is_err());
    let after = names.agent.counters()?;
    for cause in ["dns_answered", "dns_nodata", "dns_nxdomain"] {
        assert_eq!(after[cause], before[cause], "{cause}");
    }
    assert!(after["dns_user"] > before["dns_user"]);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn dig_gets_the_same_answer_however_it_asks() -> anyhow::Result<()> {
    for cni in CNIS {
        let names = Names::start(cni)?;
        for how in [
            "+noedns",
            "+edns=0",
            "+edns=0 +nocookie",
            "+tcp",
            "+notcp +dnssec",
        ] {
            let text = names.dig(&format!("+short {how} ent.dev.svc.cluster.local A"))?;
            assert_eq!(text.trim(), "10.96.2.1", "{cni:?} {how}");
            let text = names.dig(&format!("{how} ent.nowhere.svc.cluster.local A"))?;
            assert!(text.contains("status: NXDOMAIN"), "{how}: {text}");
            assert!(text.contains("ns.dns.cluster.local."), "{how}: {text}");
        }
        let text = names.dig("+noedns eNt.DeV.sVc.ClUsTeR.lOcAl A")?;
        assert!(text.contains("eNt.DeV.sVc.ClUsTeR.lOcAl."), "{text}");
        assert!(text.contains("10.96.2.1"), "{text}");
        let text = names.dig("+noedns ent.prod.svc.cluster.local AAAA")?;
        assert!(text.contains("status: NOERROR"), "{text}");
        assert!(text.contains("ANSWER: 0, AUTHORITY: 1"), "{text}");
        let text = names.dig("+short -x 10.96.2.1")?;
        assert_eq!(text.trim(), "ent.dev.svc.cluster.local.");
        let text = names.dig("+short _web._tcp.set.dev.svc.cluster.local SRV")?;
        assert_eq!(text.lines().count(), 2, "{text}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_dns_address_of_the_other_family_answers_too() -> anyhow::Result<()> {
    for cni in CNIS {
        let names = Names::with_nameserver(cni, DNS[1])?;
        let found = names.resolve("ent")?;
        assert_eq!(
            found,
            [IpAddr::from([10, 96, 2, 1]), "fd00:96::2:1".parse()?]
        );
        assert!(names.agent.counter("dns_answered")? > 0, "{cni:?}");
        assert_eq!(names.resolve("www.example.com")?.len(), 2);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn hickory_and_domain_parse_every_answer_of_the_kernel() -> anyhow::Result<()> {
    let names = Names::start(Cni::Routed)?;
    // Without the server, every answer is the kernel's.
    names.dns.kill();
    let zone = "cluster.local.";
    let cases = [
        ("ent.dev.svc", RecordType::A, ResponseCode::NoError, 1),
        ("ENT.dev.Svc", RecordType::AAAA, ResponseCode::NoError, 1),
        ("ent.prod.svc", RecordType::AAAA, ResponseCode::NoError, 0),
        ("set.dev.svc", RecordType::A, ResponseCode::NoError, 2),
        ("nothing.dev.svc", RecordType::A, ResponseCode::NXDomain, 0),
        ("ent.nowhere.svc", RecordType::A, ResponseCode::NXDomain, 0),
        (
            "a.b.c.ent.dev.svc",
            RecordType::A,
            ResponseCode::NXDomain,
            0,
        ),
        (
            "www.example.com.dev.svc",
            RecordType::A,
            ResponseCode::NXDomain,
            0,
        ),
        ("www.example.com", RecordType::A, ResponseCode::NXDomain, 0),
        ("com", RecordType::AAAA, ResponseCode::NXDomain, 0),
    ];
    for (name, kind, code, records) in cases {
        for edns in [false, true] {
            let name = format!("{name}.{zone}");
            let asked = question(&name, kind, edns)?;
            let bytes = names
                .ask(&asked.to_vec()?)
                .with_context(|| format!("{name} {kind}"))?;
            let answer = Message::from_vec(&bytes)?;
            assert_eq!(answer.metadata.id, asked.metadata.id, "{name}");
            assert_eq!(answer.metadata.response_code, code, "{name} {kind}");
            assert!(answer.metadata.authoritative, "{name}");
            assert!(answer.metadata.recursion_desired, "{name}");
            assert_eq!(answer.queries, asked.queries, "{name}");
            assert_eq!(answer.queries[0].name().to_string(), name);
            assert_eq!(answer.answers.len(), records, "{name} {kind}");
            assert_eq!(answer.edns.is_some(), edns, "{name} {kind}");
            let soa = answer
                .authorities
                .iter()
                .any(|r| matches!(r.data, RData::SOA(_)));
            assert_eq!(soa, records == 0, "{name} {kind}");
            let other = DomainMessage::from_octets(&bytes[..])?;
            for section in [other.answer()?, other.authority()?, other.additional()?] {
                for record in section {
                    record?;
                }
            }
            assert_eq!(other.answer()?.count(), records, "{name} {kind}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_name_follows_its_service() -> anyhow::Result<()> {
    let mut names = Names::start(Cni::Routed)?;
    assert!(names.resolve("fresh").is_err());
    names.kubelet.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {namespace: dev, name: fresh}\nspec: {ports: [{port: 80}]}\n",
    )?;
    let found = wait::until("the name", PROGRAMMED, || names.resolve("fresh"))?;
    assert_eq!(found.len(), 1);
    names.kubelet.forget(&serde_json::json!({
        "kind": "Service", "metadata": {"namespace": "dev", "name": "fresh"},
    }))?;
    wait::until("the end of the name", PROGRAMMED, || {
        ensure!(names.resolve("fresh").is_err());
        Ok(())
    })
}
