//! Messages of IPVS's generic netlink family (linux/ip_vs.h), as its own `ipvsadm` sends them.

mod attribute;
#[cfg(test)]
mod tests;
mod traffic;

use netlink_packet_core::{DecodeError, Emitable, ParseableParametrized};
use netlink_packet_generic::{GenlFamily, GenlHeader};

pub(super) use attribute::{Attribute, DestinationAttribute, ServiceAttribute};
pub(super) use traffic::TrafficAttribute;

/// The family's name and version.
const FAMILY: &str = "IPVS";
const VERSION: u8 = 1;

/// What is asked of the kernel, or what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Make a virtual server; in a list, one of them.
    NewService,
    /// Change a virtual server.
    SetService,
    /// Delete a virtual server with its destinations.
    DeleteService,
    /// List the virtual servers.
    GetService,
    /// Make a destination; in a list, one of them.
    NewDestination,
    /// Change a destination.
    SetDestination,
    /// Delete a destination.
    DeleteDestination,
    /// List the destinations of a virtual server.
    GetDestination,
    /// Change the timeouts.
    SetConfig,
    /// The answer to [`Command::GetInfo`].
    SetInfo,
    /// Ask for the version.
    GetInfo,
    /// Delete all virtual servers.
    Flush,
    /// Any other.
    Other(u8),
}

/// A message of the family, without the generic header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IpvsMessage {
    /// What it is for.
    pub(super) command: Command,
    /// What it says.
    pub(super) attributes: Vec<Attribute>,
}

impl From<Command> for u8 {
    fn from(command: Command) -> Self {
        match command {
            Command::NewService => 1,
            Command::SetService => 2,
            Command::DeleteService => 3,
            Command::GetService => 4,
            Command::NewDestination => 5,
            Command::SetDestination => 6,
            Command::DeleteDestination => 7,
            Command::GetDestination => 8,
            Command::SetConfig => 12,
            Command::SetInfo => 14,
            Command::GetInfo => 15,
            Command::Flush => 17,
            Command::Other(number) => number,
        }
    }
}

impl From<u8> for Command {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::NewService,
            2 => Self::SetService,
            3 => Self::DeleteService,
            4 => Self::GetService,
            5 => Self::NewDestination,
            6 => Self::SetDestination,
            7 => Self::DeleteDestination,
            8 => Self::GetDestination,
            12 => Self::SetConfig,
            14 => Self::SetInfo,
            15 => Self::GetInfo,
            17 => Self::Flush,
            other => Self::Other(other),
        }
    }
}

impl GenlFamily for IpvsMessage {
    fn family_name() -> &'static str {
        FAMILY
    }

    fn command(&self) -> u8 {
        self.command.into()
    }

    fn version(&self) -> u8 {
        VERSION
    }
}

impl Emitable for IpvsMessage {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for IpvsMessage {
    fn parse_with_param(bytes: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let command = Command::from(header.cmd);
        Ok(Self {
            command,
            attributes: Attribute::parse_all(command, bytes)?,
        })
    }
}
