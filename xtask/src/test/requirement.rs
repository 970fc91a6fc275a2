//! What some tests need beyond root, told by their names.

use std::fs;

use crate::project::which;

/// A word in a test's path, the program that such tests call, and where that comes from.
const PROGRAMS: [(&str, &str, &str); 16] = [
    ("musl", "musl-gcc", "apt-get install musl-tools"),
    ("dig", "dig", "apt-get install bind9-dnsutils"),
    ("kdig", "kdig", "apt-get install knot-dnsutils"),
    ("golang", "go", GO),
    ("java", "java", "apt-get install default-jdk-headless"),
    (
        "resolved",
        "systemd-resolved",
        "cargo xtask setup unpacks it; to install it changes /etc/resolv.conf",
    ),
    ("cares", "node", "apt-get install nodejs"),
    ("api_server", "go", GO),
    ("differential", "go", GO),
    ("coredns", "go", GO),
    ("policies", "nft", "apt-get install nftables"),
    ("policies", "dig", "apt-get install bind9-dnsutils"),
    ("differential", "nft", "apt-get install nftables"),
    ("migration", "go", GO),
    ("migration", "iptables-nft", "apt-get install iptables"),
    ("migration", "ipset", "apt-get install ipset"),
];

const GO: &str = "install Go 1.26 from https://go.dev/dl";

/// Why a test cannot run here.
pub(super) fn missing(test: &str) -> Option<String> {
    PROGRAMS
        .iter()
        .filter(|(word, ..)| {
            test.split("::")
                .any(|part| part.split('_').any(|w| w == *word) || part == *word)
        })
        .find(|(_, program, _)| which(program).is_none())
        .map(|(_, program, remedy)| format!("needs {program}: {remedy}"))
}

/// Why no test that needs root can run on this kernel.
pub(super) fn of_the_kernel() -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if !mounts.contains(" - cgroup2 ") {
        return Some("no cgroup2 is mounted: mount -t cgroup2 none /sys/fs/cgroup".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_words_count() {
        // `digest` is not `dig`. What is installed here does not matter to a name without any of the words.
        assert_eq!(missing("names::a_digest_is_stable"), None);
    }
}
