//! `signpost cleanup --kube-proxy`: removes the rules that kube-proxy leaves behind when it goes, and nobody else's.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};

/// The table of kube-proxy's nftables mode, in each family.
const TABLE: &str = "kube-proxy";
/// Our own, empty one.
const KEPT: &str = "signpost-nat";
const FAMILIES: [&str; 2] = ["ip", "ip6"];
/// The forms of iptables; where there are both, each has rules of its own.
const IPTABLES: [&str; 4] = [
    "iptables-nft",
    "iptables-legacy",
    "ip6tables-nft",
    "ip6tables-legacy",
];

/// Chains of kube-proxy's iptables and IPVS modes.
const CHAINS: [&str; 13] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
    "KUBE-NODE-PORT",
    "KUBE-LOAD-BALANCER",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
];
/// How its chains for single Services and endpoints begin.
const PREFIXES: [&str; 6] = [
    "KUBE-SVC-",
    "KUBE-SVL-",
    "KUBE-EXT-",
    "KUBE-XLB-",
    "KUBE-FW-",
    "KUBE-SEP-",
];

/// Removes kube-proxy's rules from the network namespace of the caller. Connections that it made go on: their
/// translation is connection tracking's, and a NAT chain stays on each hook for it.
///
/// # Errors
/// Where rules are there and cannot be removed.
pub fn run() -> anyhow::Result<String> {
    let mut said = String::new();
    for family in FAMILIES {
        if !succeeds("nft", &["list", "table", family, TABLE]) {
            continue;
        }
        feed("nft", &["-f", "-"], &nftables_script(family))?;
        said.push_str(&format!(
            "removed table {family} {TABLE}; the empty table {family} {KEPT} keeps its connections alive: \
             `nft delete table {family} {KEPT}` once none of them is left\n"
        ));
    }
    for tool in IPTABLES {
        let Some(saved) = output(&format!("{tool}-save"), &[]) else {
            continue;
        };
        let Some((script, chains)) = iptables_script(&saved) else {
            continue;
        };
        feed(&format!("{tool}-restore"), &["--noflush"], &script)?;
        said.push_str(&format!("removed {chains} chains of {tool}\n"));
    }
    if said.is_empty() {
        said.push_str("kube-proxy has left nothing behind\n");
    }
    Ok(said)
}

/// A kernel without any NAT chain on a hook translates no packet of a connection there, also of those that are
/// established.
fn nftables_script(family: &str) -> String {
    let hooks = [
        ("prerouting", -100),
        ("input", 100),
        ("output", -100),
        ("postrouting", 100),
    ];
    let mut script = format!("add table {family} {KEPT}\n");
    for (hook, priority) in hooks {
        script.push_str(&format!(
            "add chain {family} {KEPT} {hook} {{ type nat hook {hook} priority {priority}; }}\n"
        ));
    }
    script.push_str(&format!("delete table {family} {TABLE}\n"));
    script
}

/// What to give to `iptables-restore --noflush`, and how many chains go by it; `None` where none of kube-proxy's is
/// there. A chain that somebody else's chain leads to stays.
fn iptables_script(saved: &str) -> Option<(String, usize)> {
    let mut script = String::new();
    let mut count = 0;
    for table in saved.split("COMMIT") {
        let lines: Vec<&str> = table.lines().map(str::trim).collect();
        let Some(name) = lines.iter().find_map(|line| line.strip_prefix('*')) else {
            continue;
        };
        // Built-in chains have a policy, others a hyphen.
        let chains = || {
            lines.iter().filter_map(|line| {
                let mut words = line.strip_prefix(':')?.split_whitespace();
                Some((words.next()?, words.next()? == "-"))
            })
        };
        let built_in: BTreeSet<&str> = chains().filter(|c| !c.1).map(|c| c.0).collect();
        let rules: Vec<(&str, &str, &str)> = lines.iter().filter_map(|line| rule(line)).collect();
        let foreign = |chain: &str| !built_in.contains(chain) && !is_kube_proxy(chain);
        let ours: BTreeSet<&str> = chains()
            .filter(|(chain, user)| *user && is_kube_proxy(chain))
            .map(|(chain, _)| chain)
            .filter(|chain| {
                let mut rules = rules.iter();
                !rules.any(|(from, _, to)| to == chain && foreign(from))
            })
            .collect();
        if ours.is_empty() {
            continue;
        }
        count += ours.len();
        script.push_str(&format!("*{name}\n"));
        for chain in &ours {
            script.push_str(&format!(":{chain} - [0:0]\n"));
        }
        for (from, rest, to) in &rules {
            if built_in.contains(from) && ours.contains(to) {
                script.push_str(&format!("-D {from} {rest}\n"));
            }
        }
        for chain in &ours {
            script.push_str(&format!("-X {chain}\n"));
        }
        script.push_str("COMMIT\n");
    }
    (count > 0).then_some((script, count))
}

