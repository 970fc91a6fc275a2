//! Filters of the clsact qdisc of an interface, for kernels without TCX. Ours are found by priority and handle.

use std::io;

use anyhow::{Context as _, ensure};
use aya::programs::{
    ProgramError, TcAttachType,
    links::Link,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcHandle as Handle, TcMessage},
};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::net::if_::if_nameindex;
use tracing::debug;

use super::{
    super::{
        program::{Program, Programs},
        sys::Side,
    },
    name_of,
};
use crate::dataplane::netlink;

/// Before everything that leaves room before itself.
const PRIORITY: u16 = 1;
/// `5367:1`, "Sg".
const HANDLE: TcHandle = TcHandle::new(MAJOR, MINOR);
const MAJOR: u16 = 0x5367;
const MINOR: u16 = 1;
/// Where filters of clsact hang: `TC_H_MIN_INGRESS` and `TC_H_MIN_EGRESS` of `TC_H_CLSACT` (`linux/pkt_sched.h`).
const CLSACT_INGRESS: u32 = 0xffff_fff2;
const CLSACT_EGRESS: u32 = 0xffff_fff3;

/// Attaches a program, or replaces that of an agent before this one.
///
/// # Errors
/// Where there is no clsact qdisc and none can be added, or the filter is refused.
pub(super) fn attach(
    programs: &mut Programs,
    ifindex: u32,
    name: &str,
    program: Program,
) -> anyhow::Result<()> {
    ensure!(
        name_of(ifindex) == name,
        "the interface is another one by now"
    );
    // It is there already more often than not; where it cannot be added, attaching says why.
    let clsact = tc::qdisc_add_clsact(name);
    let classifier = programs.classifier(program)?;
    let options = NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        classid: None,
    };
    let side = program.attach_type();
    let attached = classifier
        .attach_with_options(name, side, TcAttachOptions::Netlink(options))
        .or_else(|_| {
            // A filter of an agent before this one: its program is replaced.
            let link = SchedClassifierLink::attached(name, side, PRIORITY, HANDLE, None)?;
            classifier.attach_to_link(link)
        });
    match attached {
        // The filter must stay when this agent ends: the link is not dropped, which would detach it.
        Ok(id) => std::mem::forget(classifier.take_link(id)?),
        Err(error) => {
            let clsact = clsact
                .err()
                .map(|e| format!(" (adding clsact: {e})"))
                .unwrap_or_default();
            return Err(error)
                .with_context(|| format!("clsact refuses {}{clsact}", program.name()));
        }
    }
    Ok(())
}

/// Removes a program's filter, where there is one.
pub(super) fn detach(ifindex: u32, program: Program) {
    let name = name_of(ifindex);
    if let Err(error) = detach_filter(&name, program.attach_type()) {
        debug!(ifindex, name, %error, "there was no filter to remove");
    }
}

/// Removes our filters from every interface of this network namespace: first those of what arrives, since what they translate
/// has to be finished when it leaves. Returns how many there were.
///
/// # Errors
/// Where the interfaces cannot be listed.
pub fn remove_all() -> io::Result<usize> {
    let interfaces = if_nameindex()?;
    let mut removed = 0;
    for (side, kind) in [
        (Side::Ingress, TcAttachType::Ingress),
        (Side::Egress, TcAttachType::Egress),
    ] {
        for interface in &interfaces {
            if has_filter(interface.index(), side).is_ok_and(|has| has) {
                let name = interface.name().to_string_lossy();
                removed += usize::from(detach_filter(&name, kind).is_ok());
            }
        }
    }
    Ok(removed)
}

/// Whether an interface that is there lacks one of our two filters. What cannot be read is not lost.
pub(super) fn has_lost(ifindex: u32) -> bool {
    [Side::Ingress, Side::Egress]
        .into_iter()
        .any(|side| has_filter(ifindex, side).is_ok_and(|has| !has) && !name_of(ifindex).is_empty())
}

fn detach_filter(name: &str, kind: TcAttachType) -> Result<(), ProgramError> {
    SchedClassifierLink::attached(name, kind, PRIORITY, HANDLE, None)
        .map_err(Into::into)
        .and_then(Link::detach)
}

fn has_filter(ifindex: u32, side: Side) -> io::Result<bool> {
    let mut request = TcMessage::default();
    request.header.index = i32::try_from(ifindex).map_err(io::Error::other)?;
    request.header.parent = Handle::from(match side {
        Side::Ingress => CLSACT_INGRESS,
        Side::Egress => CLSACT_EGRESS,
    });
    let socket = netlink::open(NETLINK_ROUTE)?;
    let payload = NetlinkPayload::from(RouteNetlinkMessage::GetTrafficFilter(request));
    socket.send(&netlink::bytes(NLM_F_REQUEST | NLM_F_DUMP, payload), 0)?;
    let mut found = false;
    netlink::receive(&socket, usize::MAX, |_, message: RouteNetlinkMessage| {
        if let RouteNetlinkMessage::NewTrafficFilter(filter) = message {
            let ours = Handle {
                major: MAJOR,
                minor: MINOR,
            };
            let priority = filter.header.info >> 16;
            found |= filter.header.handle == ours && priority == u32::from(PRIORITY);
        }
    })?;
    Ok(found)
}
