//! The programs of a pod's interface, out of the object that the build puts into this binary.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, ensure};
use aya::{
    Ebpf, EbpfLoader,
    programs::{SchedClassifier, TcAttachType},
};
use signpost_common::layout::program;

use super::{pins::Pins, sys::Side, tables};

/// The BPF object; empty where the build was told to skip it.
pub static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/signpost-programs"));

/// A program of a pod's host-side interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// What the pod sends.
    FromPod,
    /// What the pod gets.
    ToPod,
}

impl Program {
    /// Both, in the order in which they are attached: what `from_pod` translates, `to_pod` must be there to undo.
    pub const ALL: [Self; 2] = [Self::ToPod, Self::FromPod];

    /// The program's name in the object.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => program::FROM_POD,
            Self::ToPod => program::TO_POD,
        }
    }

    /// The program of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }

    /// Where it runs: packets from the pod come in at its host-side interface.
    pub const fn side(self) -> Side {
        match self {
            Self::FromPod => Side::Ingress,
            Self::ToPod => Side::Egress,
        }
    }

    /// The same for aya.
    pub const fn attach_type(self) -> TcAttachType {
        match self {
            Self::FromPod => TcAttachType::Ingress,
            Self::ToPod => TcAttachType::Egress,
        }
    }
}

/// The programs, loaded into the kernel.
#[derive(Debug)]
pub struct Programs(Ebpf);

impl Programs {
    /// Loads the programs over the pinned maps.
    ///
    /// # Errors
    /// Where the kernel refuses them, with the verifier's words.
    pub fn load(pins: &Pins) -> anyhow::Result<Self> {
        ensure!(
            !OBJECT.is_empty(),
            "this binary was built without its BPF programs (SIGNPOST_SKIP_PROGRAMS)"
        );
        let mut loader = EbpfLoader::new();
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
