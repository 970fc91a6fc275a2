//! The test programs that run on other kernels, and what comes of them.

use std::path::PathBuf;

use anyhow::{bail, ensure};
use xtask::errand::Command;

use super::Work;
use crate::{
    progress::Spinner,
    project,
    test::{
        executables::{self, Executable},
        outcome::{Outcome, Skipped},
    },
};

/// How much of the suites is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// What shows the most in a few minutes.
    Quick,
    /// What shows what kernels differ in.
    Usual,
    /// All that runs there at all.
    Full,
}

/// Which of a suite's tests.
#[derive(Clone, Copy, Debug)]
enum Which {
    All,
    /// Those with one of these in their path.
    With(&'static [&'static str]),
    None,
}

impl Suite {
    /// The words in the paths of the tests that are run; none for all. `None` where none are.
    fn words(&self, extent: Extent) -> Option<Vec<String>> {
        let which = match extent {
            Extent::Quick => self.quick,
            Extent::Usual => self.usual,
            Extent::Full => Which::All,
        };
        match which {
            Which::All => Some(Vec::new()),
            Which::With(words) => Some(words.iter().copied().map(str::to_owned).collect()),
            Which::None => None,
        }
    }
}

/// A suite of `tests/tests` that runs on other kernels.
struct Suite {
    name: &'static str,
    /// Tests that do not run there.
    not: &'static [&'static str],
    /// Those that show what kernels differ in.
    usual: Which,
    /// Those that show the most in a few minutes.
    quick: Which,
    /// At most so many at a time; 0 for as many as there are processors.
    threads: usize,
}

const SUITES: [Suite; 5] = [
    Suite {
        name: "programs",
        not: &[
            // Times are not those of emulated processors, and older kernels account maps as if they were full.
            "times::",
            "budgets::the_maps_take_no_more_memory_than_planned",
        ],
        usual: Which::All,
        quick: Which::With(&[
            "budgets::",
            "cluster_ips::",
            "dns::names::",
            "fragments::",
            "icmp::",
            "no_endpoints::",
            "translation::",
        ]),
        threads: 0,
    },
    Suite {
        name: "dataplane",
        not: &[
            // What TCX has, tested where there is TCX.
            "attaching::an_interface_has_the_programs_of_one_place",
            "attaching::an_interface_with_the_index_of_one_that_is_gone_has_nothing_of_it",
            "attaching::links_",
            // As above.
            "volume::many_names_take_no_more_memory_than_planned",
        ],
        usual: Which::With(&[
            "a_filter_that_somebody_removes",
            "a_restart_with_the_same_state",
            "an_uplink_is_found",
            "packets_without_an_ethernet_header",
            "without_tcx",
        ]),
        quick: Which::With(&["a_filter_that_somebody_removes", "without_tcx"]),
        threads: 1,
    },
    Suite {
        name: "it",
        not: &[
            "api_server::",
            "migration::",
            "musl",
            "programs_that_somebody_detaches",
        ],
        // Of each subject one, with routed pods and with pods at a bridge: an agent that starts waits a minute for an emulated
        // verifier.
        usual: Which::With(&[
            "a_client_learns_the_mtu",
            "a_pod_reaches_itself",
            "errors::a_service_without_endpoints_refuses",
            "an_agent_that_is_killed_and_comes_back",
            "connected_socket_whose_backend_dies",
            "dig_gets_the_same_answer",
            "fragments_may_come_in_another_order",
            "node_ports_are_served_to_processes",
            "outside_clients_reach_backends",
            "processes_of_the_host_reach",
            "tcp_and_udp_reach",
            "udp_leaves_a_dead_backend",
        ]),
        quick: Which::With(&["tcp_and_udp_reach", "processes_of_the_host_reach"]),
        threads: 1,
    },
    Suite {
        name: "ipvs",
        not: &[],
        usual: Which::All,
        quick: Which::With(&["pods_and_the_node_reach"]),
        threads: 1,
    },
    Suite {
        name: "differential",
        not: &["differential_signpost_shows"],
        usual: Which::All,
        quick: Which::None,
        threads: 1,
    },
];

