//! Value of the map that says what the programs have to know of an interface.

use bytemuck::{AnyBitPattern, NoUninit};

use crate::Address;

/// Value of the `devices` map (key: interface index as `u32` in host byte order): the addresses that masqueraded
/// packets get when they leave by it, as `MASQUERADE` of netfilter would choose them. Unspecified where there is none.
/// Interfaces without an element or an
/// address have that of [`DeviceValue::ANY`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct DeviceValue {
    /// For IPv4, v4-mapped.
    pub v4: Address,
    /// For IPv6.
    pub v6: Address,
}

const _: () = assert!(size_of::<DeviceValue>() == 32);

impl DeviceValue {
    /// The key of what interfaces without an address of their own use. No interface has this index.
    pub const ANY: u32 = 0;
}
