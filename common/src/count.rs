//! Value of the map that counts what goes through each service port.

use bytemuck::{AnyBitPattern, NoUninit};

/// Value of the `service_counts` map (key: service id as `u32` in host byte order, as in
/// [`crate::service::FrontendValue::service`]), one for each CPU: the sum of all is what was counted. The programs make
/// an element at a service port's first connection, and only where [`COUNT_SERVICES`] says so; the agent takes it away
/// with the service port.
///
/// A packet is what the programs see: one that the kernel cuts into segments later, or has put together, is one. Bytes
/// are counted from the IP header on. Of sockets of the host only the connections are seen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct ServiceCount {
    /// Connections, associations and flows of datagrams that were opened.
    pub connections: u64,
    /// Packets of clients.
    pub packets_in: u64,
    /// Bytes of these.
    pub bytes_in: u64,
    /// Packets of backends to clients.
    pub packets_out: u64,
    /// Bytes of these.
    pub bytes_out: u64,
}

const _: () = assert!(size_of::<ServiceCount>() == 40);

impl ServiceCount {
    /// All zero.
    pub const ZERO: Self = Self {
        connections: 0,
        packets_in: 0,
        bytes_in: 0,
        packets_out: 0,
        bytes_out: 0,
    };

    /// What was counted on all of these CPUs.
    #[cfg(feature = "user")]
    pub fn sum(of_cpus: &[Self]) -> Self {
        of_cpus.iter().fold(Self::ZERO, |sum, of_cpu| Self {
            connections: sum.connections + of_cpu.connections,
            packets_in: sum.packets_in + of_cpu.packets_in,
            bytes_in: sum.bytes_in + of_cpu.bytes_in,
            packets_out: sum.packets_out + of_cpu.packets_out,
            bytes_out: sum.bytes_out + of_cpu.bytes_out,
        })
    }
}

/// A word of the object, read-only once it is loaded: 1 where service ports are counted. With 0 the verifier leaves all
/// of it out of the programs.
pub const COUNT_SERVICES: &str = "COUNT_SERVICES";
