//! Tables of nftables: sets, chains and rules as messages (linux/netfilter/nf_tables.h), carried out all or none.

use std::io;

use netlink_packet_core::{
    DefaultNla, Emitable as _, NLA_F_NESTED, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST,
};
use netlink_packet_netfilter::{
    NetfilterMessageInner, NetfilterProtoFamily, nftables::NfTablesMessage, none::ControlMessage,
};
use nix::sys::socket::{setsockopt, sockopt};

use super::{bytes, family, open, receive};
use crate::model::Family;

/// The resource of a batch (`NFNL_SUBSYS_NFTABLES`).
const NFTABLES: u16 = 10;
/// The first of the registers of four bytes (`NFT_REG32_00`); there are sixteen.
const FIRST: u32 = 8;
/// The register of a verdict.
const VERDICT: u32 = 0;
/// A verdict as the data of a set's elements (`NFT_DATA_VERDICT`).
const VERDICTS: u32 = 0xffff_ff00;
/// Elements in one message: an attribute has at most 64 KiB.
const ELEMENTS: usize = 500;

/// A change of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    family: Family,
    kind: u8,
    flags: u16,
    attributes: Vec<DefaultNla>,
}

/// Where a base chain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Type of the chain: `filter` or `nat`.
    pub kind: &'static str,
    /// Number of the hook: 1 for input, 2 for forward, 3 for output, 4 for postrouting.
    pub hook: u32,
    /// Priority; lower ones are first.
    pub priority: i32,
}

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

/// Makes a table.
pub fn table(family: Family, name: &str) -> Change {
    change(family, 0, NLM_F_CREATE, vec![text(1, name)])
}

/// Deletes a table with all that is in it. It must be there.
pub fn delete_table(family: Family, name: &str) -> Change {
    change(family, 2, 0, vec![text(1, name)])
}

/// Makes a chain; one without a place is only jumped to.
pub fn chain(family: Family, table: &str, name: &str, place: Option<Place>) -> Change {
    let mut attributes = vec![text(1, table), text(3, name)];
    if let Some(place) = place {
        let hook = vec![word(1, place.hook), word(2, place.priority.cast_unsigned())];
        attributes.extend([nested(4, &hook), text(7, place.kind)]);
    }
    change(family, 3, NLM_F_CREATE, attributes)
}

/// Adds a rule at the end of a chain.
pub fn rule(family: Family, table: &str, chain: &str, steps: &[Step]) -> Change {
    let expressions: Vec<DefaultNla> = steps
        .iter()
        .flat_map(|step| expressions(family, step))
        .collect();
    let attributes = vec![text(1, table), text(2, chain), nested(4, &expressions)];
    change(family, 6, NLM_F_CREATE | NLM_F_APPEND, attributes)
}

/// Makes a set; `number` tells it from the others of one transaction. A map leads to verdicts.
pub fn set(
    family: Family,
    table: &str,
    name: &str,
    fields: &[Field],
    number: u32,
    map: bool,
) -> Change {
    let width: usize = fields.iter().map(|field| field.width(family)).sum();
    let mut attributes = vec![
        text(1, table),
        text(2, name),
        word(3, if map { 0x8 } else { 0 }),
        word(4, kind(family, fields)),
        word(5, width as u32),
        word(10, number),
    ];
    if map {
        attributes.extend([word(6, VERDICTS), word(7, 0)]);
    }
    change(family, 9, NLM_F_CREATE, attributes)
}

/// Adds elements to a set: each as it is in the registers.
pub fn add<'a>(
    family: Family,
    table: &str,
    set: &str,
    keys: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<Change> {
    let elements = keys.into_iter().map(|key| vec![data(1, key)]).collect();
    change_elements(family, table, set, 12, elements)
}

/// Adds elements to a map: each leads to a chain.
pub fn add_to_map<'a>(
    family: Family,
    table: &str,
    set: &str,
    keys: impl IntoIterator<Item = (&'a [u8], &'a str)>,
) -> Vec<Change> {
    let element = |(key, chain): (&[u8], &str)| {
        let to = verdict(&Verdict::Jump(chain.to_owned()));
        vec![data(1, key), nested(2, &[to])]
    };
    let elements = keys.into_iter().map(element).collect();
    change_elements(family, table, set, 12, elements)
}

