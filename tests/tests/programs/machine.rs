//! Runs a program on a packet: in the host's build of the logic, or in the kernel.

mod kernel;
mod verified;

use std::{collections::HashMap, sync::MutexGuard};

use signpost_common::{
    Cause,
    count::ServiceCount,
    flow::{FlowKey, FlowValue},
    name::NameKey,
    tally::DnsCounts,
};
use signpost_ebpf::{
    Verdict,
    host::{Frame, Memory},
};

use crate::{packets::Family, world::World};
pub(crate) use kernel::{Kernel, kernel};
pub(crate) use verified::{data, verify};

/// The programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    FromPod,
    ToPod,
    FromWire,
    ToWire,
    FromBare,
    ToBare,
}

impl Program {
    pub(crate) const ALL: [Self; 6] = [
        Self::FromPod,
        Self::ToPod,
        Self::FromWire,
        Self::ToWire,
        Self::FromBare,
        Self::ToBare,
    ];
}

/// What a program did with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) action: Action,
    pub(crate) packet: Vec<u8>,
    /// What was counted, each once, in order of number.
    pub(crate) causes: Vec<Cause>,
}

/// What becomes of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Continue,
    SendBack,
    Drop,
}

/// What runs the programs. It keeps the flows that they record.
pub(crate) struct Machine {
    world: World,
    kernel: Option<MutexGuard<'static, Kernel>>,
}

impl Machine {
    /// The host's build.
    pub(crate) fn host(world: World) -> Self {
        Self {
            world,
            kernel: None,
        }
    }

    /// The kernel, alone until this is dropped. Needs root.
    pub(crate) fn kernel(world: World) -> Self {
        let mut kernel = kernel();
        kernel.fill(&world);
        kernel.fill_flows(&world);
        Self {
            world,
            kernel: Some(kernel),
        }
    }

    /// The shortest packet that it takes. The kernel wants an IP header where a packet's type says that there is one.
    pub(crate) fn shortest(&self, family: Family) -> usize {
        match (&self.kernel, family) {
            (None, _) => 0,
            (Some(_), Family::V4) => 14 + 20,
            (Some(_), Family::V6) => 14 + 40,
        }
    }

    /// Whether it is the kernel.
    pub(crate) fn is_kernel(&self) -> bool {
        self.kernel.is_some()
    }

    /// Replaces everything, the flows too.
    pub(crate) fn load(&mut self, world: World) {
        self.world = world;
        if let Some(kernel) = &mut self.kernel {
            kernel.fill(&self.world);
            kernel.fill_flows(&self.world);
        }
    }

    /// Changes what the agent has written; the flows stay.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut World)) {
        change(&mut self.world);
        if let Some(kernel) = &mut self.kernel {
            kernel.fill(&self.world);
        }
    }

    /// Forgets every flow, as eviction may.
    pub(crate) fn forget_flows(&mut self) {
        self.world.flows.borrow_mut().clear();
        self.world.fragments.borrow_mut().clear();
        self.world.affinity.borrow_mut().clear();
        if let Some(kernel) = &mut self.kernel {
            kernel.fill_flows(&self.world);
        }
    }

    /// Lets so many nanoseconds pass for clients that stay with their backends.
    pub(crate) fn age_affinity(&mut self, nanoseconds: u64) {
        let mut affinity = match &mut self.kernel {
            Some(kernel) => kernel.affinity(),
            None => self.world.affinity.borrow().clone(),
        };
        for value in affinity.values_mut() {
            value.last_used -= nanoseconds;
        }
        *self.world.affinity.borrow_mut() = affinity;
        if let Some(kernel) = &mut self.kernel {
            kernel.fill_affinity(&self.world);
        }
    }

    /// Replaces the flows that are recorded.
    pub(crate) fn set_flows(&mut self, flows: impl IntoIterator<Item = (FlowKey, FlowValue)>) {
        *self.world.flows.borrow_mut() = flows.into_iter().collect();
        if let Some(kernel) = &mut self.kernel {
            kernel.fill_flows(&self.world);
        }
    }

    /// What went through service ports on the host's build.
    pub(crate) fn service_counts(&self) -> HashMap<u32, ServiceCount> {
        self.world.service_counts.borrow().clone()
    }

    /// How often an answer to a question outside of the cluster was given.
    pub(crate) fn outside_hits(&mut self, key: &NameKey) -> Option<u64> {
        match &mut self.kernel {
            Some(kernel) => kernel.outside_hits(key),
            None => {
                let answers = self.world.answers_outside.borrow();
                answers.get(key).map(|answer| answer.head.hits)
            }
        }
    }

    /// What was counted of answers to DNS questions.
    pub(crate) fn dns_counts(&self) -> DnsCounts {
        match &self.kernel {
            Some(kernel) => kernel.dns_counts(),
            None => **self.world.dns_counts.borrow(),
        }
    }

    /// What was told of answers since the last call.
    pub(crate) fn log(&mut self) -> Vec<Vec<u8>> {
        match &mut self.kernel {
            Some(kernel) => kernel.log(),
            None => self.world.log.take(),
        }
    }

    /// The flows that are recorded.
    pub(crate) fn flows(&mut self) -> Vec<(FlowKey, FlowValue)> {
        match &mut self.kernel {
            Some(kernel) => kernel.flows(),
            None => {
                let flows = self.world.flows.borrow();
                flows.iter().map(|(key, value)| (*key, *value)).collect()
            }
        }
    }

    /// Runs `from_pod`.
    pub(crate) fn pod_sends(&mut self, packet: &[u8]) -> Done {
        self.run(Program::FromPod, packet)
    }

    /// Runs `to_pod`.
    pub(crate) fn pod_gets(&mut self, packet: &[u8]) -> Done {
        self.run(Program::ToPod, packet)
    }

    /// Runs `from_wire`.
    pub(crate) fn wire_brings(&mut self, packet: &[u8]) -> Done {
        self.run(Program::FromWire, packet)
    }

    /// Runs `to_wire`.
    pub(crate) fn wire_takes(&mut self, packet: &[u8]) -> Done {
        self.run(Program::ToWire, packet)
    }

    pub(crate) fn run(&mut self, program: Program, packet: &[u8]) -> Done {
        match &mut self.kernel {
            Some(kernel) => kernel.run(program, packet),
            None => on_host(&self.world, program, packet),
        }
    }
}

