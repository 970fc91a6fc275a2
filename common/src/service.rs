//! Keys and values of the maps that say what a Service address leads to.

use bytemuck::{AnyBitPattern, NoUninit};

use crate::{
    Address, Port,
    check::{mix, pair},
};

/// Value of the `addresses` map (key: [`Address`]): what an address is to us.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct AddressValue {
    /// A sum of the constants of this type.
    pub flags: u32,
}

impl AddressValue {
    /// A Service answers at this address.
    pub const SERVICE: u32 = 1;
    /// The address is one of the cluster DNS addresses; questions sent to its port 53 may be answered in the kernel.
    pub const DNS: u32 = 2;
    /// The address belongs to this node, its loopback included.
    pub const NODE: u32 = 4;
    /// NodePorts are served at this address of the node: frontends under the unspecified address of its family.
    pub const NODE_PORT: u32 = 8;
    /// The address is a ClusterIP: packets to a port at which no Service answers are rejected, as kube-proxy's
    /// nftables mode does. At other Service addresses they are left to the stack.
    pub const CLUSTER_IP: u32 = 16;
    /// The address is in a Service range, and somebody else serves it (KEP-2447): left to the stack.
    pub const FOREIGN: u32 = 32;
}

/// Key of the `frontends` map: where clients send to. A NodePort stands under the unspecified address of its family
/// (`0.0.0.0` v4-mapped, or `::`): it is served at every address with [`AddressValue::NODE_PORT`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, NoUninit, AnyBitPattern)]
pub struct FrontendKey {
    /// The virtual address.
    pub address: Address,
    /// The virtual port.
    pub port: Port,
    /// IP protocol number: 6 TCP, 17 UDP, 132 SCTP.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

const _: () = assert!(size_of::<FrontendKey>() == 20);

impl FrontendKey {
    /// All zero.
    pub const ZERO: Self = Self {
        address: Address::UNSPECIFIED,
        port: Port::new(0),
        protocol: 0,
        pad: 0,
    };

    /// A number that tells keys apart: [`FrontendValue::check`].
    #[inline(always)]
    pub fn check(&self) -> u32 {
        let [a, b, c, d] = self.address.words();
        mix(&[
            pair(a, b),
            pair(c, d),
            (self.port.wire() as u64) << 8 | self.protocol as u64,
        ])
    }
}

/// Value of the `frontends` map: the service port and how many slots each of its sets has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct FrontendValue {
    /// [`FrontendKey::check`] of the entry's key: a freed element is reused under a reader, who reads this last and
    /// looks up again where it differs.
    pub check: u32,
    /// Which service port: the key of the `services` map. Never zero.
    pub service: u32,
    /// Which generation of slots is the current one.
    pub generation: u32,
    /// Slots of the cluster set: indexes `0..cluster`.
    pub cluster: u32,
    /// Slots of the local set: indexes `SlotKey::LOCAL..SlotKey::LOCAL + local`.
    pub local: u32,
    /// A sum of the constants of this type.
    pub flags: u32,
    /// Seconds for which a client stays with its backend; 0 without session affinity.
    pub affinity_timeout: u32,
}

const _: () = assert!(size_of::<FrontendValue>() == 28);

impl FrontendValue {
    /// All zero.
    pub const ZERO: Self = Self {
        check: 0,
        service: 0,
        generation: 0,
        cluster: 0,
        local: 0,
        flags: 0,
        affinity_timeout: 0,
    };
    /// Clients inside the cluster use the local set (`internalTrafficPolicy: Local`).
    pub const INTERNAL_LOCAL: u32 = 1;
    /// Clients outside the cluster use the local set (`externalTrafficPolicy: Local`).
    pub const EXTERNAL_LOCAL: u32 = 2;
    /// Some endpoint somewhere can serve: an empty set drops instead of rejecting (kube-proxy's `hasAnyEndpoints`).
    pub const ANY_ENDPOINTS: u32 = 4;
    /// The Service is the cluster's DNS: a backend on this node is used while the *dns alive* clock is fresh and
    /// avoided once it is stale.
    pub const DNS: u32 = 8;
    /// A way in for clients outside the cluster: NodePort, external IP or load balancer's IP. Clients inside use the
    /// cluster set whatever the policies say (kube-proxy's short-circuit for local clients).
    pub const EXTERNAL: u32 = 16;
    /// Only sources in the Service's ranges (`source_ranges`) are let in; the others are dropped.
    pub const SOURCE_RANGES: u32 = 32;
}

/// Key of the `slots` map: one place of one generation of a set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, NoUninit, AnyBitPattern)]
pub struct SlotKey {
    /// As in [`FrontendValue::service`].
    pub service: u32,
    /// As in [`FrontendValue::generation`].
    pub generation: u32,
    /// Place in the set, counted from 0 or from [`SlotKey::LOCAL`].
    pub index: u32,
}

const _: () = assert!(size_of::<SlotKey>() == 12);

impl SlotKey {
    /// Where the indexes of the local set begin.
    pub const LOCAL: u32 = 1 << 31;
}

/// Value of the `slots` map: a backend. Repeats service and generation, because a freed element of a BPF hash map is
/// reused without a grace period: a reader that finds another pair here holds somebody else's value.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct SlotValue {
    /// As in the key.
    pub service: u32,
    /// As in the key.
    pub generation: u32,
    /// The backend's address.
    pub address: Address,
    /// The backend's port.
    pub port: Port,
    /// A sum of the constants of this type.
    pub flags: u16,
}

