//! What the benchmarks measure against: programs that do the least that can be done. They are no part of signpost.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        EbpfContext as _,
        bindings::TC_ACT_UNSPEC,
        helpers::bpf_ktime_get_ns,
        macros::{classifier, map},
        maps::{Array, ProgramArray},
        programs::TcContext,
    };
    use signpost_common::Cause;
    use signpost_ebpf::{
        dns::UdpHeader,
        headers::{EthernetAddresses, Headers},
        kernel::Skb,
        packet::{ETHERNET, Packet as _},
        rewrite::Ports,
    };

    /// Where the source address and the source port of an IPv4 packet with ports end.
    const SOURCE_END: u32 = ETHERNET + 16;
    const PORT_END: u32 = ETHERNET + 22;

    /// A packet that is run again and again. `length` is 0 where there is none.
    #[repr(C)]
    struct Repeated {
        length: u32,
        /// Not 0: each run gets a client of its own, counted from here.
        client: u32,
        /// When the last run began, in nanoseconds; 0 before the first.
        began: u64,
        /// Nanoseconds of all runs that another one followed.
        spent: u64,
        bytes: [u8; 512],
    }

    #[map(name = "repeated")]
    static REPEATED: Array<Repeated> = Array::with_max_entries(1, 0);
    #[map(name = "subject")]
    static SUBJECT: ProgramArray = ProgramArray::with_max_entries(1, 0);

    /// Sends every DNS question over IPv4 back as it is: only addresses and ports are exchanged.
    #[classifier]
    pub(crate) fn echo(context: TcContext) -> i32 {
        let mut skb = Skb::<ETHERNET>::new(context.as_ptr().cast());
        match exchange(&mut skb) {
            Ok(true) => skb.send_back(),
            _ => TC_ACT_UNSPEC,
        }
    }

    /// Does nothing.
    #[classifier]
    pub(crate) fn nothing(_: TcContext) -> i32 {
        TC_ACT_UNSPEC
    }

    /// Makes the packet what it was before the last run, and goes on with the program in `subject`. The clock is read
    /// here, because making an answer a question again takes as long as some programs do.
    #[classifier]
    pub(crate) fn again(context: TcContext) -> i32 {
        // SAFETY: it has no arguments.
        let ended = unsafe { bpf_ktime_get_ns() };
        let mut skb = Skb::<ETHERNET>::new(context.as_ptr().cast());
        if restore(&mut skb, ended).is_ok() {
            // SAFETY: it only comes back where there is no such program.
            let _ = unsafe { SUBJECT.tail_call(&context, 0) };
        }
        TC_ACT_UNSPEC
    }

    #[inline(always)]
    fn exchange(skb: &mut Skb) -> Result<bool, Cause> {
        let mut headers = Headers::EMPTY;
        if !headers.read(skb)? || !headers.v4 {
            return Ok(false);
        }
        let udp: UdpHeader = skb.load(headers.transport)?;
        if udp.destination.get() != 53 {
            return Ok(false);
        }
        skb.store(ETHERNET + 12, &headers.destination.words()[3])?;
        skb.store(ETHERNET + 16, &headers.source.words()[3])?;
        let ports = Ports {
            source: udp.destination,
            destination: udp.source,
        };
        skb.store(headers.transport, &ports)?;
        EthernetAddresses::exchange(skb)?;
        Ok(true)
    }

    #[inline(always)]
    fn restore(skb: &mut Skb, ended: u64) -> Result<(), Cause> {
        let repeated = REPEATED.get_ptr_mut(0).ok_or(Cause::NotConfigured)?;
        // SAFETY: the element of an array is never freed, and one thread alone runs this program.
        let Repeated {
            length,
            client,
            began,
            spent,
            bytes,
        } = unsafe { &mut *repeated };
        if *began != 0 {
            *spent += ended - *began;
        }
        if skb.length() != *length {
            skb.set_length(*length)?;
        }
        skb.store_part(0, bytes, 0, *length)?;
        if *client != 0 {
            *client += 1;
            skb.store(SOURCE_END - 2, &((*client >> 14) as u16).to_be())?;
            skb.store(PORT_END - 2, &((*client & 0x3fff) as u16 | 0x8000).to_be())?;
        }
        // SAFETY: it has no arguments.
        *began = unsafe { bpf_ktime_get_ns() };
        Ok(())
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
    eprintln!("These are eBPF programs; the benchmarks load them.");
}
