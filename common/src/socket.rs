//! Key and value of the map that tells a socket of the host what it is connected to.

use bytemuck::{AnyBitPattern, NoUninit};

use crate::{Address, Port};

/// Key of the `sockets` map: a socket and the backend that its traffic goes to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, NoUninit, AnyBitPattern)]
pub struct SocketKey {
    /// The socket's cookie, which no other socket gets until the next boot.
    pub cookie: u64,
    /// The backend's address.
    pub address: Address,
    /// The backend's port.
    pub port: Port,
    /// Zero.
    pub pad: [u16; 3],
}

const _: () = assert!(size_of::<SocketKey>() == 32);

/// Value of the `sockets` map: what the process believes that it talks to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct SocketValue {
    /// The virtual address that the process gave.
    pub address: Address,
    /// The virtual port that the process gave.
    pub port: Port,
    /// Zero.
    pub pad: u16,
    /// The service port, as in [`crate::service::FrontendValue::service`].
    pub service: u32,
}

const _: () = assert!(size_of::<SocketValue>() == 24);