/// Emulated processors are slower by this.
const SLOWNESS: &str = "10";

/// A command with its name, and how many tests of it do not run.
pub(super) struct Part {
    name: String,
    pub(super) command: Command,
    skipped: Vec<Skipped>,
    /// Tests of the suite that do not run, for whatever reason.
    left_out: usize,
    /// What it prints is kept, and it is no test.
    note: bool,
}

impl Part {
    pub(super) fn new(name: &str, command: Command) -> Self {
        Self {
            name: name.to_owned(),
            command,
            skipped: Vec::new(),
            left_out: 0,
            note: false,
        }
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Tests of the suite that do not run, for whatever reason.
    pub(super) const fn left_out(&self) -> usize {
        self.left_out
    }

    /// Whether what it prints is kept, and it is no test.
    pub(super) const fn is_note(&self) -> bool {
        self.note
    }
}

/// The programs that tests start.
pub(super) fn programs_of_the_laboratory() -> Vec<PathBuf> {
    let built = project::target().join("debug");
    let programs = ["signpost", "lab-pod", "demo"].map(|name| built.join(name));
    programs.into_iter().filter(|path| path.is_file()).collect()
}

/// What commands there find in their environment.
pub(super) fn environment() -> Vec<(String, String)> {
    let built = project::target().join("debug/signpost");
    let variables = [
        ("SIGNPOST_BIN", built.display().to_string()),
        ("RUST_BACKTRACE", "1".to_owned()),
        ("SIGNPOST_LAB_SLOWNESS", SLOWNESS.to_owned()),
    ];
    variables
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
}

/// Builds the suites and says what is to run of them: what fits the filters, or else as much as is wanted.
pub(super) fn work(suites: &[String], filters: &[String], extent: Extent) -> anyhow::Result<Work> {
    let mut wanted: Vec<&str> = suites.iter().map(String::as_str).collect();
    if wanted.is_empty() {
        wanted = SUITES.iter().map(|suite| suite.name).collect();
    }
    let executables = {
        let _spinner = Spinner::new("building the tests");
        executables::build_some(&wanted)?
    };
    let mut work = Work {
        programs: programs_of_the_laboratory(),
        parts: vec![doctor()],
    };
    for executable in &executables {
        let suite = SUITES.iter().find(|suite| {
            let name = executable.name.rsplit('/').next();
            name == Some(suite.name)
        });
        let filters = match suite {
            Some(suite) if filters.is_empty() => suite.words(extent),
            _ => Some(filters.to_vec()),
        };
        let Some(filters) = filters else { continue };
        if let Some(part) = part(executable, suite, &filters)? {
            work.programs.push(executable.path.clone());
            work.parts.push(part);
        }
    }
    ensure!(work.tests().next().is_some(), "no test has such a name");
    Ok(work)
}

fn doctor() -> Part {
    let program = project::target()
        .join("debug/signpost")
        .display()
        .to_string();
    let command = Command {
        program,
        // So that what is only a way out of another one is tried too.
        arguments: ["doctor", "--netfilter", "iptables", "-o", "json"]
            .map(str::to_owned)
            .to_vec(),
        environment: environment(),
        folder: "/".to_owned(),
    };
    Part {
        note: true,
        ..Part::new("signpost doctor", command)
    }
}

/// A test program with its arguments; none where no test is left.
fn part(
    executable: &Executable,
    suite: Option<&Suite>,
    filters: &[String],
) -> anyhow::Result<Option<Part>> {
    let tests = executable.list(filters, Some("--ignored"))?;
    let mut arguments = vec!["--ignored".to_owned()];
    arguments.extend_from_slice(filters);
    let not = suite.map_or(&[][..], |suite| suite.not);
    let left_out = tests
        .iter()
        .filter(|test| not.iter().any(|words| test.contains(words)))
        .count();
    if tests.len() == left_out {
        return Ok(None);
    }
    let all = executable.list(&[], Some("--ignored"))?.len();
    for words in not {
        arguments.extend(["--skip", words].map(str::to_owned));
    }
    let threads = suite.map_or(0, |suite| suite.threads);
    if threads > 0 {
        arguments.push(format!("--test-threads={threads}"));
    }
    let folder = executable.folder.display().to_string();
    let mut environment = environment();
    environment.push(("CARGO_MANIFEST_DIR".to_owned(), folder.clone()));
    let mut part = Part::new(
        &executable.name,
        Command {
            program: executable.path.display().to_string(),
            arguments,
            environment,
            folder,
        },
    );
    part.left_out = all - (tests.len() - left_out);
    if left_out > 0 {
        part.skipped.push(Skipped {
            tests: left_out,
            reason:
                "needs what emulated machines of every kernel have not: see xtask/src/vm/suite.rs"
                    .to_owned(),
        });
    }
    Ok(Some(part))
}

/// What a machine has said so far.
pub(super) struct Hearing<'a> {
    kernel: &'a str,
    parts: &'a [Part],
    /// Everything is shown at once.
    show: bool,
    running: Option<(usize, Outcome, String, Spinner)>,
    done: Vec<String>,
    ended: usize,
    heard: Heard,
}

