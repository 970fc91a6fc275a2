//! What operators ask for by flags, and what the node's kernel is set to.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::ensure;
use signpost_tests::lab::{
    Outside, client,
    links::{add_route, alone},
    wait,
};

use crate::{
    small::{MOMENT, PORT, PROGRAMMED, answering, get},
    world::{self, Served, agent, ipvsadm, refusal, soon},
};

/// Those that every kernel from 5.10 on has.
const SCHEDULERS: [&str; 12] = [
    "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "ovf", "mh",
];

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn each_scheduler_of_the_kernel_serves() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    let Served {
        mut small,
        client,
        vip,
        node,
        ..
    } = world::served(&[])?;
    for scheduler in SCHEDULERS {
        small.agents.clear();
        let flags = ["--ipvs-scheduler", scheduler];
        small.agents.push(agent(&node, "ipvs", &flags)?);
        // `mh` takes the client's port into its hash, as kube-proxy has it. ipvsadm knows no third flag of these two.
        let flags = match scheduler {
            "mh" => " mh-port",
            "sh" => "",
            _ => " flag-3",
        };
        let made = format!("-A -t {} -s {scheduler} -b{flags}", vip.v4);
        wait::until(&made, PROGRAMMED, || {
            let there = ipvsadm(&node)?;
            ensure!(there.contains(&made), "{there:?}");
            Ok(())
        })?;
        for address in vip.both() {
            assert_eq!(get(&client, address)?, "default/a", "{scheduler}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn timeouts_and_settings_of_the_kernel_are_as_asked_for() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    let flags = [
        "--ipvs-tcp-timeout",
        "901",
        "--ipvs-tcp-fin-timeout",
        "121",
        "--ipvs-udp-timeout",
        "301",
    ];
    let small = world::one(&flags)?;
    let node = small.lab.node("one")?;
    let timeouts = node.command("ipvsadm")?.args(["-L", "--timeout"]).text()?;
    assert!(timeouts.contains("901 121 301"), "{timeouts}");
    // Kernels from 5.9 on take a client's port that comes back as a new connection without losing its first packet.
    for (name, value) in [
        ("net.ipv4.vs.conntrack", "1"),
        ("net.ipv4.vs.conn_reuse_mode", "1"),
        ("net.ipv4.vs.expire_nodest_conn", "1"),
        ("net.ipv4.vs.expire_quiescent_template", "1"),
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv4.conf.all.arp_ignore", "0"),
    ] {
        let found = node.command("sysctl")?.args(["-n", name]).text()?;
        assert_eq!(found.trim(), value, "{name}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn only_with_strict_arp_the_wire_is_not_told_who_has_a_services_address() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    let Served {
        mut small,
        vip,
        node,
        ..
    } = world::served(&[])?;
    let outside = Outside::new(&small.lab, 200)?;
    // As if the address were one of the wire's network.
    add_route(outside.namespace(), alone(vip.v4.ip()), None, "eth0")?;
    let ask =
        || -> anyhow::Result<String> { outside.namespace().run(|| client::get(vip.v4, MOMENT))? };
    soon("an answer", || Ok(ask()? == "default/a"))?;

    small.agents.clear();
    small
        .agents
        .push(agent(&node, "ipvs", &["--ipvs-strict-arp"])?);
    let neighbours = |arguments: &[&str]| outside.command("ip")?.args(arguments).text();
    neighbours(&["neigh", "flush", "all"])?;
    let said = refusal(ask());
    assert!(!said.contains("answered"), "{said}");
    let found = neighbours(&["neigh", "show", &vip.v4.ip().to_string()])?;
    assert!(!found.contains("lladdr"), "{found}");
    // Its own address the node says all the same.
    let own: IpAddr = node.addresses()[0];
    let said = refusal(
        outside
            .namespace()
            .run(|| client::get(SocketAddr::new(own, PORT), MOMENT))?,
    );
    assert!(said.contains("refused"), "{said}");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn what_goes_through_each_service_is_counted_where_it_is_asked_for() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    let Served {
        client,
        vip,
        node,
        small: _small,
        ..
    } = world::served(&["--count-services"])?;
    let metrics = || world::metrics(&node);
    let of = |text: &str, what: &str, family: &str| -> Option<u64> {
        let start = format!(
            "signpost_service_{what}_total{{namespace=\"default\",service=\"web\",port=\"tcp\",ip_family=\"{family}\"}} "
        );
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line?.parse().ok()
    };
    answering(&client, vip)?;
    // The kernel works out what it has counted every two seconds.
    let settled = || -> anyhow::Result<String> {
        let mut text = metrics()?;
        soon("counts that stand still", || {
            thread::sleep(Duration::from_secs(3));
            let before = std::mem::replace(&mut text, metrics()?);
            let count = of(&text, "packets_out", "IPv6");
            let same = ["connections", "packets_out"].into_iter().all(|what| {
                ["IPv4", "IPv6"].map(|f| of(&text, what, f))
                    == ["IPv4", "IPv6"].map(|f| of(&before, what, f))
            });
            Ok(same && count.is_some())
        })?;
        Ok(text)
    };
    let before = settled()?;
    for _ in 0..5 {
        get(&client, vip.v4)?;
    }
    let after = settled()?;
    let grown = |what: &str, family: &str| of(&after, what, family).zip(of(&before, what, family));
    let more = |what: &str| grown(what, "IPv4").map(|(after, before)| after - before);
    assert_eq!(more("connections"), Some(5), "{after}");
    for what in ["packets_in", "packets_out", "bytes_in", "bytes_out"] {
        assert!(more(what).is_some_and(|more| more > 5), "{what}: {after}");
        let (v6_after, v6_before) = grown(what, "IPv6").unwrap_or_default();
        assert_eq!(v6_after, v6_before, "{what} of IPv6: {after}");
    }
    assert!(!after.contains("signpost_map_entries"), "{after}");
    for name in [
        "sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
        "sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"}",
        "sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}",
        "sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"}",
        "sync_proxy_rules_endpoint_changes_pending",
        "sync_proxy_rules_service_changes_total",
        "sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"internal\"}",
    ] {
        let name = format!("kubeproxy_{name} ");
        assert!(after.contains(&name), "{name}: {after}");
    }
    Ok(())
}
