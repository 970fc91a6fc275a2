//! A packet at a tc hook.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_REDIRECT,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_fib_lookup, bpf_fib_lookup__bindgen_ty_1,
        bpf_fib_lookup__bindgen_ty_2, bpf_fib_lookup__bindgen_ty_3, bpf_fib_lookup__bindgen_ty_4,
        bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1,
    },
    helpers::{
        bpf_fib_lookup as fib_lookup, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh,
        bpf_redirect_peer, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_change_type,
        bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
};
use bytemuck::{AnyBitPattern, NoUninit};
use signpost_common::{Address, Cause, flow::FlowValue};

use crate::{
    dns::{self, Scratch},
    headers::Headers,
    kernel::Maps,
    packet::{ETHERNET, PAD, Packet, Part},
    sum::Sum,
    tables::Tables,
    verdict::{Packed, Verdict},
};

/// `PACKET_HOST` of `linux/if_packet.h`: the packet is for us.
const PACKET_HOST: u32 = 0;

/// Address families of `bits/socket.h`.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Traffic class and flow label in the first word of an IPv6 header.
const FLOW_INFO: u32 = 0x0fff_ffff;

/// `BPF_FIB_LKUP_RET_SUCCESS` and `BPF_FIB_LKUP_RET_NO_NEIGH` of `linux/bpf.h`; with the latter too, interface and next
/// hop are known from Linux 5.10 on.
const FOUND: i64 = 0;
const NO_NEIGHBOUR: i64 = 7;

/// The last offset at which the packet is read directly: the verifier wants one that cannot overflow.
const PEEKED: u32 = 511;

/// An skb at a tc hook, whose IP header begins at this byte.
#[repr(transparent)]
pub struct Skb<const IP: u32 = ETHERNET>(*mut __sk_buff);

impl<const IP: u32> Skb<IP> {
    /// From the context of a tc program.
    #[inline(always)]
    pub const fn new(skb: *mut __sk_buff) -> Self {
        Self(skb)
    }

    /// Reads a value out of the linear part of the packet, which is many times faster than the helper. `None` where it
    /// is not there.
    #[inline(always)]
    fn peek<T: AnyBitPattern>(&self, offset: u32) -> Option<T> {
        if offset > PEEKED || (size_of::<T>() != 1 && size_of::<T>() % 4 != 0) {
            return None;
        }
        // SAFETY: the context is valid while the program runs; the verifier refuses a read past the packet's end. Any
        // bytes are a `T`.
        unsafe {
            let start = (*self.0).data as usize as *const u8;
            let end = (*self.0).data_end as usize as *const u8;
            let at = start.wrapping_add(offset as usize);
            if at.wrapping_add(size_of::<T>()) > end {
                return None;
            }
            Some(crate::kernel::load_words(at))
        }
    }

    /// Sends the packet back to the pod at whose interface it arrived. Returns the program's verdict.
    #[inline(always)]
    pub fn send_back(&self) -> i32 {
        // SAFETY: the context is valid while the program runs. On a bridge port the packet is of type OTHERHOST, which
        // the pod's stack would drop; only kernels from 6.15 on reset it themselves.
        unsafe {
            if (*self.0).pkt_type != PACKET_HOST {
                bpf_skb_change_type(self.0, PACKET_HOST);
            }
            bpf_redirect_peer((*self.0).ifindex, 0) as i32
        }
    }

    /// Lets the packet arrive at the interface that it is to leave by. Returns the program's verdict.
    #[inline(always)]
    pub fn send_in(&self) -> i32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { bpf_redirect((*self.0).ifindex, u64::from(BPF_F_INGRESS)) as i32 }
    }

    /// Sends the packet out by the interface at which it arrived. Returns the program's verdict.
    #[inline(always)]
    pub fn send_out(&self) -> i32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { bpf_redirect((*self.0).ifindex, 0) as i32 }
    }
}

impl<const IP: u32> Packet for Skb<IP> {
    const IP: u32 = IP;

    #[inline(always)]
    fn ethertype(&self) -> u16 {
        // SAFETY: the context is valid while the program runs.
        u16::from_be(unsafe { (*self.0).protocol } as u16)
    }

