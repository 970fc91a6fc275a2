//! DNS beside a CNI's NetworkPolicy, and for processes on the host's network.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use signpost_tests::lab::{Agent, Cni, Node, Pod, dns, upstream, wait};

use crate::{
    names::Names,
    never_stops::{World, resolve, serve},
    small::PROGRAMMED,
};

/// Names of the cluster in the kernel, of the cluster in user space, and of the world.
const NAMES: [&str; 4] = [
    "ent",
    "ent.prod",
    "10-1-2-3.dev.pod.cluster.local",
    "www.example.com",
];

/// As a CNI writes it for a policy that denies a pod all egress, and then allows some: at the node's forwarding.
fn policy(node: &Node, pod: &Pod, allowed: &str) -> Result<()> {
    let (v4, v6) = (pod.v4(), pod.v6());
    let rules = format!(
        "table inet cni
delete table inet cni
table inet cni {{
    chain egress {{
        {allowed}
        counter reject
    }}
    chain forward {{
        type filter hook forward priority 0; policy accept;
        ct state established,related accept
        ip saddr {v4} jump egress
        ip6 saddr {v6} jump egress
    }}
}}
"
    );
    let file = node.folder().join("policy.nft");
    std::fs::write(&file, rules)?;
    node.command("nft")?.arg("-f").arg(&file).text()?;
    Ok(())
}

/// Pods that are selected by `k8s-app: kube-dns`, at port 53.
fn to_dns(pod: &Pod) -> String {
    let mut rules = String::new();
    for protocol in ["udp", "tcp"] {
        rules += &format!("ip daddr {} {protocol} dport 53 accept\n", pod.v4());
        rules += &format!("ip6 daddr {} {protocol} dport 53 accept\n", pod.v6());
    }
    rules
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_policy_by_nft_that_allows_dns_alone_lets_every_name_resolve() -> Result<()> {
    for cni in [Cni::Routed, Cni::Bridged] {
        let names = Names::start(cni)?;
        let open: Vec<Vec<IpAddr>> = NAMES
            .map(|name| names.resolve(name))
            .into_iter()
            .collect::<Result<_>>()?;
        let node = names.agent.node();
        policy(node, &names.jump, &to_dns(&names.dns))?;
        for (name, expected) in NAMES.iter().zip(&open) {
            let found = names
                .resolve(name)
                .with_context(|| format!("{cni:?} {name}"))?;
            assert_eq!(found, *expected, "{cni:?} {name}");
        }
        // The same over TCP, which programs never answer.
        let mut dig = names.jump.command("dig")?;
        let text = dig
            .args(["+tcp", "+short", "ent.dev.svc.cluster.local"])
            .text()?;
        assert_eq!(text.trim(), "10.96.2.1");
        // It is a policy: nothing else is let out.
        let world = names.upstream.addresses();
        let elsewhere = format!("@{}", world.first().context("no upstream")?);
        let mut dig = names.jump.command("dig")?;
        let refused = dig
            .args([&elsewhere, "+tries=1", "+timeout=1", "www.example.com"])
            .text();
        assert!(refused.is_err(), "{refused:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_that_nft_denies_dns_resolves_nothing_where_the_node_leaves_all_to_the_dns_pods()
-> Result<()> {
    let mut names = Names::start(Cni::Routed)?;
    let node = names.agent.node().clone();
    // What is in the cache by now is given at the interface.
    names.resolve("www.example.com")?;
    policy(&node, &names.jump, "")?;
    // An answer at the interface precedes the policy: that is what the option is for.
    assert_eq!(names.resolve("ent.prod")?, ["10.96.2.2".parse::<IpAddr>()?]);
    names.agent.terminate();
    let flags = ["--dns-answers", "pods"];
    names.agent = Agent::with_flags(&node, &flags)?;
    for name in NAMES {
        let found = names.resolve(name);
        assert!(found.is_err(), "{name}: {found:?}");
    }
    // Others are free to ask.
    let other = node.pod("other")?;
    assert_eq!(
        resolve(&other, "ent.prod.svc.cluster.local.")?.trim(),
        "10.96.2.2"
    );
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_that_asks_the_second_service_is_answered_by_the_dns_pods() -> Result<()> {
    let mut names = Names::start(Cni::Routed)?;
    // As docs/dns.md has it.
    names.apply(
        "apiVersion: v1
kind: Service
metadata: {name: kube-dns-pods, namespace: kube-system}
spec:
  clusterIP: 10.96.0.11
  selector: {k8s-app: kube-dns}
  ports:
    - {name: dns, port: 53, protocol: UDP}
    - {name: dns-tcp, port: 53, protocol: TCP}
",
    )?;
    let ask = |name: &str| {
        let mut dig = names.jump.command("dig")?;
        dig.args(["@10.96.0.11", "+short", "+tries=1", "+timeout=2", name])
            .text()
    };
    let name = "ent.dev.svc.cluster.local";
    let found = wait::until("the second Service", PROGRAMMED, || {
        let found = ask(name)?;
        ensure!(!found.is_empty());
        Ok(found)
    })?;
    assert_eq!(found.trim(), "10.96.2.1");
    let before = names.agent.counters()?;
    for name in [name, "nothing.dev.svc.cluster.local", "www.example.com"] {
        ask(name)?;
    }
    let after = names.agent.counters()?;
    for (cause, count) in before.iter().filter(|(cause, _)| cause.starts_with("dns_")) {
        assert_eq!(after[cause], *count, "{cause}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn processes_on_the_hosts_network_resolve_and_leave_a_dns_pod_that_hangs() -> Result<()> {
    let mut world = World::start()?;
    let host = world.small.kubelet.run_pod(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "default", "name": "on-the-host"},
        "spec": {
            "nodeName": "one", "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet",
            "containers": [],
        },
    }))?;
    let cluster = "kube-dns.kube-system.svc.cluster.local.";
    let find = |name: &str| resolve(&host, name);
    wait::until("a name of the cluster", PROGRAMMED, || find(cluster))?;
    assert_eq!(find("kube-dns.kube-system")?.trim(), "10.96.0.10");
    let (v4, v6) = upstream::ADDRESSES;
    assert_eq!(find("www.example.com")?, format!("{v4}\n{v6}\n"));
    assert!(find("nothing.default").is_err());

    // This node's server hangs: after a second the other node's are asked, with the agent or without it.
    world.server.signal(Signal::SIGSTOP)?;
    std::thread::sleep(Duration::from_millis(1500));
    let node = world.small.agents[0].node().clone();
    let at_once = |what: &str| {
        for _ in 0..20 {
            let answer = dig_from(&node, cluster);
            assert_eq!(answer.expect(what).trim(), "10.96.0.10", "{what}");
        }
    };
    at_once("the server hangs");
    world.small.agents[0].kill();
    at_once("the agent is dead, too");
    world.server.signal(Signal::SIGCONT)?;
    dns::answers(&world.own, PROGRAMMED)?;
    assert_eq!(find(cluster)?.trim(), "10.96.0.10");
    // Back again at its own: the other one may go.
    world.other.kill();
    wait::until("its own server again", PROGRAMMED, || find(cluster))?;
    at_once("the other server is gone");
    world.small.agents[0].restart()?;
    world.server.kill();
    world.server = serve(&world.own, &world.small.agents[0])?;
    assert_eq!(find(cluster)?.trim(), "10.96.0.10");
    Ok(())
}

/// One question of a process of the node, with no other try.
fn dig_from(node: &Node, name: &str) -> Result<String> {
    let mut dig = node.command("dig")?;
    dig.args(["@10.96.0.10", "+short", "+tries=1", "+timeout=2", name])
        .text()
}
