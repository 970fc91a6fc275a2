//! Clients that ask, and what that costs.

use std::{
    fs, io,
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use hickory_proto::op::ResponseCode;

use crate::{
    bench::{
        question::check,
        rounds::{Sample, pin},
        site::DNS,
        statistics::quantile,
    },
    lab::Pod,
};

/// How long a slice takes: the machine's CPU time is told in hundredths of a second.
const SLICE: Duration = Duration::from_millis(500);
/// Questions under way at a time where the server is to have enough to do.
const UNDER_WAY: usize = 64;
const PATIENCE: Duration = Duration::from_secs(1);

/// A socket in a pod that asks the cluster's DNS.
pub(super) struct Asker<'a> {
    pod: &'a Pod,
    socket: UdpSocket,
}

impl<'a> Asker<'a> {
    pub(super) fn new(pod: &'a Pod) -> Result<Self> {
        let socket = socket(pod, DNS.into())?;
        Ok(Self { pod, socket })
    }

    /// Asks once, and fails where the answer is another one.
    pub(super) fn expect(&self, question: &[u8], code: ResponseCode, records: usize) -> Result<()> {
        self.socket.send(question)?;
        let mut answer = [0; 4096];
        let length = self.socket.recv(&mut answer).context("no answer")?;
        check(&answer[..length], code, records)
    }

    /// Asks over and over: p50 and p99 in microseconds, and the machine's CPU time for each question.
    pub(super) fn slice(&self, question: &[u8]) -> Result<Sample> {
        self.pod.run(|| {
            pin()?;
            let mut times = Vec::new();
            let mut answer = [0; 4096];
            let (begin, busy) = (Instant::now(), of_the_machine()?);
            while begin.elapsed() < SLICE {
                let start = Instant::now();
                self.socket.send(question)?;
                self.socket.recv(&mut answer).context("no answer")?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            let busy = of_the_machine()? - busy;
            times.sort_by(f64::total_cmp);
            Ok(Sample {
                value: quantile(&times, 0.5),
                tail: quantile(&times, 0.99),
                cpu: busy.as_nanos() as f64 / times.len() as f64,
            })
        })?
    }
}

/// Keeps a server in user space busy with one question: answers for each second of its CPU time.
pub(super) fn load(pod: &Pod, server: IpAddr, process: u32, question: &[u8]) -> Result<Sample> {
    let socket = socket(pod, server)?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    pod.run(|| {
        pin()?;
        let mut answer = [0; 4096];
        let mut answers = 0_u32;
        let (begin, before) = (Instant::now(), of_process(process)?);
        for _ in 0..UNDER_WAY {
            socket.send(question)?;
        }
        while begin.elapsed() < 2 * SLICE {
            match socket.recv(&mut answer) {
                Ok(_) => answers += 1,
                // It was lost; another one takes its place.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            socket.send(question)?;
        }
        let spent = of_process(process)? - before;
        Ok(Sample {
            value: f64::from(answers) / spent.as_secs_f64(),
            cpu: spent.as_nanos() as f64 / f64::from(answers),
            ..Sample::default()
        })
    })?
}

fn socket(pod: &Pod, server: IpAddr) -> Result<UdpSocket> {
    pod.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((server, 53))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        anyhow::Ok(socket)
    })?
}

/// CPU time of all processors, interrupts included.
fn of_the_machine() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("an empty /proc/stat")?;
    let numbers = line.split_whitespace().skip(1).map(str::parse::<u64>);
    let ticks: Vec<u64> = numbers.collect::<Result<_, _>>()?;
    // User, nice, system, idle, waiting, interrupts, softirqs.
    let busy = [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum();
    Ok(of_ticks(busy))
}

/// CPU time of a process, all its threads.
fn of_process(id: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name in parentheses may have spaces in it.
    let (_, rest) = text.rsplit_once(')').context("no name in /proc/PID/stat")?;
    let mut fields = rest.split_whitespace().skip(11).map(str::parse::<u64>);
    let mut next = || fields.next().context("a short /proc/PID/stat");
    Ok(of_ticks(next()?? + next()??))
}

/// Clock ticks as user space is told them: hundredths of a second on every Linux (`USER_HZ`).
const fn of_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 10)
}
