//! Names outside of the cluster: what the DNS pod has in its cache is answered at the pod's interface.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, ensure};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Record, RecordType},
};
use signpost_tests::lab::{
    Agent, Cni,
    agent::fetch,
    dns,
    upstream::{ALIAS, NAME, SHORT},
    wait,
};

use crate::{names::Names, small::PROGRAMMED};

const SERVER: &str = "10.96.0.10";
/// Where an agent's metrics are.
const METRICS: u16 = 10_249;
const MISSING: &str = "missing.example.com.";

impl Names {
    fn asks(&self, name: &str, kind: RecordType) -> anyhow::Result<Message> {
        let server = SocketAddr::new(SERVER.parse::<IpAddr>()?, 53);
        self.jump.run(|| dns::ask(server, name, kind))?
    }

    fn cause(&self, cause: &str) -> anyhow::Result<u64> {
        let counters = self.agent.counters()?;
        counters.get(cause).copied().context("no such cause")
    }

    /// How often the upstream was asked.
    fn upstream_heard(&self, name: &str, kind: RecordType) -> usize {
        let question = format!("{name} {kind}");
        let heard = self.upstream.questions();
        heard.iter().filter(|heard| **heard == question).count()
    }

    /// Asks until the kernel gives the answer.
    fn until_the_kernel_answers(&self, name: &str, kind: RecordType) -> anyhow::Result<Message> {
        wait::until("an answer of the kernel", PROGRAMMED, || {
            let before = self.cause("dns_cached")?;
            let answer = self.asks(name, kind)?;
            ensure!(self.cause("dns_cached")? > before, "from the DNS pod");
            Ok(answer)
        })
        .with_context(|| format!("{}\n{}", self.agent.log(), self.dns.log()))
    }
}

