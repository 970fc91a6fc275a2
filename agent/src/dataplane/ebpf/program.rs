//! The programs of pods' interfaces and of the host's sockets, out of the object that the build puts into this binary.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::Map,
    programs::{CgroupSockAddr, SchedClassifier, TcAttachType},
};
use signpost_common::{
    count::COUNT_SERVICES,
    layout::{map, program},
};

use super::{
    features,
    pins::Pins,
    sys::{Side, SocketCall},
    tables,
};
use crate::interfaces::Place;

/// The BPF object; empty where the build was told to skip it.
pub static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/signpost-programs"));

/// A word of the object: whether the kernel has `bpf_set_retval` for the programs of sockets (Linux 5.18). Without it
/// a process that is refused gets `EPERM`.
const HAS_SET_RETVAL: &str = "HAS_SET_RETVAL";

/// A program of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// What a pod sends.
    FromPod,
    /// What a pod gets.
    ToPod,
    /// What comes from other machines.
    FromWire,
    /// What goes to other machines.
    ToWire,
    /// What comes from other machines without an Ethernet header.
    FromBare,
    /// What goes to other machines without one.
    ToBare,
}

impl Program {
    /// All of them, in the order in which they are attached: what arrives may only be translated where what leaves is
    /// translated back.
    pub const ALL: [Self; 6] = [
        Self::ToPod,
        Self::ToWire,
        Self::ToBare,
        Self::FromPod,
        Self::FromWire,
        Self::FromBare,
    ];

    /// Those of an interface, in the same order.
    pub const fn of(place: Place) -> [Self; 2] {
        match place {
            Place::Pod => [Self::ToPod, Self::FromPod],
            Place::Wire => [Self::ToWire, Self::FromWire],
            Place::Bare => [Self::ToBare, Self::FromBare],
        }
    }

    /// The program's name in the object.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => program::FROM_POD,
            Self::ToPod => program::TO_POD,
            Self::FromWire => program::FROM_WIRE,
            Self::ToWire => program::TO_WIRE,
            Self::FromBare => program::FROM_BARE,
            Self::ToBare => program::TO_BARE,
        }
    }

    /// The program of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }

    /// Where it runs: packets from the pod come in at its host-side interface.
    pub const fn side(self) -> Side {
        match self {
            Self::FromPod | Self::FromWire | Self::FromBare => Side::Ingress,
            Self::ToPod | Self::ToWire | Self::ToBare => Side::Egress,
        }
    }

    /// The same for aya.
    pub const fn attach_type(self) -> TcAttachType {
        match self {
            Self::FromPod | Self::FromWire | Self::FromBare => TcAttachType::Ingress,
            Self::ToPod | Self::ToWire | Self::ToBare => TcAttachType::Egress,
        }
    }
}

/// A program for what processes of the host do with their sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SocketProgram {
    /// Connecting to an IPv4 address.
    Connect4,
    /// Connecting to an IPv6 address.
    Connect6,
    /// Sending a datagram to an IPv4 address.
    Sendmsg4,
    /// Sending a datagram to an IPv6 address.
    Sendmsg6,
    /// Getting a datagram on a socket of IPv4.
    Recvmsg4,
    /// Getting a datagram on a socket of IPv6.
    Recvmsg6,
    /// Asking whom a socket of IPv4 is connected to.
    Getpeername4,
    /// Asking whom a socket of IPv6 is connected to.
    Getpeername6,
}

impl SocketProgram {
    /// All, in the order in which they are attached: those that undo a translation before those that make one.
    pub const ALL: [Self; 8] = [
        Self::Getpeername4,
        Self::Getpeername6,
        Self::Recvmsg4,
        Self::Recvmsg6,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::Connect4,
        Self::Connect6,
    ];

    /// The program's name in the object.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect4 => program::CONNECT4,
            Self::Connect6 => program::CONNECT6,
            Self::Sendmsg4 => program::SENDMSG4,
            Self::Sendmsg6 => program::SENDMSG6,
            Self::Recvmsg4 => program::RECVMSG4,
            Self::Recvmsg6 => program::RECVMSG6,
            Self::Getpeername4 => program::GETPEERNAME4,
            Self::Getpeername6 => program::GETPEERNAME6,
        }
    }

    /// What it sees.
    pub const fn call(self) -> SocketCall {
        match self {
            Self::Connect4 => SocketCall::Connect4,
            Self::Connect6 => SocketCall::Connect6,
            Self::Sendmsg4 => SocketCall::Sendmsg4,
            Self::Sendmsg6 => SocketCall::Sendmsg6,
            Self::Recvmsg4 => SocketCall::Recvmsg4,
            Self::Recvmsg6 => SocketCall::Recvmsg6,
            Self::Getpeername4 => SocketCall::Getpeername4,
            Self::Getpeername6 => SocketCall::Getpeername6,
        }
    }
}

