//! Steps about the agent's end and return.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, ToSocketAddrs as _},
    time::Duration,
};

use anyhow::Context as _;
use signpost_tests::lab::{LoadRun, client::Conversation, programs, wait};

use crate::{stage::Stage, story::Story, traffic::show};

const PATIENCE: Duration = Duration::from_secs(2);

/// The agent killed: names and connections go on.
pub(crate) fn killed(story: &mut Story, stage: &mut Stage) -> anyhow::Result<()> {
    story.step("The agent is killed, and names and connections go on");
    let address = address(stage)?;
    let mut conversation = stage
        .jump
        .run(|| Conversation::start(address, PATIENCE))??;
    let before = conversation.say("before")?;
    let id = stage.agent.id().context("the agent runs")?;
    story.command("node", &format!("kill -9 {id}   (the agent)"));
    stage.agent.kill();
    for (name, namespace) in [("ent", "dev/"), ("ent.prod", "prod/")] {
        let found = show(story, stage, name)?;
        story.check(
            found.keys().all(|pod| pod.starts_with(namespace)),
            &format!("{name} resolves and connects without an agent"),
        );
    }
    let after = conversation.say("after");
    story.check(
        after.is_ok_and(|name| name == before),
        "a connection from before goes on with the same pod",
    );
    story.command("node", "signpost service list");
    let list = stage.agent.command("service list")?.text()?;
    story.output(&list);
    story.check(
        list.lines().any(|line| {
            let mut cells = line.split_whitespace();
            cells.next() == Some("prod") && cells.next() == Some("ent")
        }),
        "the operator's commands work without an agent too",
    );
    Ok(())
}

/// The agent started again: nothing is lost, and changes are followed.
pub(crate) fn started_again(story: &mut Story, stage: &mut Stage) -> anyhow::Result<()> {
    story.step("The agent starts again, under load, and nothing is lost");
    let load = LoadRun::start(&stage.jump, "ent.prod:8080", None)?;
    stage.agent.restart()?;
    story.command("node", "signpost agent --source files:…   (ready again)");
    stage.agent.kill();
    stage.agent.restart()?;
    story.command("node", "kill -9 and start once more");
    let counts = load.finish()?;
    let tcp = counts.get("tcp").context("no counts")?;
    story.check(
        tcp.failures() == 0 && tcp.successes() > 0,
        &format!(
            "{} names resolved and connections made meanwhile, {} failures",
            tcp.successes(),
            tcp.failures()
        ),
    );
    if tcp.failures() > 0 {
        story.output(&format!("{:?}", tcp.failed));
    }
    story.command(
        "control plane",
        "scale deployment/enterprise --namespace dev --replicas=2",
    );
    stage.kubelet.scale("dev", "enterprise", 2)?;
    let both = wait::until("both replicas", Duration::from_secs(5), || {
        let found = stage.visit("ent", 10)?;
        anyhow::ensure!(found.len() == 2);
        Ok(found)
    });
    for (pod, times) in both.as_ref().unwrap_or(&BTreeMap::new()) {
        story.output(&format!("{times:>3} × {pod}"));
    }
    story.check(both.is_ok(), "the new agent follows changes");
    Ok(())
}

/// What `ent.prod` leads to, as `jump` sees it.
fn address(stage: &Stage) -> anyhow::Result<SocketAddr> {
    let text = stage
        .jump
        .command(programs::lab_pod()?)?
        .args(["resolve", "ent.prod"])
        .text()?;
    let ip = text.lines().next().context("no address")?;
    (ip, 8080).to_socket_addrs()?.next().context("no address")
}
