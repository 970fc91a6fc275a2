//! Asks this node's kernel.
//!
//! What concerns networks is asked in a network namespace that goes with the thread that made it, so that it can be done
//! for real and nothing of it stays. The kernel may load modules for it, as it would for the agent.

use std::{fs, io, path::Path, thread};

use nix::sched::{CloneFlags, unshare};

use super::{
    Feature, NetfilterWish, Probe, Probes,
    netlink::{ask, attribute, tell},
};
use crate::dataplane::{ebpf::features, ipvs};

const ROUTE: isize = 0;
const NETFILTER: isize = 12;
const GENERIC: isize = 16;
/// The only interface of a new namespace.
const LOOPBACK: i32 = 1;

/// Asks for everything. `bpffs_root` is where the instance pins, `cgroup_root` what was given for the root of cgroup2.
/// iptables is only tried where it would be used: that loads its modules.
pub fn probe(bpffs_root: &Path, cgroup_root: Option<&Path>, netfilter: NetfilterWish) -> Probes {
    let mut features = features::probe(bpffs_root, cgroup_root);
    features.extend(in_a_namespace());
    let has_nftables = matches!(features.get(&Feature::Nftables), Some(Ok(_)));
    let unused = match netfilter {
        NetfilterWish::Auto if has_nftables => Some("there is nftables"),
        NetfilterWish::Nftables => Some("nftables was asked for"),
        _ => None,
    };
    let iptables = match unused {
        Some(why) => Err(format!("not tried: {why}")),
        None => iptables(),
    };
    features.insert(Feature::Iptables, iptables);
    features.insert(Feature::Dummy, dummy());
    features.insert(Feature::Lockdown, lockdown());
    features.insert(Feature::Btf, btf());
    Probes {
        kernel: release(),
        netfilter,
        features,
    }
}

fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn in_a_namespace() -> Vec<(Feature, Probe)> {
    let asked = [
        (Feature::Clsact, clsact as fn() -> io::Result<()>),
        (Feature::SocketDestroy, socket_destroy),
        (Feature::Conntrack, conntrack),
        (Feature::IpVs, ip_vs),
        (Feature::Nftables, nftables),
    ];
    let thread = thread::spawn(move || -> io::Result<Vec<(Feature, Probe)>> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let answer = |probe: fn() -> io::Result<()>| match probe() {
            Ok(()) => Ok("there".to_owned()),
            Err(error) => Err(format!("not there: {error}")),
        };
        Ok(asked
            .iter()
            .map(|(feature, probe)| (*feature, answer(*probe)))
            .collect())
    });
    let why = match thread.join() {
        Ok(Ok(found)) => return found,
        Ok(Err(error)) => format!("cannot be probed without root: {error}"),
        Err(_) => "cannot be probed".to_owned(),
    };
    asked
        .iter()
        .map(|(feature, _)| (*feature, Err(why.clone())))
        .collect()
}

/// Makes the rules of IPVS mode in a namespace of their own.
fn iptables() -> Probe {
    let thread = thread::spawn(|| -> anyhow::Result<String> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        ipvs::try_iptables()
    });
    match thread.join() {
        Ok(Ok(program)) => Ok(program),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err("cannot be probed".to_owned()),
    }
}

/// `RTM_NEWQDISC` of kind clsact, on the loopback interface.
fn clsact() -> io::Result<()> {
    const NEW_QDISC: u16 = 36;
    const CREATE: u16 = 0x400;
    const EXCLUSIVE: u16 = 0x200;
    const HANDLE: u32 = 0xffff_0000;
    const CLSACT: u32 = 0xffff_fff1;
    let mut payload = vec![0; 4];
    payload.extend(LOOPBACK.to_ne_bytes());
    payload.extend(HANDLE.to_ne_bytes());
    payload.extend(CLSACT.to_ne_bytes());
    payload.extend([0; 4]);
    payload.extend(attribute(1, b"clsact\0"));
    tell(ROUTE, NEW_QDISC, CREATE | EXCLUSIVE, &payload)
}

