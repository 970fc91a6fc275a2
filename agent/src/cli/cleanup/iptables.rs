//! What kube-proxy's iptables and IPVS modes write with iptables.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::Family;

/// The forms of iptables; where there are both, each has rules of its own.
pub(super) const TOOLS: [(&str, Family); 4] = [
    ("iptables-nft", Family::V4),
    ("iptables-legacy", Family::V4),
    ("ip6tables-nft", Family::V6),
    ("ip6tables-legacy", Family::V6),
];

/// Chains that kube-proxy's rules in the built-in chains lead to.
const FIRST: [&str; 10] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-NODE-PORT",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
];
/// Its other chains.
const OTHERS: [&str; 3] = ["KUBE-MARK-MASQ", "KUBE-PROXY-CANARY", "KUBE-LOAD-BALANCER"];
/// How its chains for single Services and endpoints begin.
const PREFIXES: [&str; 6] = [
    "KUBE-SVC-",
    "KUBE-SVL-",
    "KUBE-EXT-",
    "KUBE-XLB-",
    "KUBE-FW-",
    "KUBE-SEP-",
];

/// What to give to `iptables-restore --noflush`, and how many chains go by it; `None` where none of kube-proxy's is
/// there. A chain that somebody else's rule leads to stays, with those that it leads to itself.
pub(super) fn script(saved: &str) -> Option<(String, usize)> {
    let mut script = String::new();
    let mut count = 0;
    for table in saved.split("\nCOMMIT") {
        let lines: Vec<&str> = table.lines().map(str::trim).collect();
        let Some(name) = lines.iter().find_map(|line| line.strip_prefix('*')) else {
            continue;
        };
        let rules: Vec<Rule<'_>> = lines.iter().filter_map(|line| Rule::read(line)).collect();
        let kept = led_to_by_others(&rules);
        let goes = |chain: &str| is_kube_proxy(chain) && !kept.contains(chain);
        let chains: BTreeSet<&str> = lines
            .iter()
            .filter_map(|line| line.strip_prefix(':')?.split(' ').next())
            .filter(|chain| goes(chain))
            .collect();
        if chains.is_empty() {
            continue;
        }
        count += chains.len();
        script.push_str(&format!("*{name}\n"));
        for chain in &chains {
            script.push_str(&format!(":{chain} - [0:0]\n"));
        }
        for Rule { from, text, to } in &rules {
            if !is_kube_proxy(from) && goes(to) {
                script.push_str(&format!("-D {from} {text}\n"));
            }
        }
        for chain in &chains {
            script.push_str(&format!("-X {chain}\n"));
        }
        script.push_str("COMMIT\n");
    }
    (count > 0).then_some((script, count))
}

/// kube-proxy's chains that somebody else's rules need.
fn led_to_by_others<'a>(rules: &[Rule<'a>]) -> BTreeSet<&'a str> {
    let mut from: BTreeMap<&str, Vec<&'a str>> = BTreeMap::new();
    let mut queue: Vec<&'a str> = Vec::new();
    for rule in rules {
        if is_kube_proxy(rule.from) {
            from.entry(rule.from).or_default().push(rule.to);
        } else if is_kube_proxy(rule.to) && !rule.is_kube_proxy() {
            queue.push(rule.to);
        }
    }
    let mut kept = BTreeSet::new();
    while let Some(chain) = queue.pop() {
        if kept.insert(chain) {
            queue.extend(from.get(chain).into_iter().flatten());
        }
    }
    kept
}

/// A rule that leads to another chain.
struct Rule<'a> {
    from: &'a str,
    /// What is behind the chain's name.
    text: &'a str,
    to: &'a str,
}

impl<'a> Rule<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let (from, text) = line.strip_prefix("-A ")?.split_once(' ')?;
        let mut words = text.split_whitespace().rev().peekable();
        while let Some(to) = words.next() {
            if let Some(&"-j" | &"-g") = words.peek() {
                return Some(Self { from, text, to });
            }
        }
        None
    }

    /// Whether it is one of kube-proxy's in a built-in chain.
    fn is_kube_proxy(&self) -> bool {
        const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
        BUILT_IN.contains(&self.from) && FIRST.contains(&self.to)
    }
}

fn is_kube_proxy(chain: &str) -> bool {
    FIRST.contains(&chain)
        || OTHERS.contains(&chain)
        || PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
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
-A PREROUTING -m comment --comment \"COMMIT to it\" -j CNI-HOSTPORT
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
        let (script, chains) = script(SAVED).unwrap();
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
    fn a_chain_that_others_lead_to_stays_with_those_that_it_needs() {
        let saved = SAVED.replace(
            "-A CNI-HOSTPORT -j KUBE-MARK-MASQ",
            "-A CNI-HOSTPORT -j KUBE-SVC-AAAA",
        );
        let (script, chains) = script(&saved).unwrap();
        assert_eq!(chains, 2, "{script}");
        for gone in ["-X KUBE-SERVICES\n", "-X KUBE-MARK-MASQ\n"] {
            assert!(script.contains(gone), "{script}");
        }
        for kept in ["KUBE-SVC-AAAA", "KUBE-SEP-BBBB"] {
            assert!(!script.contains(kept), "{script}");
        }
    }

    #[test]
    fn a_rule_of_others_in_a_built_in_chain_stays_with_its_chain() {
        let saved = SAVED.replace(
            "-A CNI-HOSTPORT -j KUBE-MARK-MASQ",
            "-A PREROUTING -s 10.9.0.0/16 -j KUBE-MARK-MASQ",
        );
        let (script, _) = script(&saved).unwrap();
        assert!(!script.contains("KUBE-MARK-MASQ"), "{script}");
    }

    #[test]
    fn where_nothing_is_kube_proxy_s_nothing_is_done() {
        let others = SAVED
            .replace("KUBE-S", "CALI-S")
            .replace("KUBE-MARK-MASQ", "CALI-M");
        assert_eq!(script(&others), None);
        assert_eq!(script(""), None);
    }
}
