//! Transmit offload of an interface. With it the checksums of packets on a veth are unfinished, as in real life;
//! without it every packet that is captured must be right to the last bit.

use std::os::fd::AsRawFd as _;

use anyhow::Context as _;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::namespace::Namespace;

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Commands of linux/ethtool.h that set one flag: checksums, scatter-gather, segmentation (TCP, generic), receive.
const SWITCHES: [(&str, u32); 5] = [
    ("tx checksum", 0x17),
    ("scatter-gather", 0x19),
    ("tcp segmentation", 0x1f),
    ("generic segmentation", 0x24),
    ("generic receive", 0x2c),
];

/// Switches every transmit offload of an interface off.
///
/// # Errors
/// Where there is no such interface.
pub fn switch_off(namespace: &Namespace, name: &str) -> anyhow::Result<()> {
    namespace.run(|| {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        for (what, command) in SWITCHES {
            let mut value = Value { command, data: 0 };
            // SAFETY: all bytes zero is a valid ifreq.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            anyhow::ensure!(name.len() < request.ifr_name.len(), "{name} is too long");
            for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
                *to = from.cast_signed();
            }
            request.ifr_ifru.ifru_data = (&raw mut value).cast();
            // SAFETY: the request points to a value that lives over the call and has the form that the command asks.
            let result = unsafe {
                libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request)
            };
            nix::errno::Errno::result(result)
                .with_context(|| format!("cannot switch {what} of {name} off"))?;
        }
        Ok(())
    })?
}