fn texts(records: &[Record]) -> Vec<String> {
    let text =
        |record: &Record| format!("{} {} {}", record.name, record.record_type(), record.data);
    records.iter().map(text).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_was_asked_once_is_answered_at_the_interface() -> anyhow::Result<()> {
    let names = Names::start(Cni::Routed)?;
    for (name, kind, code) in [
        (NAME, RecordType::A, ResponseCode::NoError),
        (NAME, RecordType::AAAA, ResponseCode::NoError),
        (ALIAS, RecordType::A, ResponseCode::NoError),
        (NAME, RecordType::CNAME, ResponseCode::NoError),
        (MISSING, RecordType::A, ResponseCode::NXDomain),
    ] {
        let first = names.asks(name, kind)?;
        let heard = names.upstream_heard(name, kind);
        assert!(heard > 0);
        let cached = names.until_the_kernel_answers(name, kind)?;
        assert_eq!(names.upstream_heard(name, kind), heard, "{name} {kind}");
        for answer in [&first, &cached] {
            assert_eq!(answer.metadata.response_code, code, "{answer}");
        }
        assert_eq!(first.metadata.authoritative, cached.metadata.authoritative);
        assert!(cached.metadata.recursion_available);
        assert_eq!(texts(&first.answers), texts(&cached.answers));
        assert_eq!(texts(&first.authorities), texts(&cached.authorities));
        let [first, cached] = [&first, &cached].map(|answer| {
            let mut records = answer.answers.iter().chain(&answer.authorities);
            records.next().map(|record| record.ttl)
        });
        assert!(cached <= first && first <= Some(30), "{first:?} {cached:?}");
    }
    // The search list is denied by the zone before that.
    let before = names.cause("dns_nxdomain")?;
    let searched = names.asks("www.example.com.dev.svc.cluster.local.", RecordType::A)?;
    assert_eq!(searched.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(names.cause("dns_nxdomain")?, before + 1);
    // Letters come back as they were asked for.
    let mixed = names.until_the_kernel_answers("wWw.ExAmPlE.cOm.", RecordType::A)?;
    assert_eq!(mixed.answers[0].name.to_ascii(), "wWw.ExAmPlE.cOm.");
    Ok(())
}

/// A counter of the agent's metrics; 0 where it has not begun.
fn metric(names: &Names, series: &str) -> anyhow::Result<u64> {
    let node = names.agent.node().namespace();
    let text = node.run(|| fetch(METRICS, "/metrics"))??;
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(Ok(0), |count| Ok(count.trim().parse()?))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn answers_at_the_interface_show_in_the_metrics_as_those_of_coredns() -> anyhow::Result<()> {
    const LABELS: &str = "server=\"dns://:53\",zone=\".\",view=\"\"";
    let names = Names::start(Cni::Routed)?;
    names.until_the_kernel_answers(NAME, RecordType::A)?;
    let requests = |kind: &str| {
        let of = format!("proto=\"udp\",family=\"1\",type=\"{kind}\"");
        format!("coredns_dns_requests_total{{{LABELS},{of}}}")
    };
    let responses = |code: &str, plugin: &str| {
        let of = format!("rcode=\"{code}\",plugin=\"{plugin}\"");
        format!("coredns_dns_responses_total{{{LABELS},{of}}}")
    };
    let hits = "type=\"success\",zones=\".\",view=\"\"";
    let series = [
        requests("A"),
        requests("AAAA"),
        responses("NOERROR", "kubernetes"),
        responses("NXDOMAIN", "kubernetes"),
        responses("NOERROR", "cache"),
        format!("coredns_cache_hits_total{{server=\"dns://:53\",{hits}}}"),
    ];
    let read = || {
        let each = series.iter().map(|series| metric(&names, series));
        each.collect::<anyhow::Result<Vec<u64>>>()
    };
    let before = read()?;
    names.asks("ent.dev.svc.cluster.local.", RecordType::A)?;
    names.asks("nobody.dev.svc.cluster.local.", RecordType::AAAA)?;
    names.asks("nobody.dev.svc.cluster.local.", RecordType::A)?;
    names.asks(NAME, RecordType::A)?;
    let after = read()?;
    let grown: Vec<u64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
    assert_eq!(grown, [3, 1, 1, 2, 1, 1], "{series:?}");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_has_run_out_is_asked_for_again() -> anyhow::Result<()> {
    let names = Names::start(Cni::Routed)?;
    names.until_the_kernel_answers(SHORT, RecordType::A)?;
    let heard = names.upstream_heard(SHORT, RecordType::A);
    wait::until("another question to the upstream", PROGRAMMED, || {
        let answer = names.asks(SHORT, RecordType::A)?;
        // The cache keeps nothing for less than five seconds.
        assert!(answer.answers[0].ttl <= 5, "{answer}");
        ensure!(names.upstream_heard(SHORT, RecordType::A) > heard);
        Ok(())
    })
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn another_dns_pod_takes_back_what_the_one_before_it_said() -> anyhow::Result<()> {
    let names = Names::start(Cni::Routed)?;
    names.until_the_kernel_answers(NAME, RecordType::A)?;
    let before = names.cause("dns_outside")?;
    names.dns.kill();
    dns::serve(&names.dns, &names.agent)?;
    wait::until("an answer of the new server", PROGRAMMED, || {
        names.asks(NAME, RecordType::A)?;
        ensure!(names.cause("dns_outside")? > before, "from before");
        Ok(())
    })?;
    names.until_the_kernel_answers(NAME, RecordType::A)?;
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_dead_agent_and_a_dead_dns_pod_leave_answers_until_they_run_out() -> anyhow::Result<()> {
    let mut names = Names::start(Cni::Routed)?;
    names.until_the_kernel_answers(NAME, RecordType::A)?;
    names.agent.kill();
    names.dns.kill();
    let before = names.cause("dns_cached")?;
    let answer = names.asks(NAME, RecordType::A)?;
    assert_eq!(answer.answers.len(), 1);
    assert_eq!(names.cause("dns_cached")?, before + 1);
    let gone = wait::until("its end", PROGRAMMED * 2, || {
        ensure!(names.asks(NAME, RecordType::A).is_err(), "still answered");
        Ok(())
    });
    gone.context("an answer outlives its time")
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_dns_pods_answer_for_other_names_where_the_node_says_so() -> anyhow::Result<()> {
    let mut names = Names::start(Cni::Routed)?;
    names.until_the_kernel_answers(NAME, RecordType::A)?;
    let node = names.agent.node().clone();
    names.agent.terminate();
    let flags = ["--dns-answers", "cluster"];
    names.agent = Agent::with_flags(&node, &flags)?;
    let before = names.agent.counters()?;
    for _ in 0..10 {
        names.asks(NAME, RecordType::A)?;
    }
    names.asks("ent.dev.svc.cluster.local.", RecordType::A)?;
    let after = names.agent.counters()?;
    assert_eq!(after["dns_cached"], before["dns_cached"]);
    assert_eq!(after["dns_outside"], before["dns_outside"] + 10);
    assert_eq!(after["dns_answered"], before["dns_answered"] + 1);
    Ok(())
}
