//! What rules of nftables are made of: steps as expressions of the kernel.

use netlink_packet_core::DefaultNla;

use super::attribute::{data, nested, nla, text, word};
use crate::model::Family;

/// The first of the registers of four bytes (`NFT_REG32_00`); there are sixteen.
const FIRST: u32 = 8;
/// The register of a verdict.
const VERDICT: u32 = 0;

/// What is read into registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Source address of the packet.
    Source,
    /// Destination address of the packet.
    Destination,
    /// Destination port of the packet; other protocols have something else there.
    Port,
    /// Number of the packet's protocol.
    Protocol,
    /// Index of the interface that it came by.
    Interface,
    /// State of the connection, a bit each.
    State,
    /// Destination address of the connection's first packet, as it came.
    OriginalDestination,
    /// Destination port likewise.
    OriginalPort,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, past the rest of the base chain.
    Accept,
    /// It is gone.
    Drop,
    /// Back to the chain that led here.
    Return,
    /// On to a chain.
    Jump(String),
}

/// One step of a rule: the next is taken where it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Reads fields, each from a register of its own on.
    Load(Vec<Field>),
    /// The first register is (or is not) this, under a mask.
    Is {
        /// Which bits count.
        mask: Vec<u8>,
        /// What they are.
        value: Vec<u8>,
        /// It must not be so.
        inverted: bool,
    },
    /// The registers are (or are not) in a set.
    In {
        /// The set.
        set: String,
        /// They must not be.
        inverted: bool,
    },
    /// The verdict that a map has for the registers, where it has one.
    Map(String),
    /// A verdict.
    Verdict(Verdict),
    /// The sender is told that the port is unreachable, by ICMP.
    Reject,
    /// The source becomes the address of the interface that it leaves by, the port any free one.
    Masquerade,
}

impl Field {
    /// Bytes in registers, a multiple of four.
    pub const fn width(self, family: Family) -> usize {
        match (self, family) {
            (Self::Source | Self::Destination | Self::OriginalDestination, Family::V6) => 16,
            _ => 4,
        }
    }

    /// What `nft` prints it as in elements of sets: its number of a type, of six bits.
    pub(super) const fn kind(self, family: Family) -> u32 {
        match (self, family) {
            (Self::Source | Self::Destination | Self::OriginalDestination, Family::V4) => 7,
            (Self::Source | Self::Destination | Self::OriginalDestination, Family::V6) => 8,
            (Self::Protocol, _) => 12,
            (Self::Port | Self::OriginalPort, _) => 13,
            (Self::Interface, _) => 20,
            (Self::State, _) => 26,
        }
    }

    fn load(self, family: Family, register: u32) -> DefaultNla {
        let payload = |base: u32, offset: u32, length: u32| {
            let parts = [
                word(1, register),
                word(2, base),
                word(3, offset),
                word(4, length),
            ];
            expression("payload", parts.to_vec())
        };
        let meta = |key: u32| expression("meta", vec![word(1, register), word(2, key)]);
        let original = |key: u32| {
            let parts = vec![word(1, register), word(2, key), nla(3, &[0])];
            expression("ct", parts)
        };
        match (self, family) {
            (Self::Source, Family::V4) => payload(1, 12, 4),
            (Self::Source, Family::V6) => payload(1, 8, 16),
            (Self::Destination, Family::V4) => payload(1, 16, 4),
            (Self::Destination, Family::V6) => payload(1, 24, 16),
            (Self::Port, _) => payload(2, 2, 2),
            (Self::Protocol, _) => meta(16),
            (Self::Interface, _) => meta(4),
            (Self::State, _) => expression("ct", vec![word(1, register), word(2, 0)]),
            (Self::OriginalDestination, Family::V4) => original(20),
            (Self::OriginalDestination, Family::V6) => original(22),
            (Self::OriginalPort, _) => original(12),
        }
    }
}

/// A step as expressions.
pub(super) fn expressions(family: Family, step: &Step) -> Vec<DefaultNla> {
    match step {
        Step::Load(fields) => {
            let mut register = FIRST;
            let mut loads = Vec::new();
            for field in fields {
                loads.push(field.load(family, register));
                register += field.width(family) as u32 / 4;
            }
            loads
        }
        Step::Is {
            mask,
            value,
            inverted,
        } => {
            let zero = vec![0; mask.len()];
            let masked = vec![
                word(1, FIRST),
                word(2, FIRST),
                word(3, mask.len() as u32),
                data(4, mask),
                data(5, &zero),
            ];
            let compared = vec![word(1, FIRST), word(2, (*inverted).into()), data(3, value)];
            vec![expression("bitwise", masked), expression("cmp", compared)]
        }
        Step::In { set, inverted } => {
            let mut parts = vec![text(1, set), word(2, FIRST)];
            if *inverted {
                parts.push(word(5, 1));
            }
            vec![expression("lookup", parts)]
        }
        Step::Map(map) => {
            let parts = vec![text(1, map), word(2, FIRST), word(3, VERDICT)];
            vec![expression("lookup", parts)]
        }
        Step::Verdict(to) => {
            let parts = vec![word(1, VERDICT), nested(2, &[verdict(to)])];
            vec![expression("immediate", parts)]
        }
        Step::Reject => {
            let code = match family {
                Family::V4 => 3,
                Family::V6 => 4,
            };
            vec![expression("reject", vec![word(1, 0), nla(2, &[code])])]
        }
        // `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
        Step::Masquerade => vec![expression("masq", vec![word(1, 0x10)])],
    }
}

/// A verdict as an attribute of what leads to it.
pub(super) fn verdict(verdict: &Verdict) -> DefaultNla {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3_i32, Some(chain)),
        Verdict::Return => (-5, None),
    };
    let mut parts = vec![word(1, code.cast_unsigned())];
    parts.extend(chain.map(|chain| text(2, chain)));
    nested(2, &parts)
}

fn expression(name: &str, parts: Vec<DefaultNla>) -> DefaultNla {
    nested(1, &[text(1, name), nested(2, &parts)])
}
