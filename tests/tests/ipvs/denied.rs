//! A node that is denied BPF, as the seccomp profiles of container runtimes deny it.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Command, Output, Stdio},
};

use signpost_tests::lab::programs;

use crate::world;

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn where_bpf_is_denied_auto_takes_ipvs_and_the_demo_holds() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    let doctor = without_bpf(Command::new(programs::signpost()?).arg("doctor"))?;
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(doctor.status.success(), "{said}");
    assert!(
        said.contains("mode    IPVS: mode eBPF is not possible: BPF: "),
        "{said}"
    );

    let demo = without_bpf(&mut Command::new(programs::demo()?))?;
    let said = String::from_utf8_lossy(&demo.stdout);
    let trouble = String::from_utf8_lossy(&demo.stderr);
    println!("{said}{trouble}");
    assert!(demo.status.success(), "a step of the demo does not hold");
    assert!(said.contains("mode eBPF is not possible: BPF: "));
    Ok(())
}

/// Runs a program that gets `EPERM` of `bpf()`, as all do that it starts.
fn without_bpf(command: &mut Command) -> io::Result<Output> {
    // SAFETY: between fork and exec nothing is called but `seccomp`.
    unsafe { command.pre_exec(deny_bpf) };
    command.stdin(Stdio::null()).output()
}

/// The filter of seccomp(2), for the processor that this is built for.
fn deny_bpf() -> io::Result<()> {
    let step = |code: u32, yes, no, k| libc::sock_filter {
        code: code as u16,
        jt: yes,
        jf: no,
        k,
    };
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let filter = [
        // The first word of `struct seccomp_data` is the number of the call.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::SYS_bpf as u32,
        ),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads the filter, which lives until it has.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