/// `SOCK_DESTROY` of a UDP socket that is not there: `ENOENT` where sockets can be destroyed.
fn socket_destroy() -> io::Result<()> {
    const SOCK_DIAG: isize = 4;
    const DESTROY: u16 = 21;
    let mut payload = vec![libc::AF_INET as u8, libc::IPPROTO_UDP as u8, 0, 0];
    payload.extend(u32::MAX.to_ne_bytes());
    // Ports, addresses, interface, and the cookie that stands for any socket.
    payload.extend([0; 40]);
    payload.extend([0xff; 8]);
    match tell(SOCK_DIAG, DESTROY, 0, &payload) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// `IPCTNL_MSG_CT_GET_STATS`.
fn conntrack() -> io::Result<()> {
    const GET_STATS: u16 = (1 << 8) | 5;
    ask(NETFILTER, GET_STATS, 0, &[0; 4])
}

/// `CTRL_CMD_GETFAMILY` of IPVS, for which the kernel loads the module.
fn ip_vs() -> io::Result<()> {
    const CONTROL: u16 = 16;
    const GET_FAMILY: u8 = 3;
    let mut payload = vec![GET_FAMILY, 1, 0, 0];
    payload.extend(attribute(2, b"IPVS\0"));
    ask(GENERIC, CONTROL, 0, &payload)
}

/// `NFT_MSG_GETGEN`.
fn nftables() -> io::Result<()> {
    const GET_GENERATION: u16 = (10 << 8) | 16;
    ask(NETFILTER, GET_GENERATION, 0, &[0; 4])
}

/// Loading the module makes an interface, so it is only looked for.
fn dummy() -> Probe {
    if Path::new("/sys/module/dummy").exists() {
        return Ok("loaded".to_owned());
    }
    let folder = Path::new("/lib/modules").join(release());
    let lists = ["modules.builtin", "modules.dep", "modules.order"];
    let listed = |name: &str| {
        fs::read_to_string(folder.join(name)).is_ok_and(|text| text.contains("/dummy.ko"))
    };
    match lists.into_iter().find(|name| listed(name)) {
        Some(_) => Ok("on the disk".to_owned()),
        None => Err("neither loaded nor on the disk".to_owned()),
    }
}

fn btf() -> Probe {
    const FILE: &str = "/sys/kernel/btf/vmlinux";
    match fs::metadata(FILE) {
        Ok(_) => Ok("there".to_owned()),
        Err(error) => Err(format!("{FILE}: {error}")),
    }
}

/// The level in brackets of `none integrity confidentiality`.
fn lockdown() -> Probe {
    let Ok(text) = fs::read_to_string("/sys/kernel/security/lockdown") else {
        return Ok("none".to_owned());
    };
    match level(&text) {
        "none" => Ok("none".to_owned()),
        level => Err(level.to_owned()),
    }
}

fn level(text: &str) -> &str {
    let inside = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or("none", |(level, _)| level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_of_lockdown_is_the_one_in_brackets() {
        assert_eq!(level("[none] integrity confidentiality\n"), "none");
        assert_eq!(
            level("none integrity [confidentiality]\n"),
            "confidentiality"
        );
        assert_eq!(level(""), "none");
    }

    #[test]
    #[ignore = "needs root: cargo xtask test"]
    fn every_feature_is_probed_and_nothing_of_it_stays() {
        let links = || fs::read_dir("/sys/class/net").unwrap().count();
        let before = links();
        let probes = probe(
            Path::new("/sys/fs/bpf/signpost-probe"),
            None,
            NetfilterWish::Auto,
        );
        assert_eq!(links(), before);
        assert!(!probes.kernel.is_empty());
        for feature in Feature::ALL {
            assert!(probes.features.contains_key(&feature), "{feature:?}");
        }
        // The tests of the programs would fail without these.
        for feature in [
            Feature::Bpf,
            Feature::MapKinds,
            Feature::Classifiers,
            Feature::ClassifierHelpers,
        ] {
            assert!(
                probes.has(feature),
                "{feature:?}: {:?}",
                probes.features[&feature]
            );
        }
        assert!(probes.has(Feature::Tcx) || probes.has(Feature::Clsact));
    }
}
