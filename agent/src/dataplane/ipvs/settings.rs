//! Settings of the kernel that the virtual server needs, with the kernels that need them otherwise.

use std::{fs, path::Path};

use crate::sysctl::set;

/// Sets them below a folder such as `/proc/sys`; `release` is the kernel's, such as `6.1.0-50-amd64`.
pub(super) fn apply(root: &Path, release: &str, strict_arp: bool) {
    for (name, value) in settings(release, strict_arp) {
        set(root, name, value);
    }
}

/// The kernel's release.
pub(super) fn release(root: &Path) -> String {
    let release = fs::read_to_string(root.join("kernel/osrelease")).unwrap_or_default();
    release.trim().to_owned()
}

fn settings(release: &str, strict_arp: bool) -> Vec<(&'static str, &'static str)> {
    let mut settings = vec![
        ("net/ipv4/ip_forward", "1"),
        // Without it neither nftables nor masquerade sees what IPVS has translated.
        ("net/ipv4/vs/conntrack", "1"),
        // What goes to a backend that is gone is chosen anew, or told to be gone.
        ("net/ipv4/vs/expire_nodest_conn", "1"),
        // Affinity to a backend with weight 0 ends.
        ("net/ipv4/vs/expire_quiescent_template", "1"),
        // Answers from a pod to another one at the same bridge have to be seen.
        ("net/bridge/bridge-nf-call-iptables", "1"),
        ("net/bridge/bridge-nf-call-ip6tables", "1"),
    ];
    // A client port that comes back is to be a new connection. From 4.1 to 5.8 the kernel dropped its first packet, which
    // cost a second each (kubernetes/kubernetes#81775); with 0 it goes on to the backend that it had.
    let reuse = match version(release) {
        Some(version) if version < (4, 1) => None,
        Some(version) if version < (5, 9) => Some("0"),
        _ => Some("1"),
    };
    settings.extend(reuse.map(|value| ("net/ipv4/vs/conn_reuse_mode", value)));
    if strict_arp {
        settings.push(("net/ipv4/conf/all/arp_ignore", "1"));
        settings.push(("net/ipv4/conf/all/arp_announce", "2"));
    }
    settings
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::too_old_to_know_it("3.16.0-4-amd64", None)]
    #[case::the_first_that_drops("4.1.0", Some("0"))]
    #[case::of_many_nodes("4.19.0-26-amd64", Some("0"))]
    #[case::the_last_that_drops("5.8.18", Some("0"))]
    #[case::mended("5.9.0", Some("1"))]
    #[case::newer("6.12.41+deb13-amd64", Some("1"))]
    #[case::not_a_version("", Some("1"))]
    fn a_client_port_may_come_back_where_the_kernel_can(
        #[case] release: &str,
        #[case] expected: Option<&str>,
    ) {
        let found = settings(release, false);
        let mut found = found.iter().filter(|s| s.0.ends_with("conn_reuse_mode"));
        assert_eq!(found.next().map(|setting| setting.1), expected);
    }

    #[test]
    fn arp_is_only_made_strict_where_it_is_asked_for() {
        let arp = |strict| {
            let settings = settings("6.1.0", strict);
            settings.iter().filter(|s| s.0.contains("/arp_")).count()
        };
        assert_eq!((arp(false), arp(true)), (0, 2));
    }

    #[test]
    fn what_is_set_is_what_the_kernel_has_below_the_folder() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("net/ipv4/vs");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("conntrack"), "0\n").unwrap();
        apply(root.path(), "6.1.0", false);
        assert_eq!(fs::read_to_string(folder.join("conntrack")).unwrap(), "1");
    }
}
