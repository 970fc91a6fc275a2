//! Addresses and ports of Services at which nobody answers, as kube-proxy's nftables mode treats them.

use signpost_common::{Cause, dns::Config};

use crate::{
    headers::Headers,
    packet::Packet,
    reject::reject,
    tables::{Tables, forget, recall},
    verdict::Verdict,
};

/// An address at which no Service answers, though it may be in a range of theirs.
#[inline(always)]
pub(crate) fn address(tables: &impl Tables, headers: &Headers, flags: u32) -> Verdict {
    let Some(config) = tables
        .config()
        .filter(|config| flags == 0 && config.flags & Config::SERVICE_RANGES != 0)
    else {
        return Verdict::Continue;
    };
    // Which range it is in, and by which bits it is not, is no matter: one branch for the verifier to follow.
    let mut outside = 1;
    for range in &config.service_ranges {
        let mut difference = 0;
        forget(&mut difference, range.difference(&headers.destination));
        outside &= (u64::from(recall(&difference)) + u64::from(u32::MAX)) >> 32;
    }
    if outside == 0 {
        Verdict::Drop(Cause::AddressUnallocated)
    } else {
        Verdict::Continue
    }
}

/// A port of a ClusterIP at which no Service answers. While another proxy is being replaced or
/// takes over, the connection may be one of its own.
#[inline(always)]
pub(crate) fn port<P: Packet>(
    packet: &mut P,
    tables: &impl Tables,
    headers: &Headers,
) -> Result<Verdict, Cause> {
    if tables
        .config()
        .is_some_and(|config| config.flags & (Config::TAKEOVER | Config::DRAIN) != 0)
    {
        return Err(Cause::NoFrontend);
    }
    Ok(match reject(packet, headers)? {
        Verdict::SendBack(_) => Verdict::SendBack(Cause::PortRejected),
        _ => Verdict::Drop(Cause::PortRejected),
    })
}
