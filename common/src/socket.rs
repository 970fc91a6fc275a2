//! What the programs of sockets keep: where sockets send to, and which pods' sockets are looked at.

use bytemuck::{AnyBitPattern, NoUninit};

use crate::{
    Address, Port,
    check::{mix, pair},
};

/// Key of the `sockets` map: a socket and whom it talks to, as the process sees it or as the network does.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, NoUninit, AnyBitPattern)]
pub struct SocketKey {
    /// The socket's cookie, which no other socket gets until the next boot.
    pub cookie: u64,
    /// The backend's address, or the one that the process gave.
    pub address: Address,
    /// The port that belongs to it.
    pub port: Port,
    /// [`SocketKey::FROM_BACKEND`] or [`SocketKey::TO_BACKEND`].
    pub direction: u16,
    /// Zero.
    pub pad: [u16; 2],
}

const _: () = assert!(size_of::<SocketKey>() == 32);

impl SocketKey {
    /// The key is a backend; the value is what the process gave, and what it is told that a datagram comes from.
    pub const FROM_BACKEND: u16 = 0;
    /// The key is what the process gave; the value is the backend that its datagrams go to. Not for TCP.
    pub const TO_BACKEND: u16 = 1;

    /// A number that tells keys apart: [`SocketValue::check`].
    #[inline(always)]
    pub fn check(&self) -> u32 {
        let [a, b, c, d] = self.address.words();
        let port = (self.port.wire() as u64) << 16 | self.direction as u64;
        mix(&[self.cookie, pair(a, b), pair(c, d), port])
    }
}

/// Value of the `sockets` map: the other one of the two addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct SocketValue {
    /// [`SocketKey::check`] of the entry's key: an element of an LRU map is reused under a reader.
    pub check: u32,
    /// The address that the process gave, or the backend's.
    pub address: Address,
    /// The port that belongs to it.
    pub port: Port,
    /// [`SocketValue::UNLISTED`] or zero.
    pub flags: u16,
    /// The service port, as in [`crate::service::FrontendValue::service`].
    pub service: u32,
}

const _: () = assert!(size_of::<SocketValue>() == 28);

impl SocketValue {
    /// The socket is one of Multipath TCP, which `sock_diag` does not list: nobody can tell whether it is closed.
    pub const UNLISTED: u16 = 1;
}

/// Value of the `socket_pods` map (key: cookie of a network namespace as `u64` in host byte order): a pod whose sockets are
/// treated as those of the host are.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct PodValue {
    /// The key: an element is reused under a reader.
    pub namespace: u64,
    /// The pod's IPv4 address, v4-mapped: what source ranges are asked for, and affinity remembers. Unspecified where it
    /// has none.
    pub v4: Address,
    /// The same of IPv6.
    pub v6: Address,
    /// [`PodValue::TCP_ONLY`] or zero.
    pub flags: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<PodValue>() == 48);

impl PodValue {
    /// The programs at the pod's interface serve it as well: datagrams are left to them, and with these the questions
    /// to the cluster's DNS.
    pub const TCP_ONLY: u32 = 1;
}
