//! The kernel's side: a packet is an skb, the tables are BPF maps.

pub mod maps;
pub mod skb;

pub use maps::Maps;
pub use skb::Skb;

/// Eight bytes of a scratch area at any offset, in one load. `at` is at most `N - 8`.
///
/// The compiler would take a load at an unknown alignment apart into bytes; the machines that the programs run on
/// load words at any address.
#[inline(always)]
pub fn load_word<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let word: u64;
    // SAFETY: the verifier refuses the program unless `at + 8 <= N`; the load has no side effect.
    unsafe {
        let address = bytes.as_ptr().add(at);
        core::arch::asm!("{word} = *(u64 *)({address} + 0)", word = out(reg) word, address = in(reg) address,
            options(nostack, readonly, pure));
    }
    word
}

/// The same number, of which the compiler knows nothing.
#[inline(always)]
pub fn opaque(mut number: u64) -> u64 {
    // SAFETY: a register moved to itself; without any instruction the line information of the next one would be
    // refused.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) number, options(nostack, nomem, pure)) };
    number
}
