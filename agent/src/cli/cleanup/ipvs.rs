//! What kube-proxy's IPVS mode leaves: virtual servers, the interface with their addresses, and sets of addresses.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, ensure};
use nix::{ifaddrs::getifaddrs, net::if_::if_nameindex};

use crate::dataplane::netfilter::program::{feed, output};

/// The interface that has the addresses of all Services.
const INTERFACE: &str = "kube-ipvs0";
/// The longest name of a set; those of IPv6 are cut.
const LONGEST: usize = 31;

/// Its sets (pkg/proxy/ipvs/ipset.go).
const SETS: [&str; 17] = [
    "KUBE-LOOP-BACK",
    "KUBE-CLUSTER-IP",
    "KUBE-EXTERNAL-IP",
    "KUBE-EXTERNAL-IP-LOCAL",
    "KUBE-LOAD-BALANCER",
    "KUBE-LOAD-BALANCER-FW",
    "KUBE-LOAD-BALANCER-LOCAL",
    "KUBE-LOAD-BALANCER-SOURCE-IP",
    "KUBE-LOAD-BALANCER-SOURCE-CIDR",
    "KUBE-NODE-PORT-TCP",
    "KUBE-NODE-PORT-LOCAL-TCP",
    "KUBE-NODE-PORT-UDP",
    "KUBE-NODE-PORT-LOCAL-UDP",
    "KUBE-NODE-PORT-SCTP-HASH",
    "KUBE-NODE-PORT-LOCAL-SCTP-HASH",
    "KUBE-HEALTH-CHECK-NODE-PORT",
    "KUBE-IPVS-IPS",
];

/// Removes it, after the rules that name the sets are gone. Without the interface no virtual server is kube-proxy's.
///
/// # Errors
/// Where something is there and cannot be removed.
pub(super) fn remove() -> anyhow::Result<String> {
    let mut said = String::new();
    let sets: BTreeSet<String> = output("ipset", &["list", "-name"])
        .unwrap_or_default()
        .lines()
        .filter(|set| is_kube_proxy(set))
        .map(str::to_owned)
        .collect();
    if has_interface()? {
        let addresses = addresses_of_services()?;
        let node_ports = sets
            .iter()
            .filter(|set| set.contains("NODE-PORT") && !set.contains("HEALTH"))
            .filter_map(|set| output("ipset", &["save", set]))
            .flat_map(|saved| node_ports(&saved))
            .collect();
        let (script, count) = virtual_servers(
            &output("ipvsadm-save", &["-n"]).unwrap_or_default(),
            &addresses,
            &node_ports,
        );
        if count > 0 {
            feed("ipvsadm", &["--restore"], &script)?;
            let _ = writeln!(said, "removed {count} virtual servers of IPVS");
        }
        ensure!(
            output("ip", &["link", "delete", INTERFACE]).is_some(),
            "{said}interface {INTERFACE} cannot be removed: ip link delete {INTERFACE}"
        );
        let _ = writeln!(said, "removed interface {INTERFACE}");
    }
    if !sets.is_empty() {
        let script: String = sets.iter().map(|set| format!("destroy {set}\n")).collect();
        feed("ipset", &["restore"], &script)?;
        let _ = writeln!(said, "removed {} sets of ipset", sets.len());
    }
    Ok(said)
}

fn has_interface() -> anyhow::Result<bool> {
    let interfaces = if_nameindex().context("cannot list interfaces")?;
    let mut names = interfaces.iter().map(|interface| interface.name());
    Ok(names.any(|name| name.to_bytes() == INTERFACE.as_bytes()))
}

fn addresses_of_services() -> anyhow::Result<BTreeSet<IpAddr>> {
    let all = getifaddrs().context("cannot list addresses")?;
    Ok(all
        .filter(|found| found.interface_name == INTERFACE)
        .filter_map(|found| {
            let address = found.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect())
}

fn is_kube_proxy(set: &str) -> bool {
    SETS.iter().any(|known| {
        let of_v6 = known.replacen("KUBE-", "KUBE-6-", 1);
        set == *known || set == &of_v6[..of_v6.len().min(LONGEST)]
    })
}

/// The ports in a saved set: `add KUBE-NODE-PORT-TCP 30080` or `add … 192.0.2.1,sctp:30080`.
fn node_ports(saved: &str) -> BTreeSet<u16> {
    let elements = saved.lines().filter_map(|line| {
        let element = line.strip_prefix("add ")?.split(' ').nth(1)?;
        element.rsplit([':', ',']).next()?.parse().ok()
    });
    elements.collect()
}

/// What to give to `ipvsadm --restore`, and how many virtual servers go by it: those at the addresses of Services, and
/// those at NodePorts.
fn virtual_servers(
    saved: &str,
    addresses: &BTreeSet<IpAddr>,
    node_ports: &BTreeSet<u16>,
) -> (String, usize) {
    let mut script = String::new();
    let mut count = 0;
    for line in saved.lines() {
        let mut words = line.split_whitespace();
        let (Some("-A"), Some(protocol), Some(place)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let Ok(at) = place.parse::<SocketAddr>() else {
            continue;
        };
        if addresses.contains(&at.ip()) || node_ports.contains(&at.port()) {
            let _ = writeln!(script, "-D {protocol} {place}");
            count += 1;
        }
    }
    (script, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_virtual_servers_of_services_go() {
        let saved = "\
-A -t 10.96.0.1:443 -s rr
-a -t 10.96.0.1:443 -r 192.0.2.1:6443 -m -w 1
-A -u [fd96::a]:53 -s rr
-A -t 192.0.2.1:30080 -s rr -p 10800
-A -t 192.0.2.1:80 -s wrr
-A -f 7 -s rr
";
        let addresses = ["10.96.0.1", "fd96::a"].map(|ip| ip.parse().unwrap());
        let (script, count) =
            virtual_servers(saved, &addresses.into(), &node_ports("add X 30080\n"));
        assert_eq!(
            script,
            "-D -t 10.96.0.1:443\n-D -u [fd96::a]:53\n-D -t 192.0.2.1:30080\n"
        );
        assert_eq!(count, 3);
    }

    #[test]
    fn sets_are_known_by_their_whole_names() {
        for set in [
            "KUBE-CLUSTER-IP",
            "KUBE-6-CLUSTER-IP",
            "KUBE-6-LOAD-BALANCER-SOURCE-CID",
            "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS",
        ] {
            assert!(is_kube_proxy(set), "{set}");
        }
        // Of kube-router.
        for set in ["KUBE-SRC-ABCD", "KUBE-6", "kube-cluster-ip"] {
            assert!(!is_kube_proxy(set), "{set}");
        }
    }

    #[test]
    fn node_ports_are_read_from_both_kinds_of_sets() {
        let saved = "create KUBE-NODE-PORT-TCP bitmap:port range 0-65535\nadd KUBE-NODE-PORT-TCP 30080\n\
                     add KUBE-NODE-PORT-SCTP-HASH 192.0.2.1,sctp:30081\n";
        assert_eq!(node_ports(saved), [30_080, 30_081].into());
    }
}
