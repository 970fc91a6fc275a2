//! Working memory of a program run.

use signpost_common::{
    Address,
    flow::{FlowKey, FlowValue},
    service::{
        AffinityKey, AffinityValue, FrontendKey, FrontendValue, MemberKey, RangeKey, SlotValue,
    },
};

use crate::choose::Set;

/// Working memory for a packet's flow: too much for the stack, which is 512 bytes for a program with all that it calls.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// The packet as it arrives.
    pub(crate) key: FlowKey,
    /// What it becomes.
    pub(crate) flow: FlowValue,
    pub(crate) frontend_key: FrontendKey,
    pub(crate) frontend: FrontendValue,
    pub(crate) set: Set,
    pub(crate) slot: SlotValue,
    /// The packet of the way back, and what it becomes.
    pub(crate) back_key: FlowKey,
    pub(crate) back: FlowValue,
    /// The packet at the interface that it leaves by, and what it becomes there.
    pub(crate) leaving_key: FlowKey,
    pub(crate) leaving: FlowValue,
    /// The program of that interface, as in [`FlowKey::direction`]; [`FlowKey::FROM_POD`] where the flow is not masqueraded.
    pub(crate) leaves_by: u32,
    /// An entry that is looked at only.
    pub(crate) there_key: FlowKey,
    pub(crate) there: FlowValue,
    /// Keys and values of look-ups that decide something about the flow.
    pub(crate) affinity_key: AffinityKey,
    pub(crate) affinity: AffinityValue,
    pub(crate) member_key: MemberKey,
    pub(crate) range_key: RangeKey,
    pub(crate) attempt: u32,
    pub(crate) clashes: u32,
    pub(crate) again: u32,
    /// The client stays with the backend in `slot`: 0 or 1.
    pub(crate) stays: u32,
    /// The masqueraded flow is looked at only, and goes on as it is where it can: 0 or 1.
    pub(crate) keeps: u32,
    /// A port that can be had where there is no free one, and how long its connection has been over.
    pub(crate) second_best: u32,
    pub(crate) over_for: u32,
}

impl Work {
    /// All zero.
    pub const ZERO: Self = Self {
        key: FlowKey::ZERO,
        flow: FlowValue::ZERO,
        frontend_key: FrontendKey::ZERO,
        frontend: FrontendValue::ZERO,
        set: Set {
            first: 0,
            count: 0,
            avoid_local: 0,
        },
        slot: SlotValue::ZERO,
        back_key: FlowKey::ZERO,
        back: FlowValue::ZERO,
        leaving_key: FlowKey::ZERO,
        leaving: FlowValue::ZERO,
        leaves_by: 0,
        there_key: FlowKey::ZERO,
        there: FlowValue::ZERO,
        affinity_key: AffinityKey::ZERO,
        affinity: AffinityValue::ZERO,
        member_key: MemberKey::ZERO,
        range_key: RangeKey {
            bits: RangeKey::ALL_BITS,
            service: 0,
            address: Address::UNSPECIFIED,
        },
        attempt: 0,
        clashes: 0,
        again: 0,
        stays: 0,
        keeps: 0,
        second_best: 0,
        over_for: 0,
    };
}