/// Deletes elements of a set. They must be there.
pub fn delete<'a>(
    family: Family,
    table: &str,
    set: &str,
    keys: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<Change> {
    let elements = keys.into_iter().map(|key| vec![data(1, key)]).collect();
    change_elements(family, table, set, 14, elements)
}

/// Carries out all changes or none.
///
/// # Errors
/// What the kernel says of the first change that it refuses.
pub fn carry_out(changes: &[Change]) -> io::Result<()> {
    let Some((last, others)) = changes.split_last() else {
        return Ok(());
    };
    let edge = |message: ControlMessage| {
        let message = NetfilterMessageInner::from(message);
        bytes(
            NLM_F_REQUEST,
            NetfilterProtoFamily::Unspec,
            NFTABLES,
            message,
        )
    };
    let mut batch = edge(ControlMessage::BatchBegin);
    for change in others {
        batch.extend(change.bytes(0));
    }
    // What the kernel refuses it says unasked.
    batch.extend(last.bytes(NLM_F_ACK));
    batch.extend(edge(ControlMessage::BatchEnd));
    let socket = open()?;
    // A batch is one datagram.
    let room = batch.len().saturating_mul(2);
    setsockopt(&socket, sockopt::SndBufForce, &room)?;
    socket.send(&batch, 0)?;
    receive(&socket, 1, |_, _| {})
}

impl Change {
    fn bytes(&self, flags: u16) -> Vec<u8> {
        let message = NfTablesMessage::Other {
            message_type: self.kind,
            attributes: self.attributes.clone(),
        };
        let flags = NLM_F_REQUEST | self.flags | flags;
        bytes(flags, family(self.family), 0, message)
    }
}

const fn change(family: Family, kind: u8, flags: u16, attributes: Vec<DefaultNla>) -> Change {
    Change {
        family,
        kind,
        flags,
        attributes,
    }
}

fn change_elements(
    family: Family,
    table: &str,
    set: &str,
    kind: u8,
    elements: Vec<Vec<DefaultNla>>,
) -> Vec<Change> {
    let flags = if kind == 12 { NLM_F_CREATE } else { 0 };
    elements
        .chunks(ELEMENTS)
        .map(|some| {
            let some: Vec<DefaultNla> = some.iter().map(|element| nested(1, element)).collect();
            let attributes = vec![text(1, table), text(2, set), nested(3, &some)];
            change(family, kind, flags, attributes)
        })
        .collect()
}

fn expressions(family: Family, step: &Step) -> Vec<DefaultNla> {
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

fn verdict(verdict: &Verdict) -> DefaultNla {
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

/// What `nft` prints the elements of a set as: its numbers of types, six bits each.
fn kind(family: Family, fields: &[Field]) -> u32 {
    fields.iter().fold(0, |kind, field| {
        let of_field = match (field, family) {
            (Field::Source | Field::Destination | Field::OriginalDestination, Family::V4) => 7,
            (Field::Source | Field::Destination | Field::OriginalDestination, Family::V6) => 8,
            (Field::Protocol, _) => 12,
            (Field::Port | Field::OriginalPort, _) => 13,
            (Field::Interface, _) => 20,
            (Field::State, _) => 26,
        };
        kind << 6 | of_field
    })
}

fn expression(name: &str, parts: Vec<DefaultNla>) -> DefaultNla {
    nested(1, &[text(1, name), nested(2, &parts)])
}

fn data(kind: u16, value: &[u8]) -> DefaultNla {
    nested(kind, &[nla(1, value)])
}

fn word(kind: u16, value: u32) -> DefaultNla {
    nla(kind, &value.to_be_bytes())
}

fn text(kind: u16, text: &str) -> DefaultNla {
    let mut value = text.as_bytes().to_vec();
    value.push(0);
    nla(kind, &value)
}

fn nla(kind: u16, value: &[u8]) -> DefaultNla {
    DefaultNla::new(kind, value.to_vec())
}

fn nested(kind: u16, parts: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; parts.buffer_len()];
    parts.emit(&mut value);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}
