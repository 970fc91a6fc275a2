//! Attaches the programs to interfaces, and takes over the links of agents before this one.
//!
//! With TCX (Linux 6.6) an attachment is a link that is pinned: it outlives the agent, and the next one replaces its
//! program without missing a packet. On older kernels it is a filter of the interface's clsact qdisc, found again by
//! its priority and handle.

use std::{collections::BTreeMap, fs, io, os::fd::AsFd, path::Path};

use anyhow::Context;
use tracing::{debug, info, warn};

use super::{
    features,
    pins::{self, Pin, Pins},
    program::{Program, Programs},
    sys,
};
use crate::interfaces::Place;

mod clsact;

pub use clsact::remove_all as remove_filters;

/// Programs of an interface: one for each direction.
const ONE_PLACE: usize = 2;

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Links on TCX, first at ingress and last at egress.
    Tcx,
    /// Filters on clsact.
    Clsact,
}

impl Hook {
    /// What this kernel has.
    pub fn of_this_kernel() -> Self {
        if features::has_tcx() {
            Self::Tcx
        } else {
            Self::Clsact
        }
    }
}

/// What is attached.
#[derive(Debug)]
pub struct Attacher {
    hook: Hook,
    attached: BTreeMap<u32, String>,
    /// Links of before still run programs over other maps: they follow once the new maps are filled.
    behind: bool,
}

impl Attacher {
    /// Takes over the links that are pinned. Their programs are replaced at once where they use these maps
    /// (`same_maps`), else in [`Attacher::catch_up`]. Links whose interface is gone are removed.
    ///
    /// # Errors
    /// Where the folder of links cannot be read or a link cannot be taken over.
    pub fn take_over(
        hook: Hook,
        pins: &Pins,
        programs: &Programs,
        same_maps: bool,
    ) -> anyhow::Result<Self> {
        let mut attacher = Self {
            hook,
            attached: BTreeMap::new(),
            behind: true,
        };
        for folder in pins.other_layouts()? {
            for pin in pins::links(&folder)? {
                attacher.find(&pin);
            }
        }
        for pin in pins.links()? {
            attacher.find(&pin);
        }
        if same_maps && pins.other_layouts()?.is_empty() {
            attacher.catch_up(pins, programs)?;
        }
        Ok(attacher)
    }

    /// Lets the links of before run the programs of this agent: the maps are filled. Folders of other layouts are
    /// removed when they have nothing more to give.
    ///
    /// # Errors
    /// Where a link cannot be taken over; it goes on as it was, and the next call tries again.
    pub fn catch_up(&mut self, pins: &Pins, programs: &Programs) -> anyhow::Result<()> {
        if !self.behind {
            return Ok(());
        }
        for program in Program::ALL {
            for pin in pins.links()?.iter().filter(|pin| pin.program == program) {
                replace(pin, programs)?;
            }
        }
        for folder in pins.other_layouts()? {
            for program in Program::ALL {
                for pin in pins::links(&folder)?
                    .iter()
                    .filter(|pin| pin.program == program)
                {
                    move_here(pin, pins, programs)?;
                }
            }
            pins::remove_layout(&folder)?;
        }
        self.behind = false;
        Ok(())
    }

    /// Attaches the programs of a place to an interface, or makes sure that they are. Those of another place go.
    ///
    /// # Errors
    /// Where they cannot be attached, with the reason; then neither is.
    pub fn attach(
        &mut self,
        pins: &Pins,
        programs: &mut Programs,
        ifindex: u32,
        name: &str,
        place: Place,
    ) -> anyhow::Result<()> {
        let all = Program::of(place);
        self.attach_some(pins, programs, ifindex, name, place, &all)?;
        self.attached.insert(ifindex, name.to_owned());
        Ok(())
    }

    /// The same with the program alone for what leaves by the interface. What arrives anywhere may only be translated
    /// where it is known of all interfaces by which it may leave that it is translated there too.
    ///
    /// # Errors
    /// As [`Attacher::attach`].
    pub fn prepare(
        &mut self,
        pins: &Pins,
        programs: &mut Programs,
        ifindex: u32,
        name: &str,
        place: Place,
    ) -> anyhow::Result<()> {
        let [leaving, _] = Program::of(place);
        self.attach_some(pins, programs, ifindex, name, place, &[leaving])
    }

    fn attach_some(
        &mut self,
        pins: &Pins,
        programs: &mut Programs,
        ifindex: u32,
        name: &str,
        place: Place,
        some: &[Program],
    ) -> anyhow::Result<()> {
        if self.behind && self.attached.contains_key(&ifindex) {
            return Ok(());
        }
        for program in Program::ALL {
            if self.hook == Hook::Tcx && !Program::of(place).contains(&program) {
                remove_if_there(&pins.link(ifindex, program))?;
            }
        }
        for &program in some {
            let done = match self.hook {
                Hook::Tcx => attach_tcx(pins, programs, ifindex, program),
                Hook::Clsact => clsact::attach(programs, ifindex, name, program),
            };
            if let Err(error) = done {
                self.detach(pins, programs, ifindex)?;
                return Err(error.context(format!("cannot attach to interface {name} ({ifindex})")));
            }
        }
        debug!(ifindex, name, hook = ?self.hook, programs = ?some, "attached");
        Ok(())
    }

