//! The maps, wherever they are. What is returned is a copy: elements are reused under a reader.

use signpost_common::{
    Address, Cause,
    count::ServiceCount,
    device::DeviceValue,
    dns::{Clock, Config, Epoch, NameValue},
    flow::{FlowKey, FlowValue, FragmentKey, FragmentValue},
    name::NameKey,
    service::{
        AffinityKey, AffinityValue, FrontendKey, FrontendValue, MemberKey, RangeKey, SlotKey,
        SlotValue,
    },
    socket::{PodValue, SocketKey, SocketValue},
    tally::Tally,
};

use crate::{
    dns::{Scratch, outside},
    packet::Packet,
    work::Work,
};

/// A clock that stopped at the machine's start.
pub(crate) const LONG_AGO: Clock = 1;

/// Why an entry was not inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotInserted {
    /// There is one already.
    Exists,
    /// The map refused.
    Refused,
}

/// What the programs ask of the maps.
pub trait Tables {
    /// Flags of an address ([`signpost_common::service::AddressValue`]), 0 where it is not ours.
    fn address(&self, address: &Address) -> u32;

    /// Whether an address may be the destination of a packet that arrives and is ours: one of `addresses`, one in a range
    /// of ClusterIPs, one that flows have or had there. `false` only where it is not.
    fn knows_destination(&self, address: &Address) -> bool;

    /// Whether an address may be the source of a packet that leaves and is of a flow: some entry with this direction
    /// ([`FlowKey::TO_POD`] or [`FlowKey::TO_WIRE`]) has it, or had it. `false` only where none has.
    fn knows_source(&self, address: &Address, direction: u8) -> bool;

    /// A frontend.
    fn frontend(&self, key: &FrontendKey) -> Option<FrontendValue>;

    /// A slot.
    fn slot(&self, key: &SlotKey) -> Option<SlotValue>;

    /// Flags of a member ([`signpost_common::service::MemberValue`]), 0 where there is none.
    fn member(&self, key: &MemberKey) -> u32;

    /// Whether a longest match exists for a network of a service port, or of the cluster.
    fn in_range(&self, key: &RangeKey) -> bool;

    /// The addresses of masqueraded packets that leave by an interface, or by any ([`DeviceValue::ANY`]).
    fn device(&self, ifindex: u32) -> Option<DeviceValue>;

    /// Copies a flow to `to`, and marks it as used now, with flags added. `check` is [`FlowKey::check`] of the key.
    fn flow(&self, key: &FlowKey, check: u32, add_flags: u32, to: &mut FlowValue) -> bool;

    /// Copies a flow to `to`, without marking it as used.
    fn peek_flow(&self, key: &FlowKey, check: u32, to: &mut FlowValue) -> bool;

    /// Records a flow, its source first ([`Tables::knows_source`]). Without `replace` an entry that exists stays.
    ///
    /// # Errors
    /// See [`NotInserted`].
    fn insert_flow(
        &self,
        key: &FlowKey,
        value: &FlowValue,
        replace: bool,
    ) -> Result<(), NotInserted>;

    /// [`crate::record::record`]; apart, so that the kernel verifies it once and not for each way that leads to it.
    ///
    /// # Errors
    /// As [`crate::record::record`].
    fn record(&self, work: &mut Work) -> Result<(), Cause>;

    /// [`crate::masquerade::complete`]; apart for the same reason.
    ///
    /// # Errors
    /// As [`crate::masquerade::complete`].
    fn masquerade(&self, work: &mut Work, device: u32) -> Result<(), Cause>;

    /// [`crate::dns::question::hash`] of the question in the scratch area; apart for the same reason.
    ///
    /// # Errors
    /// As [`crate::dns::question::hash`].
    fn hash(&self, scratch: &mut Scratch) -> Result<NameKey, Cause>;

    /// Forgets a flow.
    fn remove_flow(&self, key: &FlowKey);

    /// What happened to the first fragment.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue>;

    /// Records what happened to the first fragment.
    fn insert_fragment(&self, key: &FragmentKey, value: &FragmentValue);

    /// The backend that a client stays with, however long ago.
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue>;

    /// Records the backend that a client stays with. Without room it gets any backend the next time.
    fn insert_affinity(&self, key: &AffinityKey, value: &AffinityValue);

    /// The pod whose network namespace has this cookie, where its sockets are looked at.
    fn socket_pod(&self, namespace: u64) -> Option<PodValue>;

