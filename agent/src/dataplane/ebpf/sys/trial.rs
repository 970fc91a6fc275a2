//! Loading a few instructions to see what the kernel says of them.

use std::{ffi::CStr, io, os::fd::OwnedFd};

use bytemuck::NoUninit;

use super::call_for_fd;

const PROG_LOAD: libc::c_long = 5;
const LICENSE: &CStr = c"GPL";
/// The verifier's words on one instruction.
const LOG: usize = 4096;

/// Kind of a program, as in the kernel's `enum bpf_prog_type`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramKind {
    /// `BPF_PROG_TYPE_SCHED_CLS`.
    Classifier = 3,
    /// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
    SocketAddress = 18,
}

/// `BPF_CGROUP_INET4_CONNECT` and so on; 0 for programs that have no such thing.
pub(super) type AttachType = u32;

/// An instruction as the kernel takes it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit)]
pub struct Instruction(u64);

impl Instruction {
    /// `r0 = number`.
    pub const fn result(number: i32) -> Self {
        Self(0xb7 | (number as u32 as u64) << 32)
    }

    /// A call of a helper.
    pub const fn call(helper: u32) -> Self {
        Self(0x85 | (helper as u64) << 32)
    }

    /// The end.
    pub const EXIT: Self = Self(0x95);
}

/// Loads a program; what the verifier said comes with the error.
///
/// # Errors
/// Those of `BPF_PROG_LOAD`: `EPERM` where programs are not allowed, `EINVAL` where it is refused.
pub fn load(
    kind: ProgramKind,
    attach_type: AttachType,
    instructions: &[Instruction],
) -> Result<OwnedFd, (io::Error, String)> {
    #[repr(C)]
    #[derive(Clone, Copy, NoUninit)]
    struct Attr {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        attach_type: u32,
    }
    let mut log = vec![0_u8; LOG];
    let attr = Attr {
        kind: kind as u32,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: 1,
        log_size: LOG as u32,
        log: log.as_mut_ptr() as u64,
        kernel: 0,
        flags: 0,
        name: [0; 16],
        ifindex: 0,
        attach_type,
    };
    call_for_fd(PROG_LOAD, &attr).map_err(|error| {
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(LOG);
        (error, String::from_utf8_lossy(&log[..end]).into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_have_the_kernels_layout() {
        assert_eq!(
            Instruction::result(-1).0.to_le_bytes(),
            [0xb7, 0, 0, 0, 255, 255, 255, 255]
        );
        assert_eq!(
            Instruction::call(155).0.to_le_bytes(),
            [0x85, 0, 0, 0, 155, 0, 0, 0]
        );
        assert_eq!(
            Instruction::EXIT.0.to_le_bytes(),
            [0x95, 0, 0, 0, 0, 0, 0, 0]
        );
    }
}