    /// Detaches the programs from an interface. It may be gone already.
    ///
    /// # Errors
    /// Where a pin cannot be removed.
    pub fn detach(
        &mut self,
        pins: &Pins,
        _programs: &mut Programs,
        ifindex: u32,
    ) -> anyhow::Result<()> {
        self.attached.remove(&ifindex);
        for program in Program::ALL.into_iter().rev() {
            match self.hook {
                Hook::Tcx => {
                    let path = pins.link(ifindex, program);
                    remove_if_there(&path)
                        .with_context(|| format!("cannot remove {}", path.display()))?;
                }
                Hook::Clsact => clsact::detach(ifindex, program),
            }
        }
        Ok(())
    }

    /// The interfaces that have the programs, with their names as far as they are known.
    pub fn attached(&self) -> &BTreeMap<u32, String> {
        &self.attached
    }

    /// The interfaces that have lost a program: somebody has detached its link, removed its pin, or removed its filter.
    pub fn lost(&self, pins: &Pins) -> Vec<u32> {
        if self.behind {
            return Vec::new();
        }
        let indexes = self.attached.keys().copied();
        match self.hook {
            Hook::Tcx => {
                let Ok(pinned) = pins.links() else {
                    return Vec::new();
                };
                let mut alive: BTreeMap<u32, usize> = BTreeMap::new();
                for pin in pinned.iter().filter(|pin| is_alive(pin)) {
                    *alive.entry(pin.ifindex).or_default() += 1;
                }
                let has_lost = |index: &u32| alive.get(index).is_none_or(|n| *n < ONE_PLACE);
                indexes.filter(has_lost).collect()
            }
            Hook::Clsact => indexes.filter(|index| clsact::has_lost(*index)).collect(),
        }
    }

    /// Notes a link of before, or removes it where its interface is gone.
    fn find(&mut self, pin: &Pin) {
        if self.hook == Hook::Tcx && is_alive(pin) {
            self.attached
                .entry(pin.ifindex)
                .or_insert_with(|| name_of(pin.ifindex));
        } else if let Err(error) = remove_if_there(&pin.path) {
            warn!(path = %pin.path.display(), %error, "cannot remove the link of an interface that is gone");
        } else {
            debug!(path = %pin.path.display(), "removed the link of an interface that is gone");
        }
    }
}

fn attach_tcx(
    pins: &Pins,
    programs: &Programs,
    ifindex: u32,
    program: Program,
) -> anyhow::Result<()> {
    let pin = Pin {
        path: pins.link(ifindex, program),
        ifindex,
        program,
    };
    if is_alive(&pin) {
        return replace(&pin, programs);
    }
    remove_if_there(&pin.path)?;
    let link = sys::attach(programs.fd(program)?, ifindex, program.side())
        .with_context(|| format!("TCX refuses {}", program.name()))?;
    sys::pin(link.as_fd(), &pin.path)
        .with_context(|| format!("cannot pin a link at {}", pin.path.display()))
}

/// A link is ours to use where it is on the interface that its name says: an index may be given to another interface
/// in time, and the link of an interface that is gone has none.
fn is_alive(pin: &Pin) -> bool {
    sys::open_pinned(&pin.path)
        .and_then(|link| sys::link_info(link.as_fd()))
        .is_ok_and(|info| info.ifindex == pin.ifindex)
}

fn replace(pin: &Pin, programs: &Programs) -> anyhow::Result<()> {
    let link = sys::open_pinned(&pin.path)
        .with_context(|| format!("cannot open {}", pin.path.display()))?;
    match sys::replace_program(link.as_fd(), programs.fd(pin.program)?) {
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
            Ok(remove_if_there(&pin.path)?)
        }
        result => {
            result.with_context(|| format!("cannot replace the program of {}", pin.path.display()))
        }
    }
}

/// Gives a link of another layout the program of this one, and a pin in this layout's folder. Each step can be the
/// last one: the next agent does it again.
fn move_here(pin: &Pin, pins: &Pins, programs: &Programs) -> anyhow::Result<()> {
    if is_alive(pin) {
        let link = sys::open_pinned(&pin.path)?;
        let here = pins.link(pin.ifindex, pin.program);
        sys::replace_program(link.as_fd(), programs.fd(pin.program)?)
            .with_context(|| format!("cannot replace the program of {}", pin.path.display()))?;
        match sys::pin(link.as_fd(), &here) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.with_context(|| format!("cannot pin a link at {}", here.display()))?,
        }
        info!(
            ifindex = pin.ifindex,
            program = pin.program.name(),
            "took over a link of another layout"
        );
    }
    Ok(remove_if_there(&pin.path)?)
}

/// The interface's name, empty where there is none of this index in the calling thread's network namespace.
fn name_of(ifindex: u32) -> String {
    nix::net::if_::if_indextoname(ifindex)
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