const _: () = assert!(size_of::<SlotValue>() == 28);

impl SlotValue {
    /// All zero.
    pub const ZERO: Self = Self {
        service: 0,
        generation: 0,
        address: Address::UNSPECIFIED,
        port: Port::new(0),
        flags: 0,
    };
    /// The backend is on this node.
    pub const LOCAL: u16 = 1;
}

/// Key of the `members` map: an endpoint of a service port, chosen into a set or not.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, NoUninit, AnyBitPattern,
)]
pub struct MemberKey {
    /// As in [`FrontendValue::service`].
    pub service: u32,
    /// The endpoint's address.
    pub address: Address,
    /// The endpoint's port.
    pub port: Port,
    /// Zero.
    pub pad: u16,
}

const _: () = assert!(size_of::<MemberKey>() == 24);

impl MemberKey {
    /// All zero.
    pub const ZERO: Self = Self {
        service: 0,
        address: Address::UNSPECIFIED,
        port: Port::new(0),
        pad: 0,
    };
}

/// Value of the `members` map: may a flow, an affinity entry or a UDP packet still go to this endpoint?
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct MemberValue {
    /// A sum of the constants of this type.
    pub flags: u32,
}

impl MemberValue {
    /// The endpoint serves: flows may stay (EndpointSlice condition `serving`).
    pub const SERVING: u32 = 1;
    /// The endpoint is in one of the sets: new flows may go there.
    pub const CHOSEN: u32 = 2;
    /// The endpoint is on this node.
    pub const LOCAL: u32 = 4;
    /// The endpoint is in the cluster set. One that is chosen and on this node is in the local set, where there is one.
    pub const CLUSTER: u32 = 8;
}

/// Key of the `affinity` map: a client of a service port, whichever frontend it uses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, NoUninit, AnyBitPattern)]
pub struct AffinityKey {
    /// The client's address.
    pub client: Address,
    /// As in [`FrontendValue::service`].
    pub service: u32,
}

const _: () = assert!(size_of::<AffinityKey>() == 20);

impl AffinityKey {
    /// All zero.
    pub const ZERO: Self = Self {
        client: Address::UNSPECIFIED,
        service: 0,
    };

    /// A number that tells keys apart: [`AffinityValue::check`].
    #[inline(always)]
    pub fn check(&self) -> u32 {
        let [a, b, c, d] = self.client.words();
        mix(&[pair(a, b), pair(c, d), self.service as u64])
    }
}

/// Value of the `affinity` map: the backend that a client stays with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct AffinityValue {
    /// [`AffinityKey::check`] of the entry's key: an element of an LRU map is reused under a reader.
    pub check: u32,
    /// The backend's port.
    pub port: Port,
    /// Zero.
    pub pad: u16,
    /// The backend's address.
    pub address: Address,
    /// When the client last opened a flow: nanoseconds of `CLOCK_MONOTONIC`.
    pub last_used: u64,
}

const _: () = assert!(size_of::<AffinityValue>() == 32);

impl AffinityValue {
    /// All zero.
    pub const ZERO: Self = Self {
        check: 0,
        port: Port::new(0),
        pad: 0,
        address: Address::UNSPECIFIED,
        last_used: 0,
    };
}

/// Key of the `source_ranges` trie: a network whose addresses may use the load balancer's IPs of a service port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, NoUninit, AnyBitPattern)]
pub struct RangeKey {
    /// Bits of what follows that count: 32 for the service and those of the network's prefix; 96 more for IPv4, whose
    /// addresses are v4-mapped. Host byte order, as the kernel wants it.
    pub bits: u32,
    /// As in [`FrontendValue::service`]; [`RangeKey::CLUSTER`] for the networks of the cluster's pods.
    pub service: u32,
    /// The network's address, or the client's.
    pub address: Address,
}

const _: () = assert!(size_of::<RangeKey>() == 24);

impl RangeKey {
    /// The networks that clients inside the cluster have their addresses from (kube-proxy's `clusterCIDR`).
    pub const CLUSTER: u32 = 0;
    /// [`RangeKey::bits`] of a look-up.
    pub const ALL_BITS: u32 = 32 + 128;
}

/// Value of the `services` map (key: service id as `u32` in host byte order): what an operator calls the service port.
/// The programs never read it. Names are padded with zero bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct ServiceValue {
    /// Namespace of the Service (a DNS label: at most 63 bytes).
    pub namespace: [u8; 64],
    /// Name of the Service (a DNS label: at most 63 bytes).
    pub name: [u8; 64],
    /// Name of the port, empty for an unnamed one.
    pub port_name: [u8; 64],
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// Zero.
    pub pad: [u8; 2],
    /// The generation of slots in use.
    pub generation: u32,
}

const _: () = assert!(size_of::<ServiceValue>() == 200);

impl ServiceValue {
    /// Namespace, name and port name, without the padding. `None` where one is no text, which no agent writes.
    pub fn names(&self) -> Option<[&str; 3]> {
        Some([
            text(&self.namespace)?,
            text(&self.name)?,
            text(&self.port_name)?,
        ])
    }
}

/// Text that is filled up with zeros.
fn text(padded: &[u8]) -> Option<&str> {
    let end = padded.iter().position(|byte| *byte == 0);
    core::str::from_utf8(&padded[..end.unwrap_or(padded.len())]).ok()
}
