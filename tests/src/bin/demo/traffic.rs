//! Steps about where connections go.

use std::{collections::BTreeMap, time::Instant};

use anyhow::ensure;
use signpost_tests::lab::wait;

use crate::{
    stage::{Stage, TIMES},
    story::Story,
};

/// The short name leads to the pod's own namespace.
pub(crate) fn own_namespace(story: &mut Story, stage: &Stage) -> anyhow::Result<()> {
    story.step("The short name ent leads to the pods of its own namespace");
    visit(story, stage, "ent", "dev/")
}

/// A name with a namespace leads there.
pub(crate) fn other_namespace(story: &mut Story, stage: &Stage) -> anyhow::Result<()> {
    story.step("The name ent.prod leads to the pods of prod");
    visit(story, stage, "ent.prod", "prod/")
}

/// The full name leads to the same.
pub(crate) fn full_name(story: &mut Story, stage: &Stage) -> anyhow::Result<()> {
    story.step("The full name ent.prod.svc.cluster.local does the same");
    visit(story, stage, "ent.prod.svc.cluster.local", "prod/")
}

/// One pod less: the traffic moves.
pub(crate) fn replica_removed(story: &mut Story, stage: &mut Stage) -> anyhow::Result<()> {
    story.step("A replica goes, and its traffic moves to the other");
    story.command(
        "control plane",
        "scale deployment/enterprise --namespace dev --replicas=1",
    );
    stage.kubelet.scale("dev", "enterprise", 1)?;
    let start = Instant::now();
    let remaining: Vec<_> = stage
        .kubelet
        .replicas("dev", "enterprise")
        .iter()
        .map(|pod| format!("dev/{}", pod.name()))
        .collect();
    wait::until("the change", std::time::Duration::from_secs(5), || {
        let found = stage.visit("ent", 5)?;
        ensure!(found.keys().all(|name| remaining.contains(name)));
        Ok(())
    })?;
    story.say(&format!("   moved within {:.0?}", start.elapsed()));
    let found = show(story, stage, "ent")?;
    story.check(
        found.keys().eq(&remaining),
        "every connection goes to the pod that is left",
    );
    Ok(())
}

fn visit(story: &mut Story, stage: &Stage, name: &str, namespace: &str) -> anyhow::Result<()> {
    let resolve = format!("getent ahostsv4 {name}");
    story.command("dev/jump", &resolve);
    let output = stage.run(&stage.jump, &resolve)?;
    story.output(&String::from_utf8_lossy(&output.stdout));
    let found = show(story, stage, name)?;
    story.check(
        found.len() == 2 && found.keys().all(|pod| pod.starts_with(namespace)),
        &format!("both replicas of {namespace}enterprise answer, and nobody else"),
    );
    Ok(())
}

/// Visits a name many times and shows who answered.
pub(crate) fn show(
    story: &Story,
    stage: &Stage,
    name: &str,
) -> anyhow::Result<BTreeMap<String, u64>> {
    story.command(
        "dev/jump",
        &format!("get http://{name}:8080   ({TIMES} times)"),
    );
    let found = stage.visit(name, TIMES)?;
    for (pod, times) in &found {
        story.output(&format!("{times:>3} × {pod}"));
    }
    Ok(found)
}