/// Chain, text behind it, and the chain that a rule leads to.
fn rule(line: &str) -> Option<(&str, &str, &str)> {
    let (chain, rest) = line.strip_prefix("-A ")?.split_once(' ')?;
    let mut words = rest.split_whitespace().rev().peekable();
    let mut target = None;
    while let Some(word) = words.next() {
        if let Some(&"-j" | &"-g") = words.peek() {
            target = Some(word);
            break;
        }
    }
    Some((chain, rest, target?))
}

fn is_kube_proxy(chain: &str) -> bool {
    CHAINS.contains(&chain) || PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    output(program, arguments).is_some()
}

/// What a program says; `None` where it is not there or fails.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(said)
}

fn feed(program: &str, arguments: &[&str], script: &str) -> anyhow::Result<()> {
    let context = || format!("{program} cannot be run");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(context)?;
    let written: io::Result<()> = child
        .stdin
        .take()
        .map_or(Ok(()), |mut input| input.write_all(script.as_bytes()));
    let output = child.wait_with_output().with_context(context)?;
    ensure!(
        output.status.success(),
        "{program} refused to remove kube-proxy's rules: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    written.with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "\
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-AAAA - [0:0]
:KUBE-SEP-BBBB - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:CNI-HOSTPORT - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A PREROUTING -j CNI-HOSTPORT
-A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-AAAA
-A KUBE-SVC-AAAA -j KUBE-SEP-BBBB
-A KUBE-SEP-BBBB -p tcp -j DNAT --to-destination 10.1.0.1:80
-A CNI-HOSTPORT -j KUBE-MARK-MASQ
COMMIT
*filter
:INPUT ACCEPT [0:0]
:KUBE-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
COMMIT
";

    #[test]
    fn only_what_is_kube_proxy_s_goes() {
        let (script, chains) = iptables_script(SAVED).unwrap();
        assert_eq!(chains, 3);
        assert_eq!(
            script,
            "\
*nat
:KUBE-SEP-BBBB - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-AAAA - [0:0]
-D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-X KUBE-SEP-BBBB
-X KUBE-SERVICES
-X KUBE-SVC-AAAA
COMMIT
"
        );
    }

    #[test]
    fn where_nothing_is_kube_proxy_s_nothing_is_done() {
        let others = SAVED
            .replace("KUBE-S", "CALI-S")
            .replace("KUBE-MARK-MASQ", "CALI-M");
        assert_eq!(iptables_script(&others), None);
        assert_eq!(iptables_script(""), None);
    }

    #[test]
    fn a_nat_chain_stays_on_each_hook() {
        let script = nftables_script("ip6");
        for hook in ["prerouting", "input", "output", "postrouting"] {
            let chain =
                format!("add chain ip6 signpost-nat {hook} {{ type nat hook {hook} priority");
            assert!(script.contains(&chain), "{script}");
        }
        assert!(script.ends_with("delete table ip6 kube-proxy\n"));
    }
}
