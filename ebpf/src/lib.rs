//! What the programs do with a packet, generic over where the packet and the tables are.
//!
//! In the kernel they are an skb and BPF maps (`kernel`); on the host a byte vector and hash maps ([`host`]), so that
//! the same logic is unit-tested without root and answers `signpost dns query` from the pinned maps.
//!
//! Bird's eye: [`from_pod()`] and [`from_wire()`] see what arrives, [`to_pod()`] and [`to_wire()`] what leaves. They parse
//! the headers once ([`headers`]), look the packet up ([`tables`]), and rewrite it ([`rewrite`]). Anything odd is a
//! [`Cause`](signpost_common::Cause) and is left alone.
#![cfg_attr(target_arch = "bpf", no_std, feature(asm_experimental_arch))]

mod affinity;
pub mod arrive;
pub mod choose;
mod count;
pub mod dns;
pub mod flow;
pub mod fragment;
pub mod headers;
#[cfg(not(target_arch = "bpf"))]
pub mod host;
pub mod icmp;
#[cfg(target_arch = "bpf")]
pub mod kernel;
pub mod leave;
pub mod masquerade;
pub mod packet;
pub mod record;
pub mod reject;
pub mod rewrite;
pub mod segment;
pub mod socket;
pub mod sum;
pub mod tables;
pub mod through;
mod unserved;
pub mod verdict;
pub mod work;

pub use arrive::{from_pod, from_wire};
pub use leave::{to_pod, to_wire};
pub use verdict::Verdict;
