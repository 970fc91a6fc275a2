//! An agent that starts beside a large cluster's API server.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::contest::{self, Contest};
use crate::bench::{
    figure::{Figure, Reach},
    progress::Progress,
    scale,
    statistics::Estimate,
};

/// Starts.
const STARTS: usize = 5;

/// What one start showed.
struct Start {
    list: f64,
    seconds: f64,
    cpu_seconds: f64,
    memory: f64,
}

/// Measures it. All contestants end first.
pub(super) fn run(mut contest: Contest) -> Result<Vec<Figure>> {
    let progress = Progress::new("start", STARTS);
    contest.leave_alone();
    contest.fill_up(scale::SERVICES)?;
    contest.objects.give_many_endpoints(scale::SERVICES)?;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        starts.push(start(&mut contest)?);
        progress.step();
    }
    let figure = |what: &str, unit: &str, reach, number: fn(&Start) -> f64| {
        let samples: Vec<_> = starts.iter().map(number).collect();
        Figure {
            suite: "peers".to_owned(),
            what: format!(
                "{} Services of {} endpoints on an API server: {what}",
                scale::SERVICES,
                scale::ENDPOINTS
            ),
            unit: unit.to_owned(),
            measured: Estimate::of(&samples),
            against: None,
            reach,
            samples,
        }
    };
    Ok(vec![
        figure("start to last Service reachable", "s", None, |one| {
            one.seconds
        }),
        figure("the API server's list", "s", None, |one| one.list),
        figure(
            "start beyond the list",
            "s",
            Some(Reach::AtMost(3.0)),
            |one| one.seconds - one.list,
        ),
        figure(
            "CPU time of the agent until then",
            "s",
            Some(Reach::AtMost(3.0)),
            |one| one.cpu_seconds,
        ),
        figure(
            "resident memory and maps",
            "MB",
            Some(Reach::AtMost(250.0)),
            |one| one.memory,
        ),
    ])
}

fn start(contest: &mut Contest) -> Result<Start> {
    let lab = contest::lab()?;
    let kubeconfig = contest.connect(&lab)?;
    let pod = lab.node("one")?.pod("client")?;
    scale::serve_all(&lab)?;
    let list = contest.objects.list()?.as_secs_f64();
    let begin = Instant::now();
    let (agent, seconds, cpu_seconds) = thread::scope(|scope| {
        let prober = scope.spawn(|| scale::probe(&pod, begin));
        let agent = contest::agent(lab.node("one")?, &kubeconfig, &[])?;
        let seconds = prober
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let cpu_seconds = scale::cpu_seconds(agent.id().context("the agent has ended")?)?;
        anyhow::Ok((agent, seconds, cpu_seconds))
    })?;
    // What was only needed for the start has been given back by then.
    thread::sleep(Duration::from_secs(3));
    let id = agent.id().context("the agent has ended")?;
    Ok(Start {
        list,
        seconds,
        cpu_seconds,
        memory: scale::status(id, "VmRSS:")? + scale::maps(id)?,
    })
}
