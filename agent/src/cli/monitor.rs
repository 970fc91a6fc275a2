//! `signpost monitor`: what happens on this node, as it happens.

mod agent;
mod filter;
mod pods;
mod row;

use std::{
    future::pending,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::interval,
};

use self::{
    agent::News,
    filter::Filter,
    pods::PodNames,
    row::{HEADING, Row, WallClock},
};
use super::{ReadArgs, output::Format, print, read::ipvs};
use crate::{dataplane::ebpf::log::KernelLog, feed, feed::logged::Logged};

/// How often the programs are told that somebody still reads.
const RENEWAL: Duration = Duration::from_secs(1);
/// News of the agent that wait.
const NEWS: usize = 1024;
/// Answers that are printed at once.
const BATCH: usize = 256;

/// What can be watched.
#[derive(Debug, Subcommand)]
pub enum MonitorVerb {
    /// Every DNS question that is answered on this node: who asked what, what was answered, by whom, in how many microseconds
    Dns(Box<DnsArgs>),
}

/// Flags of `signpost monitor dns`.
#[derive(Args, Debug)]
pub struct DnsArgs {
    #[command(flatten)]
    read: ReadArgs,

    /// Folder with the agent's socket
    #[arg(
        long,
        env = "SIGNPOST_RUN_FOLDER",
        value_name = "DIR",
        default_value = "/run/signpost"
    )]
    run_folder: PathBuf,

    #[command(flatten)]
    filter: Filter,
}

impl MonitorVerb {
    /// Watches until it is interrupted or nobody reads what it prints.
    ///
    /// # Errors
    /// Where there is nothing to watch, or somebody else does.
    pub fn run(self) -> anyhow::Result<()> {
        let Self::Dns(args) = self;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(watch(&args))
    }
}

async fn watch(args: &DnsArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut kernel = kernel(&args.read)?;
    let (news_in, mut news) = mpsc::channel(NEWS);
    let socket = args.run_folder.join(feed::SOCKET);
    let agent = tokio::spawn(agent::follow(socket.clone(), news_in));
    let mut screen = Screen::new(args)?;
    let mut renewal = interval(RENEWAL);
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = renewal.tick() => {
                if let Some(kernel) = &mut kernel {
                    kernel.get_ref().keep_on()?;
                    screen.lost(kernel.get_mut().take_lost()?)?;
                }
            }
            Some(said) = news.recv() => screen.hear(&socket, said)?,
            read = readable(&mut kernel) => {
                for logged in read? {
                    screen.show(&logged)?;
                }
            }
        }
        screen.flush()?;
    }
    agent.abort();
    Ok(())
}

/// What the programs tell; `None` where there are none.
fn kernel(read: &ReadArgs) -> anyhow::Result<Option<AsyncFd<KernelLog>>> {
    if ipvs::is_on(read) {
        return Ok(None);
    }
    let log = KernelLog::open(&read.instance.bpffs_root)?;
    // SAFETY: the descriptor is the log's own, which keeps it open and always says the same.
    let polled = unsafe { AsyncFd::register(log) };
    Ok(Some(polled?))
}

async fn readable(kernel: &mut Option<AsyncFd<KernelLog>>) -> io::Result<Vec<Logged>> {
    let Some(kernel) = kernel else {
        return pending().await;
    };
    let mut guard = kernel.readable_mut().await?;
    let mut read = Vec::new();
    while read.len() < BATCH {
        let Some(logged) = guard.get_inner_mut().read() else {
            guard.clear_ready();
            break;
        };
        read.push(logged);
    }
    Ok(read)
}

/// What is printed.
#[derive(Debug)]
struct Screen<'a> {
    filter: &'a Filter,
    format: Format,
    pods: PodNames,
    clock: WallClock,
    text: String,
}

impl<'a> Screen<'a> {
    fn new(args: &'a DnsArgs) -> anyhow::Result<Self> {
        let format = args.read.output.output;
        let heading = match format {
            Format::Table => HEADING.to_owned() + "\n",
            Format::Json => String::new(),
        };
        Ok(Self {
            filter: &args.filter,
            format,
            pods: PodNames::default(),
            clock: WallClock::new().context("the clocks cannot be read")?,
            text: heading,
        })
    }

    fn hear(&mut self, socket: &Path, said: News) -> anyhow::Result<()> {
        match said {
            News::Event(event) => self.pods.apply(event),
            News::Logged(logged) => {
                self.lost(logged.lost)?;
                self.show(&logged)?;
            }
            News::There => self.pods = PodNames::default(),
            News::Away(why) => note(&format!(
                "the agent cannot be heard at {} ({why}): answers of signpost dns are not shown until it can",
                socket.display()
            ))?,
        }
        Ok(())
    }

    fn show(&mut self, logged: &Logged) -> anyhow::Result<()> {
        let pod = self.pods.of(&logged.client);
        if !self.filter.wants(logged, pod) {
            return Ok(());
        }
        let row = Row::new(logged, pod, &self.clock);
        match self.format {
            Format::Table => self.text += &row.text(),
            Format::Json => self.text += &serde_json::to_string(&row)?,
        }
        self.text.push('\n');
        Ok(())
    }

    fn lost(&self, answers: u64) -> io::Result<()> {
        match answers {
            0 => Ok(()),
            lost => note(&format!(
                "{lost} answers are not shown: there were more than could be read"
            )),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.text.is_empty() {
            print(&self.text)?;
            self.text.clear();
        }
        Ok(())
    }
}

/// Says something beside what is printed.
fn note(text: &str) -> io::Result<()> {
    writeln!(io::stderr(), "signpost: {text}")
}
