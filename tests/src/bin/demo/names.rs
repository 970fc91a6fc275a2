//! Steps about names.

use std::collections::BTreeMap;

use signpost_tests::lab::{dns, upstream};

use crate::{stage::Stage, story::Story};

/// What a pod is told about names.
pub(crate) fn resolv_conf(story: &mut Story, stage: &Stage) -> anyhow::Result<()> {
    story.step("What a pod is told about names");
    let command = "cat /etc/resolv.conf";
    story.command("dev/jump", command);
    let text = text(stage.run(&stage.jump, command)?);
    story.output(&text);
    story.check(
        text.contains("nameserver 10.96.0.10")
            && text.contains("search dev.svc.cluster.local svc.cluster.local cluster.local")
            && text.contains("ndots:5"),
        "the cluster's DNS address, a search list, ndots:5",
    );
    Ok(())
}

/// The name that every tutorial begins with.
pub(crate) fn kubernetes(story: &mut Story, stage: &Stage) -> anyhow::Result<()> {
    story.step("The Service kubernetes has its name");
    for (place, pod, command) in [
        ("default/tools", &stage.tools, "nslookup kubernetes"),
        ("dev/jump", &stage.jump, "nslookup kubernetes.default"),
    ] {
        story.command(place, command);
        let text = match stage.run(pod, command) {
            Ok(output) => text(output),
            Err(error) => {
                story.check(false, &format!("{error:#}; apt-get install bind9-dnsutils"));
                continue;
            }
        };
        story.output(&text);
        let has = |key: &str, value: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(':'));
            lines.any(|(k, v)| k == key && v.trim() == value)
        };
        story.check(
            has("Server", "10.96.0.10") && has("Address", "10.96.0.1"),
            "10.96.0.10 answers 10.96.0.1",
        );
    }
    Ok(())
}

/// An external name: the search list's misses are answered on the node, by the kernel where it has programs.
pub(crate) fn outside(story: &mut Story, stage: &Stage) -> anyhow::Result<()> {
    story.step(if stage.by_programs {
        "An external name: six search-list misses never leave the kernel"
    } else {
        "An external name: six search-list misses never leave the node"
    });
    let counters = || match stage.by_programs {
        true => stage.agent.counters(),
        false => Ok(BTreeMap::new()),
    };
    let before = counters()?;
    let asked_before = stage.upstream.questions().len();
    let command = "getent ahosts www.example.com";
    story.command("dev/jump", command);
    let text = text(stage.run(&stage.jump, command)?);
    story.output(&text);
    let found = text.contains(&upstream::ADDRESSES.0.to_string())
        && text.contains(&upstream::ADDRESSES.1.to_string());
    story.check(found, "it has its addresses");
    if stage.by_programs {
        misses(story, &grown(&before, &counters()?));
    }
    let asked = stage.upstream.questions().split_off(asked_before);
    story.say("   what the name server outside was asked:");
    story.output(&asked.join("\n"));
    story.check(
        !asked.is_empty() && asked.iter().all(|q| q.starts_with("www.example.com. ")),
        "no miss reached the world",
    );
    Ok(())
}

fn misses(story: &mut Story, grown: &BTreeMap<String, u64>) {
    story.command("node", "signpost counters   (what has grown)");
    for (cause, packets) in grown {
        story.output(&format!("{cause:<24} {packets:>6}"));
    }
    let count = |cause: &str| grown.get(cause).copied().unwrap_or(0);
    story.check(
        count("dns_nxdomain") == 6,
        "six misses answered in the kernel: three suffixes, A and AAAA",
    );
    story.check(
        count("dns_outside") == 2,
        "two questions went on to signpost dns: A and AAAA of the name itself",
    );
}

/// The proof that it was the kernel.
pub(crate) fn counters(story: &mut Story, stage: &Stage) -> anyhow::Result<()> {
    story.step("It was the kernel: names with no server running, and the counters");
    stage.dns.kill();
    story.command("node", "kill -9 $(pidof signpost dns)");
    let before = stage.agent.counters()?;
    for name in ["ent", "ent.prod"] {
        story.command("dev/jump", &format!("getent ahostsv4 {name}"));
        let output = stage.run(&stage.jump, &format!("getent ahostsv4 {name}"))?;
        let held = output.status.success();
        story.output(&text(output));
        story.check(held, "resolved, and nobody in user space could have");
    }
    let after = stage.agent.counters()?;
    let grown = grown(&before, &after);
    let answers: u64 = ["dns_answered", "dns_nodata", "dns_nxdomain"]
        .iter()
        .filter_map(|cause| grown.get(*cause))
        .sum();
    story.check(
        answers > 0,
        &format!("{answers} answers of the kernel meanwhile"),
    );
    story.command("node", "signpost counters");
    let table = stage.agent.command("counters")?.text()?;
    story.output(&table);
    for cause in [
        "dns_answered",
        "dns_nxdomain",
        "flow_created",
        "translated",
        "reversed",
    ] {
        let packets = after.get(cause).copied().unwrap_or(0);
        story.check(packets > 0, &format!("{cause}: {packets}"));
    }
    dns::serve(&stage.dns, &stage.agent)?;
    story.say("   signpost dns is started again");
    Ok(())
}

/// The counters that have grown, and by how much.
fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    after
        .iter()
        .map(|(cause, packets)| {
            let old = before.get(cause).copied().unwrap_or(0);
            (cause.clone(), packets.saturating_sub(old))
        })
        .filter(|(_, more)| *more > 0)
        .collect()
}

fn text(output: std::process::Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}
