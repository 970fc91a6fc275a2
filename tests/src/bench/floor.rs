//! The programs that the benchmarks measure against (`ebpf/src/bin/floor.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::AsFd as _,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use aya::{
    Ebpf, Pod,
    maps::{Array, ProgramArray},
    programs::{
        ProgramFd, SchedClassifier, TcAttachType, TestRun as _, TestRunOptions,
        tc::SchedClassifierLink,
    },
};

use crate::lab::{self, node::UPLINK};

/// Longest packet of a [`Bench`].
const LONGEST: usize = 512;

/// As in the program.
#[repr(C)]
#[derive(Clone, Copy)]
struct Repeated {
    length: u32,
    client: u32,
    began: u64,
    spent: u64,
    bytes: [u8; LONGEST],
}

// SAFETY: integers without padding.
unsafe impl Pod for Repeated {}

/// A pod whose DNS questions come back as they are. Ends when this is dropped.
#[derive(Debug)]
pub struct Echo {
    _object: Ebpf,
    _link: SchedClassifierLink,
}

impl Echo {
    /// Attaches the program where signpost's would be.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn attach(pod: &lab::Pod) -> anyhow::Result<Self> {
        let interface = pod.interface().context("a pod without an interface")?;
        let mut object = load()?;
        let link = pod.node().namespace().run(|| {
            let program = classifier(&mut object, "echo")?;
            program.load()?;
            let link = program.attach(interface, TcAttachType::Ingress)?;
            anyhow::Ok(program.take_link(link)?)
        })??;
        Ok(Self {
            _object: object,
            _link: link,
        })
    }
}

/// Programs that do nothing, in all the places where signpost's would be at these pods and their nodes. They end when this
/// is dropped.
#[derive(Debug)]
pub struct Idle {
    _object: Ebpf,
    _links: Vec<SchedClassifierLink>,
}

impl Idle {
    /// Attaches them.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn attach(pods: &[&lab::Pod]) -> anyhow::Result<Self> {
        let mut object = load()?;
        classifier(&mut object, "nothing")?.load()?;
        let mut links = Vec::new();
        let mut places = BTreeSet::new();
        for pod in pods {
            let interface = pod.interface().context("a pod without an interface")?;
            places.insert((pod.node().name(), interface));
            places.insert((pod.node().name(), UPLINK));
        }
        let nodes = pods.iter().map(|pod| (pod.node().name(), pod.node()));
        let nodes: BTreeMap<_, _> = nodes.collect();
        for (node, interface) in places {
            for side in [TcAttachType::Ingress, TcAttachType::Egress] {
                links.push(nodes[node].namespace().run(|| {
                    let program = classifier(&mut object, "nothing")?;
                    let link = program.attach(interface, side)?;
                    anyhow::Ok(program.take_link(link)?)
                })??);
            }
        }
        Ok(Self {
            _object: object,
            _links: links,
        })
    }
}

/// Runs a program again and again on one packet, which is restored before each run: signpost's programs change it, so
/// that the kernel's own repetition would show them something else from the second time on.
#[derive(Debug)]
pub struct Bench {
    object: Ebpf,
}

impl Bench {
    /// Loads it.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn new() -> anyhow::Result<Self> {
        let mut object = load()?;
        for name in ["nothing", "again"] {
            classifier(&mut object, name)?.load()?;
        }
        Ok(Self { object })
    }

    /// A program that does nothing.
    ///
    /// # Errors
    /// Where it is not loaded.
    pub fn nothing(&mut self) -> anyhow::Result<ProgramFd> {
        Ok(classifier(&mut self.object, "nothing")?.fd()?.try_clone()?)
    }

    /// Mean time of `runs` runs, restoring the packet left out. With `clients` each run is of a client of its own.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn time(
        &mut self,
        program: &ProgramFd,
        packet: &[u8],
        clients: bool,
        runs: u32,
    ) -> anyhow::Result<Duration> {
        ensure!(
            packet.len() <= LONGEST,
            "a packet of {} bytes",
            packet.len()
        );
        let mut repeated = Repeated {
            length: u32::try_from(packet.len())?,
            client: rand::random::<u32>() >> 1 | 1,
            began: 0,
            spent: 0,
            bytes: [0; LONGEST],
        };
        if !clients {
            repeated.client = 0;
        }
        repeated.bytes[..packet.len()].copy_from_slice(packet);
        let map = self.object.map_mut("repeated").context("no such map")?;
        Array::try_from(map)?.set(0, repeated, 0)?;
        let map = self.object.map_mut("subject").context("no such map")?;
        ProgramArray::try_from(map)?.set(0, program, 0)?;
        let again = classifier(&mut self.object, "again")?;
        again.test_run(TestRunOptions {
            data_in: Some(packet),
            // The end of a run is seen by the next.
            repeat: runs + 1,
            ..TestRunOptions::default()
        })?;
        let map = self.object.map("repeated").context("no such map")?;
        let spent = Array::<_, Repeated>::try_from(map)?.get(&0, 0)?.spent;
        Ok(Duration::from_nanos(spent / u64::from(runs)))
    }
}

/// What a program has counted since statistics were switched on: runs, and nanoseconds in all of them.
///
/// # Errors
/// Where procfs is not mounted.
pub fn run_time(program: &ProgramFd) -> anyhow::Result<(u64, u64)> {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fdinfo/{}", program.as_fd().as_raw_fd());
    let text = fs::read_to_string(path)?;
    let number = |field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        line.context("no such field")?
            .trim()
            .parse::<u64>()
            .context("not a number")
    };
    Ok((number("run_cnt:")?, number("run_time_ns:")?))
}

fn load() -> anyhow::Result<Ebpf> {
    let path = env!("SIGNPOST_FLOOR");
    let bytes = fs::read(path).with_context(|| format!("{path}: build the workspace first"))?;
    Ebpf::load(&bytes).context("the programs to measure against cannot be loaded")
}

fn classifier<'a>(object: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut SchedClassifier> {
    let program = object.program_mut(name);
    Ok(program
        .with_context(|| format!("no program {name}"))?
        .try_into()?)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::lab::{Cni, Lab};

    #[test]
    #[ignore = "needs root: cargo xtask test"]
    fn a_question_comes_back_as_it_was_sent() -> anyhow::Result<()> {
        let lab = Lab::builder().node("one", Cni::Routed).start()?;
        let pod = lab.node("one")?.pod("client")?;
        let _echo = Echo::attach(&pod)?;
        let answer = pod.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect("10.96.0.10:53")?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            socket.send(b"anything")?;
            let mut answer = [0; 16];
            let length = socket.recv(&mut answer)?;
            anyhow::Ok(answer[..length].to_vec())
        })??;
        assert_eq!(answer, b"anything");
        Ok(())
    }

    #[test]
    #[ignore = "needs root: cargo xtask test"]
    fn a_program_that_does_nothing_takes_some_time_to_repeat() -> anyhow::Result<()> {
        let mut bench = Bench::new()?;
        let nothing = bench.nothing()?;
        for clients in [false, true] {
            let time = bench.time(&nothing, &[0; 100], clients, 1000)?;
            assert!(
                time > Duration::ZERO && time < Duration::from_micros(10),
                "{time:?}"
            );
        }
        Ok(())
    }
}
