//! The end of the story where the kernel has no BPF, or denies it.

use anyhow::Context as _;

use crate::{stage::Stage, story::Story};

/// How the agent came to the virtual server, and what that has done.
pub(crate) fn virtual_servers(story: &mut Story, stage: &Stage) -> anyhow::Result<()> {
    story.step("It was the kernel's virtual server, and the agent says why");
    let log = stage.agent.log();
    let why = log
        .lines()
        .rfind(|line| line.contains("how Services are carried"))
        .context("the agent does not say how it carries Services")?;
    story.output(why);
    story.check(
        why.contains("mode eBPF is not possible"),
        "BPF cannot be had here",
    );
    story.command("node", "signpost backend list");
    let backends = stage.agent.command("backend list")?.text()?;
    story.output(&backends);
    story.command("node", "ipvsadm -Ln --stats");
    let counted = match stage
        .agent
        .node()
        .command("ipvsadm")?
        .args(["-Ln", "--stats"])
        .text()
    {
        Ok(counted) => counted,
        Err(error) => {
            story.check(false, &format!("{error:#}; apt-get install ipvsadm"));
            return Ok(());
        }
    };
    story.output(&counted);
    let connections: u64 = counted
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let is_server = words.next() == Some("TCP") && words.next()?.ends_with(":8080");
            words.next()?.parse::<u64>().ok().filter(|_| is_server)
        })
        .sum();
    story.check(
        connections > 0,
        &format!("{connections} connections to the example's Services went through it"),
    );
    Ok(())
}
