//! The kernel's side: a packet is an skb, a socket is what a cgroup program gets, the tables are BPF maps.

use core::{mem::MaybeUninit, ptr::read_volatile};

use bytemuck::AnyBitPattern;

pub mod maps;
pub mod skb;
pub mod socket;

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

/// Writes four bytes of a scratch area at any offset, in one store. `at` is at most `N - 4`.
#[inline(always)]
pub fn store_word<const N: usize>(bytes: &mut [u8; N], at: usize, word: u32) {
    // SAFETY: the verifier refuses the program unless `at + 4 <= N`.
    unsafe {
        let address = bytes.as_mut_ptr().add(at);
        core::arch::asm!("*(u32 *)({address} + 0) = {word}", address = in(reg) address, word = in(reg) u64::from(word),
            options(nostack));
    }
}

/// A value out of a packet, read word by word. A read of what is not known to be aligned the compiler would take apart
/// into bytes. The value has one byte, or a multiple of four.
///
/// # Safety
/// The verifier sees that the bytes are inside the packet.
#[inline(always)]
pub unsafe fn load_words<T: AnyBitPattern>(address: *const u8) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    let to = value.as_mut_ptr().cast::<u8>();
    if size_of::<T>() == 1 {
        // SAFETY: both are of one byte.
        unsafe { to.write(address.read()) };
    }
    for n in 0..size_of::<T>() / 4 {
        let word: u64;
        // SAFETY: inside the value, as the caller says; the load has no side effect.
        unsafe {
            let address = address.add(4 * n);
            core::arch::asm!("{word} = *(u32 *)({address} + 0)", word = out(reg) word, address = in(reg) address,
                options(nostack, readonly, pure));
            to.cast::<u32>().add(n).write_unaligned(word as u32);
        }
    }
    // SAFETY: all bytes are written, and any bytes are a `T`.
    unsafe { value.assume_init() }
}

/// A copy of a map's value, made word by word. For an assignment of more than a few words the compiler calls a function
/// that copies byte by byte, which takes longer than all the rest of a look-up.
///
/// # Safety
/// `value` can be read.
#[inline(always)]
pub unsafe fn copied<T: AnyBitPattern>(value: *const T) -> T {
    const { assert!(matches!(align_of::<T>(), 4 | 8)) };
    let mut copy = MaybeUninit::<T>::uninit();
    // Volatile, or the loop would become a call again.
    if align_of::<T>() == 8 {
        for n in 0..size_of::<T>() / 8 {
            // SAFETY: inside the value and the copy, which are both aligned.
            unsafe {
                let word = read_volatile(value.cast::<u64>().add(n));
                copy.as_mut_ptr().cast::<u64>().add(n).write(word);
            }
        }
    } else {
        for n in 0..size_of::<T>() / 4 {
            // SAFETY: as above.
            unsafe {
                let word = read_volatile(value.cast::<u32>().add(n));
                copy.as_mut_ptr().cast::<u32>().add(n).write(word);
            }
        }
    }
    // SAFETY: all bytes are written, and any bytes are a `T`.
    unsafe { copy.assume_init() }
}

/// The same number, of which the compiler knows nothing.
#[inline(always)]
pub fn opaque(mut number: u64) -> u64 {
    // SAFETY: a register moved to itself; without any instruction the line information of the next one would be
    // refused.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) number, options(nostack, nomem, pure)) };
    number
}