    #[inline(always)]
    fn device(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.0).ifindex }
    }

    #[inline(always)]
    fn is_for_host(&self) -> bool {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.0).pkt_type == PACKET_HOST }
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    fn load<T: AnyBitPattern>(&self, offset: u32) -> Result<T, Cause> {
        if let Some(value) = self.peek(offset) {
            return Ok(value);
        }
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes `size_of::<T>()` bytes or fails; any bytes are a `T`.
        unsafe {
            if bpf_skb_load_bytes(
                self.0.cast(),
                offset,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            ) != 0
            {
                return Err(Cause::TooShort);
            }
            Ok(value.assume_init())
        }
    }

    #[inline(always)]
    fn load_into<const N: usize>(
        &self,
        offset: u32,
        to: &mut [u8; N],
        length: u32,
    ) -> Result<(), Cause> {
        let Some(length) = bounded(length, N as u32) else {
            return Err(Cause::TooShort);
        };
        // SAFETY: the helper writes at most `N` bytes.
        let failed =
            unsafe { bpf_skb_load_bytes(self.0.cast(), offset, to.as_mut_ptr().cast(), length) };
        if failed == 0 {
            Ok(())
        } else {
            Err(Cause::TooShort)
        }
    }

    #[inline(always)]
    fn store<T: NoUninit>(&mut self, offset: u32, value: &T) -> Result<(), Cause> {
        // SAFETY: the helper reads `size_of::<T>()` bytes, all of them initialised.
        done(unsafe {
            bpf_skb_store_bytes(
                self.0,
                offset,
                core::ptr::from_ref(value).cast(),
                size_of::<T>() as u32,
                0,
            )
        })
    }

    #[inline(always)]
    fn store_behind_pad<T: NoUninit>(&mut self, value: &T) -> Result<(), Cause> {
        const { assert!(PAD < size_of::<T>()) };
        // SAFETY: the helper reads the rest of the value, all of it initialised.
        done(unsafe {
            bpf_skb_store_bytes(
                self.0,
                0,
                core::ptr::from_ref(value).byte_add(PAD).cast(),
                (size_of::<T>() - PAD) as u32,
                0,
            )
        })
    }

    #[inline(always)]
    fn store_part<const N: usize>(
        &mut self,
        offset: u32,
        from: &[u8; N],
        start: u32,
        length: u32,
    ) -> Result<(), Cause> {
        if length == 0 {
            return Ok(());
        }
        if start == 0 {
            let Some(length) = bounded(length, N as u32) else {
                return Err(Cause::HelperFailed);
            };
            // SAFETY: `length` is at most `N`.
            return done(unsafe {
                bpf_skb_store_bytes(self.0, offset, from.as_ptr().cast(), length, 0)
            });
        }
        let half = N as u32 / 2;
        let (Some(start), Some(length)) = (bounded(start, half), bounded(length, half)) else {
            return Err(Cause::HelperFailed);
        };
        // SAFETY: `start + length` is at most `N`.
        done(unsafe {
            bpf_skb_store_bytes(
                self.0,
                offset,
                from.as_ptr().add(start as usize).cast(),
                length,
                0,
            )
        })
    }

    #[inline(always)]
    fn set_length(&mut self, length: u32) -> Result<(), Cause> {
        // SAFETY: the context is valid while the program runs.
        done(unsafe { bpf_skb_change_tail(self.0, length, 0) })
    }

    #[inline(always)]
    fn insert_before_ip(&mut self, bytes: u32) -> Result<(), Cause> {
        // SAFETY: the context is valid while the program runs.
        done(unsafe { bpf_skb_adjust_room(self.0, bytes as i32, BPF_ADJ_ROOM_MAC, 0) })
    }

    #[inline(always)]
    fn update_checksum(
        &mut self,
        offset: u32,
        difference: Sum,
        part: Part,
        udp: bool,
    ) -> Result<(), Cause> {
        let mut flags = 0;
        if matches!(part, Part::PseudoHeader) {
            flags |= u64::from(BPF_F_PSEUDO_HDR);
        }
        if udp {
            flags |= u64::from(BPF_F_MARK_MANGLED_0);
        }
        // SAFETY: the context is valid while the program runs. A size of 0 in the flags means a ready difference.
        done(unsafe { bpf_l4_csum_replace(self.0, offset, 0, u64::from(difference.fold()), flags) })
    }

    #[inline(always)]
    fn send_on(&mut self, headers: &Headers, flow: &FlowValue, headers_length: u32) -> bool {
        if IP == 0 {
            return false;
        }
        let Ok(first) = self.load::<u32>(IP) else {
            return false;
        };
        // SAFETY: the context is valid while the program runs.
        let (segment, ifindex) = unsafe { ((*self.0).gso_size, (*self.0).ifindex) };
        let length = match segment {
            0 => headers.transport - IP + headers.transport_length,
            segment => headers_length + segment,
        };
        let family = if headers.v4 { AF_INET } else { AF_INET6 };
        // What IPv4 has of the type of service, IPv6 of class and flow.
        let (source, destination, service) = if headers.v4 {
            let [_, service, _, _] = first.to_ne_bytes();
            let v4 = |address: &Address| [address.words()[3], 0, 0, 0];
            (
                v4(&flow.source),
                v4(&flow.destination),
                u32::from_ne_bytes([service, 0, 0, 0]),
            )
        } else {
            let service = first & FLOW_INFO.to_be();
            (flow.source.words(), flow.destination.words(), service)
        };
        let mut way = bpf_fib_lookup {
            family,
            l4_protocol: headers.protocol,
            sport: flow.source_port.wire(),
            dport: flow.destination_port.wire(),
            __bindgen_anon_1: bpf_fib_lookup__bindgen_ty_1 {
                tot_len: length as u16,
            },
            ifindex,
            __bindgen_anon_2: bpf_fib_lookup__bindgen_ty_2 { flowinfo: service },
            __bindgen_anon_3: bpf_fib_lookup__bindgen_ty_3 { ipv6_src: source },
            __bindgen_anon_4: bpf_fib_lookup__bindgen_ty_4 {
                ipv6_dst: destination,
            },
            // SAFETY: numbers, for which zeros are a value.
            __bindgen_anon_5: unsafe { core::mem::zeroed() },
            smac: [0; 6],
            dmac: [0; 6],
        };
        // SAFETY: the helper reads and writes a whole value, all of it initialised; which interface and next hop it has
        // written is so for both of these results.
        unsafe {
            let found = fib_lookup(
                self.0.cast(),
                &raw mut way,
                size_of::<bpf_fib_lookup>() as i32,
                0,
            );
            if found != FOUND && found != NO_NEIGHBOUR {
                return false;
            }
            // The neighbour is looked up, and asked for, as the stack does it: an entry that nobody asks after goes stale.
            let mut hop = bpf_redir_neigh {
                nh_family: u32::from(way.family),
                __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
                    ipv6_nh: way.__bindgen_anon_4.ipv6_dst,
                },
            };
            let action = bpf_redirect_neigh(
                way.ifindex,
                &raw mut hop,
                size_of::<bpf_redir_neigh>() as i32,
                0,
            );
            action == i64::from(TC_ACT_REDIRECT)
        }
    }

    #[inline(always)]
    fn resolve<T: Tables>(&mut self, _tables: &T, _scratch: &mut Scratch) -> Result<Cause, Cause> {
        match Packed::from_number(resolve_question(self.0)).unpack() {
            Ok(Verdict::SendBack(cause)) => Ok(cause),
            Err(cause) => Err(cause),
            Ok(_) => Err(Cause::NotConfigured),
        }
    }
}

/// A function of its own for the verifier: see [`Packet::resolve`]. Questions come from pods, with an Ethernet
/// header.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn resolve_question(context: *mut __sk_buff) -> u32 {
    let mut packet = Skb::<ETHERNET>::new(context);
    let done = match Maps.scratch() {
        Some(scratch) => dns::resolve(&mut packet, &Maps, scratch),
        None => Err(Cause::NotConfigured),
    };
    Packed::new(done.map(Verdict::SendBack)).number()
}

/// A length from 1 to `most`, as every verifier understands it: the compiler, which may know the bounds from elsewhere,
/// must not leave the comparison out, and verifiers before Linux 6.8 learn nothing from one with zero.
#[inline(always)]
pub(super) fn bounded(length: u32, most: u32) -> Option<u32> {
    let less = crate::kernel::opaque(u64::from(length.wrapping_sub(1)));
    (less < u64::from(most)).then(|| (less + 1) as u32)
}

#[inline(always)]
fn done(result: i64) -> Result<(), Cause> {
    if result == 0 {
        Ok(())
    } else {
        Err(Cause::HelperFailed)
    }
}
