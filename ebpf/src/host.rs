//! The host's side: a packet is a byte vector, the tables are in memory.

pub mod frame;
pub mod memory;

pub use frame::Frame;
pub use memory::Memory;
