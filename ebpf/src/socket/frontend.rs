//! What an address that a process gives leads to.

use signpost_common::{
    Address, Cause,
    dns::Config,
    service::{AddressValue, FrontendKey, FrontendValue},
};

use crate::tables::Tables;

/// The frontend of an address and port: the address of a Service, or one that NodePorts are served at. The key is
/// that of the frontend afterwards.
#[inline(always)]
pub(super) fn find(tables: &impl Tables, key: &mut FrontendKey) -> Option<FrontendValue> {
    let flags = tables.address(&place(&key.address));
    if flags & AddressValue::SERVICE != 0
        && let Some(found) = tables.frontend(key)
    {
        return Some(found);
    }
    if flags & AddressValue::NODE_PORT == 0 {
        return None;
    }
    key.address = unspecified(&key.address);
    tables.frontend(key)
}

/// What a client gets where there is no frontend: [`Cause::PortRejected`], [`Cause::AddressUnallocated`], or `None` for
/// an address that is none of our business.
#[inline(always)]
pub(super) fn why_none(tables: &impl Tables, config: &Config, address: &Address) -> Option<Cause> {
    if config.flags & (Config::TAKEOVER | Config::DRAIN) != 0 {
        // The other proxy may know the address or the port already, or still.
        return None;
    }
    let flags = tables.address(address);
    if flags & AddressValue::CLUSTER_IP != 0 {
        return Some(Cause::PortRejected);
    }
    if flags != 0 || config.flags & Config::SERVICE_RANGES == 0 {
        return None;
    }
    let mut ranges = config.service_ranges.iter();
    ranges
        .any(|range| range.difference(address) == 0)
        .then_some(Cause::AddressUnallocated)
}

/// The unspecified address of the same family.
#[inline(always)]
pub(super) fn unspecified(address: &Address) -> Address {
    if address.is_v4() {
        Address::v4([0; 4])
    } else {
        Address::UNSPECIFIED
    }
}

/// All of 127.0.0.0/8 is this node, like 127.0.0.1.
#[inline(always)]
fn place(address: &Address) -> Address {
    if address.is_v4() && is_loopback(address) {
        Address::v4([127, 0, 0, 1])
    } else {
        *address
    }
}

/// Whether an address is one of 127.0.0.0/8, or `::1`: who asks it asks nobody else.
#[inline(always)]
pub(super) fn is_loopback(address: &Address) -> bool {
    let [a, b, c, last] = address.words();
    let last = u32::from_be(last);
    if address.is_v4() {
        last >> 24 == 127
    } else {
        a | b | c == 0 && last == 1
    }
}
