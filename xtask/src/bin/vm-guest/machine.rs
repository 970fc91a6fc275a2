//! The machine's own: file systems, the loopback interface, and its end.

use std::{fs, process::Command};

use anyhow::Context as _;
use nix::mount::{MsFlags, mount};

/// What is mounted where.
const MOUNTS: [(&str, &str); 9] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("bpf", "/sys/fs/bpf"),
];

/// Makes the machine one in which the laboratory runs.
pub(crate) fn prepare() -> anyhow::Result<()> {
    for (kind, place) in MOUNTS {
        fs::create_dir_all(place).with_context(|| place.to_owned())?;
        if kind == "tmpfs" && !is_empty(place) {
            // The project itself is there; it is in memory as well.
            continue;
        }
        let mounted = mount(
            Some(kind),
            place,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        );
        match mounted {
            // The kernel has mounted it itself.
            Err(nix::errno::Errno::EBUSY) => {}
            result => result.with_context(|| format!("cannot mount {kind} at {place}"))?,
        }
    }
    for link in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/mounts", "/etc/mtab"),
    ] {
        let _ = std::os::unix::fs::symlink(link.0, link.1);
    }
    // Where it is missing, what needs it says so.
    let _ = Command::new("ip")
        .env("PATH", crate::commands::PATH)
        .args(["link", "set", "lo", "up"])
        .status();
    Ok(())
}

fn is_empty(folder: &str) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// Ends the machine.
pub(crate) fn power_off() -> ! {
    nix::unistd::sync();
    loop {
        // SAFETY: a call without pointers.
        unsafe { libc::reboot(libc::RB_POWER_OFF) };
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}