    /// Whom a socket talks to.
    fn socket(&self, key: &SocketKey) -> Option<SocketValue>;

    /// Records whom a socket talks to; `false` where the map refuses.
    fn insert_socket(&self, key: &SocketKey, value: &SocketValue) -> bool;

    /// Forgets whom a socket talks to.
    fn remove_socket(&self, key: &SocketKey);

    /// The configuration, `None` before the agent has written it.
    fn config(&self) -> Option<&Config>;

    /// What exists at a name.
    fn name(&self, key: &NameKey) -> Option<NameValue>;

    /// Turns the question in the scratch area into its answer with the records under a key, see
    /// [`crate::dns::answer::write`]. `false` where there are none.
    ///
    /// # Errors
    /// As writing, and [`Cause::HelperFailed`] where the answer changed under it.
    fn write_answer<P: Packet>(
        &self,
        key: &NameKey,
        large: bool,
        packet: &mut P,
        scratch: &mut Scratch,
    ) -> Result<bool, Cause>;

    /// [`crate::dns::outside::find`] of the question in the scratch area; apart, as [`Tables::record`] is.
    ///
    /// # Errors
    /// As [`crate::dns::outside::find`].
    fn find_outside(&self, scratch: &mut Scratch) -> Result<(), Cause>;

    /// [`crate::dns::pod::read`] of a label of the question in the scratch area; apart, likewise.
    ///
    /// # Errors
    /// As [`crate::dns::pod::read`].
    fn read_spelling(&self, scratch: &mut Scratch, label: u16) -> Result<(), Cause>;

    /// Copies an answer to a question outside of the cluster, and counts that it was asked for. `false` where there is none.
    fn copy_outside(&self, key: &NameKey, to: &mut outside::Copied) -> bool;

    /// Which answers to questions outside of the cluster count.
    fn outside_epoch(&self) -> Epoch;

    /// Until when answers to DNS questions are told; 0 for not at all.
    fn watched_until(&self) -> Clock;

    /// Tells of the answer to the question in the scratch area: [`Scratch::log`] and the question behind it.
    fn tell(&self, scratch: &mut Scratch);

    /// Room for a DNS question, of this CPU and this program run.
    #[expect(
        clippy::mut_from_ref,
        reason = "each run of a program has a scratch area to itself"
    )]
    fn scratch(&self) -> Option<&mut Scratch>;

    /// Room for a new flow, likewise.
    #[expect(
        clippy::mut_from_ref,
        reason = "each run of a program has a working area to itself"
    )]
    fn work(&self) -> Option<&mut Work>;

    /// `CLOCK_MONOTONIC` in nanoseconds; may be some milliseconds old.
    fn now(&self) -> u64;

    /// `CLOCK_MONOTONIC` in nanoseconds, read now.
    fn clock(&self) -> u64;

    /// When the agent was last in sync with its source.
    fn in_sync_at(&self) -> u64;

    /// When this node's DNS pod was last alive; 0 where none ever said so.
    fn dns_alive_at(&self) -> u64;

    /// This node's DNS pod has no server: it is taken for silent until it says again that it is alive.
    fn dns_pod_refuses(&self);

    /// A random number.
    fn random(&self) -> u32;

    /// Whether service ports are counted.
    fn counts_services(&self) -> bool;

    /// Adds to what is counted of a service port, where that has begun.
    fn count_service(&self, service: &u32, add: impl FnOnce(&mut ServiceCount));

    /// Begins to count a service port, where that has not begun.
    fn begin_to_count(&self, service: &u32);

    /// Counts a cause that does not end the program's work.
    fn count(&self, cause: Cause);

    /// Counts an answer to a DNS question, instead of its cause.
    fn count_answer(&self, tally: Tally);
}

/// The same number, of which the compiler knows nothing.
#[inline(always)]
pub(crate) fn opaque(number: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    return crate::kernel::opaque(number);
    #[cfg(not(target_arch = "bpf"))]
    number
}

/// Stores a value so that it is really stored: the verifier knows nothing of it any more, and takes paths that differ
/// only in it for one.
#[inline(always)]
pub(crate) fn forget(place: &mut u32, value: u32) {
    // SAFETY: a reference to a word.
    unsafe { core::ptr::write_volatile(place, value) }
}

/// Loads a value so that it is really loaded.
#[inline(always)]
pub(crate) fn recall(place: &u32) -> u32 {
    // SAFETY: a reference to a word.
    unsafe { core::ptr::read_volatile(place) }
}
