//! The entry points of the programs: they only turn what the logic says into an action of tc or of the cgroup.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        EbpfContext as _,
        bindings::{TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC},
        macros::{cgroup_sock_addr, classifier},
        programs::{SockAddrContext, TcContext},
    };
    use signpost_common::Cause;
    use signpost_ebpf::{
        Verdict,
        kernel::{
            Maps, Skb,
            socket::{self, V4, V6},
        },
        packet::ETHERNET,
        socket::{Socket as _, connect, getpeername, recvmsg, sendmsg},
        tables::Tables as _,
        verdict::spoils,
    };

    /// tc ingress of a pod's host-side interface.
    #[classifier]
    pub(crate) fn from_pod(context: TcContext) -> i32 {
        let mut skb = Skb::<ETHERNET>::new(context.as_ptr().cast());
        let verdict = signpost_ebpf::from_pod(&mut skb, &Maps);
        act(verdict, || skb.send_back())
    }

    /// tc egress of a pod's host-side interface.
    #[classifier]
    pub(crate) fn to_pod(context: TcContext) -> i32 {
        let mut skb = Skb::<ETHERNET>::new(context.as_ptr().cast());
        let verdict = signpost_ebpf::to_pod(&mut skb, &Maps);
        act(verdict, || skb.send_back())
    }

    /// tc ingress of an uplink or a tunnel.
    #[classifier]
    pub(crate) fn from_wire(context: TcContext) -> i32 {
        let mut skb = Skb::<ETHERNET>::new(context.as_ptr().cast());
        let verdict = signpost_ebpf::from_wire(&mut skb, &Maps);
        act(verdict, || skb.send_out())
    }

    /// tc egress of an uplink or a tunnel.
    #[classifier]
    pub(crate) fn to_wire(context: TcContext) -> i32 {
        let mut skb = Skb::<ETHERNET>::new(context.as_ptr().cast());
        let verdict = signpost_ebpf::to_wire(&mut skb, &Maps);
        act(verdict, || skb.send_in())
    }

    /// tc ingress of an uplink or a tunnel without Ethernet headers.
    #[classifier]
    pub(crate) fn from_bare(context: TcContext) -> i32 {
        let mut skb = Skb::<0>::new(context.as_ptr().cast());
        let verdict = signpost_ebpf::from_wire(&mut skb, &Maps);
        act(verdict, || skb.send_out())
    }

    /// tc egress of an uplink or a tunnel without Ethernet headers.
    #[classifier]
    pub(crate) fn to_bare(context: TcContext) -> i32 {
        let mut skb = Skb::<0>::new(context.as_ptr().cast());
        let verdict = signpost_ebpf::to_wire(&mut skb, &Maps);
        act(verdict, || skb.send_in())
    }

    /// A process connects a socket to an IPv4 address.
    #[cgroup_sock_addr(connect4)]
    pub(crate) fn connect4(context: SockAddrContext) -> i32 {
        socket::act(connect(&mut V4::new(context.sock_addr), &Maps))
    }

    /// A process connects a socket to an IPv6 address.
    #[cgroup_sock_addr(connect6)]
    pub(crate) fn connect6(context: SockAddrContext) -> i32 {
        socket::act(connect(&mut V6::new(context.sock_addr), &Maps))
    }

    /// A process sends a datagram to an IPv4 address.
    #[cgroup_sock_addr(sendmsg4)]
    pub(crate) fn sendmsg4(context: SockAddrContext) -> i32 {
        socket::act(sendmsg(&mut V4::new(context.sock_addr), &Maps))
    }

    /// A process sends a datagram to an IPv6 address.
    #[cgroup_sock_addr(sendmsg6)]
    pub(crate) fn sendmsg6(context: SockAddrContext) -> i32 {
        socket::act(sendmsg(&mut V6::new(context.sock_addr), &Maps))
    }

    /// A process gets a datagram on a socket of IPv4. The kernel wants this program to return 1.
    #[cgroup_sock_addr(recvmsg4)]
    pub(crate) fn recvmsg4(context: SockAddrContext) -> i32 {
        recvmsg(&mut V4::new(context.sock_addr), &Maps);
        1
    }

    /// A process gets a datagram on a socket of IPv6.
    #[cgroup_sock_addr(recvmsg6)]
    pub(crate) fn recvmsg6(context: SockAddrContext) -> i32 {
        recvmsg(&mut V6::new(context.sock_addr), &Maps);
        1
    }

    /// A process asks whom its socket of IPv4 is connected to.
    #[cgroup_sock_addr(getpeername4)]
    pub(crate) fn getpeername4(context: SockAddrContext) -> i32 {
        getpeername(&mut V4::new(context.sock_addr), &Maps);
        1
    }

    /// A process asks whom its socket of IPv6 is connected to.
    #[cgroup_sock_addr(getpeername6)]
    pub(crate) fn getpeername6(context: SockAddrContext) -> i32 {
        getpeername(&mut V6::new(context.sock_addr), &Maps);
        1
    }

    /// The agent connects a socket of its own, to learn the cookie of its network namespace (before Linux 5.14).
    #[cgroup_sock_addr(connect4)]
    pub(crate) fn learn_namespace(context: SockAddrContext) -> i32 {
        let socket = V4::new(context.sock_addr);
        Maps.learn(socket.cookie(), socket.namespace());
        1
    }

    #[inline(always)]
    fn act(verdict: Result<Verdict, Cause>, send_back: impl FnOnce() -> i32) -> i32 {
        match verdict {
            Ok(Verdict::Continue) => TC_ACT_UNSPEC,
            Ok(Verdict::Rewritten(cause)) => {
                Maps.count(cause);
                TC_ACT_UNSPEC
            }
            Ok(Verdict::Forwarded(cause)) => {
                Maps.count(cause);
                TC_ACT_REDIRECT
            }
            Ok(Verdict::SendBack(cause)) => {
                Maps.count(cause);
                send_back()
            }
            Ok(Verdict::Answered(_)) => send_back(),
            Ok(Verdict::Drop(cause)) => {
                Maps.count(cause);
                TC_ACT_SHOT
            }
            Err(cause) => {
                Maps.count(cause);
                if spoils(cause) {
                    TC_ACT_SHOT
                } else {
                    TC_ACT_UNSPEC
                }
            }
        }
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("These are eBPF programs; `signpost agent` carries and loads them.");
}
