//! A socket as the programs of a cgroup get it: `struct bpf_sock_addr`.
//!
//! The verifier turns each access into one to kernel structures, so each must be of one whole field, and of a field that
//! the program's attach type has.

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
};
use signpost_common::{Address, Port};

use crate::socket::{Socket, Verdict};

/// Whether the kernel has `bpf_set_retval` for these programs (Linux 5.18). The agent writes 0 where it has not, and
/// the verifier then leaves the calls out.
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: u32 = 1;

/// A socket whose address is of IPv4, for the programs whose names end in 4.
pub struct V4(*mut bpf_sock_addr);

/// A socket whose address is of IPv6, a v4-mapped one included.
pub struct V6(*mut bpf_sock_addr);

impl V4 {
    /// Of a program's context.
    #[inline(always)]
    pub const fn new(context: *mut bpf_sock_addr) -> Self {
        Self(context)
    }
}

impl V6 {
    /// Of a program's context.
    #[inline(always)]
    pub const fn new(context: *mut bpf_sock_addr) -> Self {
        Self(context)
    }
}

macro_rules! common {
    () => {
        #[inline(always)]
        fn namespace(&self) -> u64 {
            // SAFETY: the context of a program that has this helper.
            unsafe { bpf_get_netns_cookie(self.0.cast()) }
        }

        #[inline(always)]
        fn cookie(&self) -> u64 {
            // SAFETY: as above.
            unsafe { bpf_get_socket_cookie(self.0.cast()) }
        }

        #[inline(always)]
        fn protocol(&self) -> u32 {
            // SAFETY: a field of the context.
            unsafe { read_volatile(addr_of!((*self.0).protocol)) }
        }

        #[inline(always)]
        fn port(&self) -> Port {
            // SAFETY: a field of the context; the port is in its first two bytes.
            Port::from_wire(unsafe { read_volatile(addr_of!((*self.0).user_port)) } as u16)
        }
    };
}

impl Socket for V4 {
    common!();

    #[inline(always)]
    fn address(&self) -> Address {
        // SAFETY: a field of the context.
        Address::v4_word(unsafe { read_volatile(addr_of!((*self.0).user_ip4)) })
    }

    #[inline(always)]
    fn set(&mut self, address: &Address, port: Port) {
        let [_, _, _, word] = address.words();
        // SAFETY: fields of the context that may be written.
        unsafe {
            write_volatile(addr_of_mut!((*self.0).user_ip4), word);
            write_volatile(addr_of_mut!((*self.0).user_port), port.wire().into());
        }
    }
}

impl Socket for V6 {
    common!();

    #[inline(always)]
    fn address(&self) -> Address {
        // SAFETY: fields of the context.
        unsafe {
            Address::v6_words([
                read_volatile(addr_of!((*self.0).user_ip6[0])),
                read_volatile(addr_of!((*self.0).user_ip6[1])),
                read_volatile(addr_of!((*self.0).user_ip6[2])),
                read_volatile(addr_of!((*self.0).user_ip6[3])),
            ])
        }
    }

    #[inline(always)]
    fn set(&mut self, address: &Address, port: Port) {
        let [a, b, c, d] = address.words();
        // SAFETY: fields of the context that may be written.
        unsafe {
            write_volatile(addr_of_mut!((*self.0).user_ip6[0]), a);
            write_volatile(addr_of_mut!((*self.0).user_ip6[1]), b);
            write_volatile(addr_of_mut!((*self.0).user_ip6[2]), c);
            write_volatile(addr_of_mut!((*self.0).user_ip6[3]), d);
            write_volatile(addr_of_mut!((*self.0).user_port), port.wire().into());
        }
    }
}

/// A verdict as the kernel takes it: 1 lets the call go on, 0 fails it with `EPERM` or with what was set before.
#[inline(always)]
pub fn act(verdict: Verdict) -> i32 {
    const ECONNREFUSED: i32 = 111;
    const ETIMEDOUT: i32 = 110;
    match verdict {
        Verdict::Continue => return 1,
        Verdict::Refuse => fail(ECONNREFUSED),
        Verdict::TimeOut => fail(ETIMEDOUT),
        Verdict::Deny => {}
    }
    0
}

#[inline(always)]
fn fail(error: i32) {
    // SAFETY: a word that is read-only once the program is loaded; without the helper the call is never reached.
    unsafe {
        if read_volatile(addr_of!(HAS_SET_RETVAL)) != 0 {
            bpf_set_retval(-error);
        }
    }
}
