//! Addresses and ports of Services at which nobody answers, as kube-proxy's nftables mode treats them.

use signpost_common::{Cause, dns::Config, service::AddressValue};

use crate::{
    flow,
    headers::Headers,
    icmp,
    packet::Packet,
    reject::reject,
    segment::Segment,
    tables::{Tables, forget, recall},
    verdict::Verdict,
};

/// While another proxy is being replaced, or the node left to it, what nobody here answers may be one of its own.
const OTHER_PROXY: u32 = Config::TAKEOVER | Config::DRAIN;

/// An address at which no Service answers, though it may be in a range of theirs.
#[inline(always)]
pub(crate) fn address(tables: &impl Tables, headers: &Headers, flags: u32) -> Verdict {
    match tables.config() {
        Some(config) if flags == 0 && is_in_range(config, headers) => {
            Verdict::Drop(Cause::AddressUnallocated)
        }
        _ => Verdict::Continue,
    }
}

/// Whether the destination is in a known range of ClusterIPs, in which nobody else answers.
#[inline(always)]
fn is_in_range(config: &Config, headers: &Headers) -> bool {
    const NEEDED: u32 = Config::SERVICE_RANGES;
    if config.flags & (NEEDED | OTHER_PROXY) != NEEDED {
        return false;
    }
    // Which range it is in, and by which bits it is not, is no matter: one branch for the verifier to follow.
    let mut outside = 1;
    for range in &config.service_ranges {
        let mut difference = 0;
        forget(&mut difference, range.difference(&headers.destination));
        outside &= (u64::from(recall(&difference)) + u64::from(u32::MAX)) >> 32;
    }
    outside == 0
}

/// Whether a packet of a protocol without ports may be the first of something, as nf_conntrack sees it.
#[inline(always)]
pub(crate) fn is_new(packet: &impl Packet, headers: &Headers) -> bool {
    !icmp::is_icmp(headers) || icmp::asks(packet, headers) == Ok(true)
}

/// A packet of the host itself that leaves the node for a ClusterIP, though nobody is there for it. Connections are told
/// at their sockets; datagrams of connected sockets and other protocols are seen here only.
#[inline(always)]
pub(crate) fn leaving<P: Packet>(
    packet: &mut P,
    tables: &impl Tables,
    headers: &Headers,
    segment: Option<&Segment>,
) -> Result<Verdict, Cause> {
    let Some(config) = tables.config() else {
        return Ok(Verdict::Continue);
    };
    if !is_in_range(config, headers) || tables.address(&headers.source) & AddressValue::NODE == 0 {
        return Ok(Verdict::Continue);
    }
    let address = tables.address(&headers.destination);
    if address == 0 {
        return Ok(Verdict::Drop(Cause::AddressUnallocated));
    }
    if address & AddressValue::CLUSTER_IP == 0
        || segment.is_some_and(|s| flow::is_served(tables, headers, s, address))
    {
        return Ok(Verdict::Continue);
    }
    match port(packet, tables, headers) {
        Err(Cause::NoFrontend) => Ok(Verdict::Continue),
        done => done,
    }
}

/// A port of a ClusterIP at which no Service answers, or a protocol that none is asked by.
#[inline(always)]
pub(crate) fn port<P: Packet>(
    packet: &mut P,
    tables: &impl Tables,
    headers: &Headers,
) -> Result<Verdict, Cause> {
    if tables
        .config()
        .is_some_and(|config| config.flags & OTHER_PROXY != 0)
    {
        return Err(Cause::NoFrontend);
    }
    reject(packet, headers, Cause::PortRejected)
}
