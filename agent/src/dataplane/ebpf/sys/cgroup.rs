//! Links of programs to cgroups, and what tells one network namespace from another.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use bytemuck::{AnyBitPattern, NoUninit};

use super::{LINK_CREATE, call_for_fd, info};

const LINK_TYPE_CGROUP: u32 = 3;

/// What a process does that a program of a cgroup sees: the kernel's `BPF_CGROUP_INET4_CONNECT` and so on.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketCall {
    /// It connects a socket to an IPv4 address.
    Connect4 = 10,
    /// It connects a socket to an IPv6 address.
    Connect6 = 11,
    /// It sends a datagram to an IPv4 address.
    Sendmsg4 = 14,
    /// It sends a datagram to an IPv6 address.
    Sendmsg6 = 15,
    /// It gets a datagram on a socket of IPv4.
    Recvmsg4 = 19,
    /// It gets a datagram on a socket of IPv6.
    Recvmsg6 = 20,
    /// It asks whom a socket of IPv4 is connected to.
    Getpeername4 = 29,
    /// It asks whom a socket of IPv6 is connected to.
    Getpeername6 = 30,
}

/// Attaches a program to a cgroup and all below it, beside those that are there (Linux 5.7).
///
/// # Errors
/// Those of `BPF_LINK_CREATE`: `EBADF` for what is not a cgroup of cgroup2, `EPERM` where a cgroup above has a program
/// of this kind that forbids others.
pub fn attach_to_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    call: SocketCall,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Clone, Copy, NoUninit)]
    struct Attr {
        program: u32,
        cgroup: u32,
        call: u32,
        flags: u32,
    }
    let attr = Attr {
        program: program.as_raw_fd() as u32,
        cgroup: cgroup.as_raw_fd() as u32,
        call: call as u32,
        flags: 0,
    };
    call_for_fd(LINK_CREATE, &attr)
}

/// The number of the cgroup that a link is attached to, which is the inode number of its folder; 0 where the cgroup is
/// gone, or for a link of another kind.
///
/// # Errors
/// Those of `BPF_OBJ_GET_INFO_BY_FD`.
pub fn linked_cgroup(link: BorrowedFd<'_>) -> io::Result<u64> {
    #[repr(C)]
    #[derive(Clone, Copy, NoUninit, AnyBitPattern)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        pad: u32,
        cgroup: u64,
        call: u32,
        pad2: u32,
    }
    let Info { kind, cgroup, .. } = info(link)?;
    Ok(if kind == LINK_TYPE_CGROUP { cgroup } else { 0 })
}

/// The cookie of the network namespace of a socket, as `bpf_get_netns_cookie` gives it to programs (Linux 5.14).
///
/// # Errors
/// `ENOPROTOOPT` on older kernels.
pub fn namespace_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    cookie(socket, libc::SO_NETNS_COOKIE)
}

/// The cookie of a socket, as `bpf_get_socket_cookie` gives it to programs.
///
/// # Errors
/// Those of `getsockopt`.
pub fn socket_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    cookie(socket, libc::SO_COOKIE)
}

fn cookie(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the pointers are to a word and to its length.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}
