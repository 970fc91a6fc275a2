//! What both sides of the kernel line must agree on, and nothing else.
//!
//! Every type that crosses the line is `#[repr(C)]`, has no implicit padding (`bytemuck::NoUninit` proves it at
//! compile time), carries ports and addresses in network byte order, and holds no enum, bool or `Option`: a value
//! written by anybody is a valid value.
#![cfg_attr(not(test), no_std)]

pub mod address;
pub mod cause;
mod check;
pub mod count;
pub mod device;
pub mod dns;
pub mod filter;
pub mod flow;
pub mod layout;
pub mod log;
pub mod name;
pub mod service;
pub mod socket;
pub mod tally;

pub use address::{Address, Port};
pub use cause::Cause;

/// The first of the ports that flows get which cannot keep their own, up to 65535: above the usual `ip_local_port_range`
/// (32768–60999), and reserved, so that neither the node nor a pod connects from them.
pub const FIRST_PORT: u16 = 61_000;

#[cfg(feature = "user")]
mod pod {
    macro_rules! pod {
        ($($type:ty),+ $(,)?) => {
            // SAFETY: the types are `NoUninit` and `AnyBitPattern`: no padding, and any bytes are a value.
            $(unsafe impl aya::Pod for $type {})+
        };
    }

    pod!(
        crate::Address,
        crate::count::ServiceCount,
        crate::device::DeviceValue,
        crate::dns::Config,
        crate::dns::LargeAnswer,
        crate::dns::OutsideAnswer,
        crate::dns::NameValue,
        crate::dns::SmallAnswer,
        crate::flow::FlowKey,
        crate::flow::FlowValue,
        crate::flow::FragmentKey,
        crate::flow::FragmentValue,
        crate::name::NameKey,
        crate::service::AddressValue,
        crate::service::AffinityKey,
        crate::service::AffinityValue,
        crate::service::FrontendKey,
        crate::service::FrontendValue,
        crate::service::MemberKey,
        crate::service::MemberValue,
        crate::service::RangeKey,
        crate::service::ServiceValue,
        crate::service::SlotKey,
        crate::service::SlotValue,
        crate::socket::SocketKey,
        crate::socket::SocketValue,
        crate::tally::DnsCounts,
    );
}