fn on_host(tables: &Memory, program: Program, packet: &[u8]) -> Done {
    let mut frame = Frame(packet.to_vec());
    tables.counted.borrow_mut().clear();
    // Numbers that are spread over all 32 bits, as the kernel's are.
    tables
        .random
        .set(tables.random.get().wrapping_add(0x9e37_79b9));
    let verdict = match program {
        Program::FromPod => signpost_ebpf::from_pod(&mut frame, tables),
        Program::ToPod => signpost_ebpf::to_pod(&mut frame, tables),
        // The host has no packets without an Ethernet header.
        Program::FromWire | Program::FromBare => signpost_ebpf::from_wire(&mut frame, tables),
        Program::ToWire | Program::ToBare => signpost_ebpf::to_wire(&mut frame, tables),
    };
    let (action, cause) = match verdict {
        Ok(Verdict::Continue) => (Action::Continue, None),
        Ok(Verdict::Rewritten(cause)) => (Action::Continue, Some(cause)),
        Ok(Verdict::Forwarded(cause)) => panic!("{cause:?}: a frame in memory has no way"),
        Ok(Verdict::SendBack(cause) | Verdict::Answered(cause)) => (Action::SendBack, Some(cause)),
        Ok(Verdict::Drop(cause)) => (Action::Drop, Some(cause)),
        Err(cause) if signpost_ebpf::verdict::spoils(cause) => (Action::Drop, Some(cause)),
        Err(cause) => (Action::Continue, Some(cause)),
    };
    let mut causes = tables.counted.borrow().clone();
    causes.extend(cause);
    causes.sort();
    causes.dedup();
    Done {
        action,
        packet: frame.0,
        causes,
    }
}

/// Makes two tests of each scene, for each combination of its arguments: one on the host, one in the kernel.
macro_rules! scenes {
    (family, protocol: $($scene:ident),+ $(,)?) => { $(
        $crate::machine::scenes! {
            @of $scene
            [
                #[case::v4_tcp($crate::packets::Family::V4, $crate::packets::Protocol::Tcp)]
                #[case::v4_udp($crate::packets::Family::V4, $crate::packets::Protocol::Udp)]
                #[case::v6_tcp($crate::packets::Family::V6, $crate::packets::Protocol::Tcp)]
                #[case::v6_udp($crate::packets::Family::V6, $crate::packets::Protocol::Udp)]
            ]
            (#[case] family: $crate::packets::Family, #[case] protocol: $crate::packets::Protocol)
            (family, protocol)
        }
    )+ };
    (family: $($scene:ident),+ $(,)?) => { $(
        $crate::machine::scenes! {
            @of $scene
            [#[case::v4($crate::packets::Family::V4)] #[case::v6($crate::packets::Family::V6)]]
            (#[case] family: $crate::packets::Family)
            (family)
        }
    )+ };
    (: $($scene:ident),+ $(,)?) => { $( $crate::machine::scenes! { @of $scene [] () () } )+ };
    (@of $scene:ident [$($cases:tt)*] ($($parameters:tt)*) ($($argument:ident),*)) => {
        mod $scene {
            use $crate::{machine::Machine, world::World};

            #[rstest::rstest]
            $($cases)*
            fn on_the_host($($parameters)*) {
                super::$scene(&mut Machine::host(World::new()) $(, $argument)*);
            }

            #[rstest::rstest]
            $($cases)*
            #[ignore = "needs root: cargo xtask test"]
            fn in_the_kernel($($parameters)*) {
                super::$scene(&mut Machine::kernel(World::new()) $(, $argument)*);
            }
        }
    };
}
pub(crate) use scenes;