/// The programs, loaded into the kernel.
#[derive(Debug)]
pub struct Programs(Ebpf);

impl Programs {
    /// Loads the programs over the pinned maps. `count_services` as in [`super::EbpfConfig`].
    ///
    /// # Errors
    /// Where the kernel refuses them, with the verifier's words.
    pub fn load(pins: &Pins, count_services: bool) -> anyhow::Result<Self> {
        ensure!(
            !OBJECT.is_empty(),
            "this binary was built without its BPF programs (SIGNPOST_SKIP_PROGRAMS)"
        );
        let has_set_retval = u32::from(features::has_set_retval());
        let mut loader = EbpfLoader::new();
        let count_services = u32::from(count_services);
        loader.override_global(HAS_SET_RETVAL, &has_set_retval, true);
        loader.override_global(COUNT_SERVICES, &count_services, true);
        for (name, _) in tables::pinned() {
            loader.map_pin_path(name, pins.map(name));
        }
        let mut programs = Self(loader.load(OBJECT).context("cannot load the BPF object")?);
        for program in Program::ALL {
            programs
                .classifier(program)?
                .load()
                .with_context(|| format!("the kernel refuses program {}", program.name()))?;
        }
        Ok(programs)
    }

    /// A loaded program.
    ///
    /// # Errors
    /// Where the object has no such program.
    pub fn fd(&self, program: Program) -> anyhow::Result<BorrowedFd<'_>> {
        let name = program.name();
        let found = self
            .0
            .program(name)
            .with_context(|| format!("the object has no program {name}"))?;
        Ok(found.fd()?.as_fd())
    }

    /// Loads a program for the host's sockets, where it is not.
    ///
    /// # Errors
    /// Where the kernel refuses it, with the verifier's words.
    pub fn load_socket(&mut self, program: SocketProgram) -> anyhow::Result<()> {
        let name = program.name();
        let found: &mut CgroupSockAddr = self
            .0
            .program_mut(name)
            .with_context(|| format!("the object has no program {name}"))?
            .try_into()?;
        if found.fd().is_ok() {
            return Ok(());
        }
        found
            .load()
            .with_context(|| format!("the kernel refuses program {name}"))
    }

    /// A loaded program for the host's sockets.
    ///
    /// # Errors
    /// Where the object has no such program, or it is not loaded.
    pub fn socket_fd(&self, program: SocketProgram) -> anyhow::Result<BorrowedFd<'_>> {
        let name = program.name();
        let found = self
            .0
            .program(name)
            .with_context(|| format!("the object has no program {name}"))?;
        Ok(found.fd()?.as_fd())
    }

    /// The program that learns the cookie of a network namespace, loaded, and its map.
    ///
    /// # Errors
    /// Where the kernel refuses it, with the verifier's words.
    pub fn that_learns(&mut self) -> anyhow::Result<(BorrowedFd<'_>, BorrowedFd<'_>)> {
        let missing = "the object lacks what learns the network namespace";
        let found: &mut CgroupSockAddr = self
            .0
            .program_mut(program::LEARN_NAMESPACE)
            .context(missing)?
            .try_into()?;
        if found.fd().is_err() {
            found.load()?;
        }
        let learns = self.0.program(program::LEARN_NAMESPACE).context(missing)?;
        let Some(Map::Array(map)) = self.0.map(map::LEARNED) else {
            anyhow::bail!(missing);
        };
        Ok((learns.fd()?.as_fd(), map.fd().as_fd()))
    }

    /// A program for aya's own calls.
    ///
    /// # Errors
    /// Where the object has no such classifier.
    pub fn classifier(&mut self, program: Program) -> anyhow::Result<&mut SchedClassifier> {
        let name = program.name();
        let found = self
            .0
            .program_mut(name)
            .with_context(|| format!("the object has no program {name}"))?;
        Ok(found.try_into()?)
    }
}
