//! The entry points of the programs: they only turn what the logic says into an action of tc.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        EbpfContext as _,
        bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
        macros::classifier,
        programs::TcContext,
    };
    use signpost_common::Cause;
    use signpost_ebpf::{
        Verdict,
        kernel::{Maps, Skb},
        tables::Tables as _,
        verdict::spoils,
    };

    /// tc ingress of a pod's host-side interface.
    #[classifier]
    pub(crate) fn from_pod(context: TcContext) -> i32 {
        let mut skb = Skb::new(context.as_ptr().cast());
        let verdict = signpost_ebpf::from_pod(&mut skb, &Maps);
        act(&skb, verdict)
    }

    /// tc egress of a pod's host-side interface.
    #[classifier]
    pub(crate) fn to_pod(context: TcContext) -> i32 {
        let mut skb = Skb::new(context.as_ptr().cast());
        let verdict = signpost_ebpf::to_pod(&mut skb, &Maps);
        act(&skb, verdict)
    }

    #[inline(always)]
    fn act(skb: &Skb, verdict: Result<Verdict, Cause>) -> i32 {
        match verdict {
            Ok(Verdict::Continue) => TC_ACT_UNSPEC,
            Ok(Verdict::Rewritten(cause)) => {
                Maps.count(cause);
                TC_ACT_UNSPEC
            }
            Ok(Verdict::SendBack(cause)) => {
                Maps.count(cause);
                skb.send_back()
            }
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
