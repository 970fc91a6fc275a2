//! Changes of nftables that are carried out all or none.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use netlink_packet_netfilter::{
    NetfilterMessageInner, NetfilterProtoFamily, nftables::NfTablesMessage, none::ControlMessage,
};
use nix::sys::socket::{setsockopt, sockopt};

use super::{bytes, family, open, receive};
use crate::model::Family;

/// The resource of a batch (`NFNL_SUBSYS_NFTABLES`).
const NFTABLES: u16 = 10;

/// Carries out all changes or none; each has flags of its own, such as `NLM_F_CREATE`.
///
/// # Errors
/// What the kernel says of the first change that it refuses.
pub(super) fn carry_out(
    changes: impl IntoIterator<Item = (Family, u16, NfTablesMessage)>,
) -> io::Result<()> {
    let mut changes = changes.into_iter().peekable();
    if changes.peek().is_none() {
        return Ok(());
    }
    let mut batch = edge(ControlMessage::BatchBegin);
    while let Some((of, flags, message)) = changes.next() {
        // What the kernel refuses it says unasked.
        let asks = if changes.peek().is_none() {
            NLM_F_ACK
        } else {
            0
        };
        batch.extend(bytes(NLM_F_REQUEST | flags | asks, family(of), 0, message));
    }
    batch.extend(edge(ControlMessage::BatchEnd));
    let socket = open()?;
    // A batch is one datagram.
    let room = batch.len().saturating_mul(2);
    setsockopt(&socket, sockopt::SndBufForce, &room)?;
    socket.send(&batch, 0)?;
    receive(&socket, 1, |_, _| {})
}

fn edge(message: ControlMessage) -> Vec<u8> {
    let message = NetfilterMessageInner::from(message);
    bytes(
        NLM_F_REQUEST,
        NetfilterProtoFamily::Unspec,
        NFTABLES,
        message,
    )
}