/// What a machine has said in all.
#[derive(Default)]
pub(super) struct Heard {
    /// What came of the tests, in their order.
    pub(super) outcomes: Vec<Outcome>,
    /// The tests that ended, for each of them.
    pub(super) tests: Vec<Vec<String>>,
    /// What other commands have printed, with their names.
    pub(super) notes: Vec<(String, String)>,
    /// The highest exit status.
    pub(super) status: i32,
}

impl<'a> Hearing<'a> {
    pub(super) fn new(kernel: &'a str, parts: &'a [Part], show: bool) -> Self {
        Self {
            kernel,
            parts,
            show,
            running: None,
            done: Vec::new(),
            ended: 0,
            heard: Heard::default(),
        }
    }

    pub(super) fn begins(&mut self, number: usize) {
        let Some(part) = self.parts.get(number) else {
            return;
        };
        let name = format!("{}: {}", self.kernel, part.name);
        let outcome = Outcome {
            name: name.clone(),
            skipped: part.skipped.clone(),
            ..Outcome::default()
        };
        self.done.clear();
        self.running = Some((number, outcome, String::new(), Spinner::new(name)));
    }

    pub(super) fn line(&mut self, line: &str) {
        if self.show {
            println!("{line}");
        }
        let Some((_, outcome, output, spinner)) = &mut self.running else {
            return;
        };
        let test = line.strip_prefix("test ");
        if let Some((test, _)) = test.and_then(|test| test.split_once(" ... ")) {
            self.done.push(test.to_owned());
            spinner.say(format!("{}: {} done", outcome.name, self.done.len()));
        }
        outcome.read(line);
        output.push_str(line);
        output.push('\n');
    }

    pub(super) fn ended(&mut self, number: usize, status: i32) {
        let Some((running, mut outcome, output, spinner)) = self.running.take() else {
            return;
        };
        drop(spinner);
        self.ended += 1;
        outcome.broken = running != number || (status != 0 && outcome.failed == 0);
        if status != 0 && !self.show {
            println!("{output}\n{}: exit status {status}", outcome.name);
        }
        self.heard.status = self.heard.status.max(status);
        match self.parts.get(running) {
            Some(part) if part.is_note() => self.heard.notes.push((part.name.clone(), output)),
            _ => {
                self.heard.outcomes.push(outcome);
                self.heard.tests.push(std::mem::take(&mut self.done));
            }
        }
    }

    /// What came of all. Fails where the machine ended before its work.
    pub(super) fn finish(self) -> anyhow::Result<Heard> {
        if let Some((_, outcome, output, _)) = self.running {
            println!("{output}");
            bail!("the machine ended while {} ran", outcome.name);
        }
        if self.ended < self.parts.len() {
            bail!("the machine ended before its work");
        }
        Ok(self.heard)
    }
}
