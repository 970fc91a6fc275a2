//! Rules and sets as text. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use crate::{
    dataplane::{
        ipvs::rules::{self, Element, Frame, Set},
        netfilter::{
            iptables::Owned,
            nftables::{Field, Step, Verdict},
        },
    },
    model::Family,
};

/// How the names of chains begin,
pub(super) const CHAINS: &str = "SIGNPOST-";
/// and those of sets.
pub(super) const SETS: &str = "signpost-";
/// The chain of what the node's own processes send.
pub(super) const OUTPUT: &str = "SIGNPOST-OUTPUT";
const INPUT: &str = "SIGNPOST-INPUT";
const FORWARD: &str = "SIGNPOST-FORWARD";
const MARK: &str = "SIGNPOST-MARK";
const POSTROUTING: &str = "SIGNPOST-POSTROUTING";

/// A set that takes the place of another one.
const NEW: &str = "signpost-new";
/// Places that only some may use, and who may.
const RESTRICTED: &str = "restricted";
const SOURCE_RANGES: &str = "source-ranges";
/// Elements that a set takes at most; it grows as they come.
const MOST: u32 = 1 << 20;

/// States of connections that are let through.
const KNOWN: &str = "RELATED,ESTABLISHED,UNTRACKED";

/// The script that makes all sets of these families anew, beside those that are there.
pub(super) fn sets(
    families: &[Family],
    frame: &Frame,
    elements: &BTreeSet<Element>,
    there: &BTreeSet<String>,
) -> String {
    let mut script = String::new();
    if there.contains(NEW) {
        let _ = writeln!(script, "destroy {NEW}");
    }
    for family in families {
        for (name, (kind, members)) in contents(*family, frame, elements) {
            let inet = match family {
                Family::V4 => "inet",
                Family::V6 => "inet6",
            };
            let is_there = there.contains(&name);
            let made = if is_there { NEW } else { &name };
            let _ = writeln!(script, "create {made} {kind} family {inet} maxelem {MOST}");
            for member in members {
                let _ = writeln!(script, "add {made} {member}");
            }
            if is_there {
                let _ = writeln!(script, "swap {NEW} {name}\ndestroy {NEW}");
            }
        }
    }
    script
}

/// The script that lets elements come and go.
pub(super) fn changes(come: &[Element], go: &[Element]) -> String {
    let mut script = String::new();
    for (word, elements) in [("add", come), ("del", go)] {
        for element in elements {
            let name = set_name(element.family, element.set.name());
            let _ = writeln!(script, "{word} {name} {}", member(element));
        }
    }
    script
}

/// The script that makes all chains of a family anew, and leads to them before all rules of others; `before` is what is
/// there.
pub(super) fn rules(
    family: Family,
    frame: &Frame,
    outside: &BTreeSet<String>,
    mark: u32,
    before: &Owned<'_>,
) -> String {
    let marking = format!("MARK --set-xmark {mark:#x}/{mark:#x}");
    let translated = |rules: Vec<Vec<Step>>| -> Vec<String> {
        let rules = rules.iter();
        rules
            .flat_map(|steps| rule(family, steps, outside, &marking))
            .collect()
    };
    let own = [rules::guard(), rules::unallocated(family, frame)].concat();
    let turned_away = [vec![rules::known()], rules::turn_away(family, frame)].concat();
    // IPVS comes before the filters of output, but after mangle. A filter of others that accepts ends its own table alone, so
    // what is dropped is dropped in mangle; rejecting is only for filters.
    let tables = [
        (
            "mangle",
            vec![
                (INPUT, vec!["INPUT"], translated(rules::guard())),
                (OUTPUT, vec!["OUTPUT"], translated(own)),
            ],
        ),
        (
            "nat",
            vec![
                // What a connection was made to is only seen before IPVS.
                (
                    MARK,
                    vec!["PREROUTING", "OUTPUT"],
                    translated(rules::masquerade(family, frame)),
                ),
                (POSTROUTING, vec!["POSTROUTING"], masquerade(family, mark)),
            ],
        ),
        (
            "filter",
            vec![
                (INPUT, vec!["INPUT"], translated(turned_away)),
                (
                    FORWARD,
                    vec!["FORWARD"],
                    translated(rules::unallocated(family, frame)),
                ),
            ],
        ),
    ];
    let mut script = String::new();
    for (table, chains) in tables {
        let _ = writeln!(script, "*{table}");
        for (chain, ..) in &chains {
            let _ = writeln!(script, ":{chain} - [0:0]");
        }
        for jump in before.jumps.get(table).into_iter().flatten() {
            let _ = writeln!(script, "-D {jump}");
        }
        for (chain, from, rules) in &chains {
            for from in from {
                let _ = writeln!(script, "-I {from} 1 -j {chain}");
            }
            for rule in rules {
                let _ = writeln!(script, "-A {chain} {rule}");
            }
        }
        script.push_str("COMMIT\n");
    }
    script
}

/// A rule; one for each interface where it asks for these.
fn rule(family: Family, steps: &[Step], outside: &BTreeSet<String>, marking: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut by = None;
    let mut loaded: &[Field] = &[];
    for step in steps {
        words.push(match step {
            Step::Load(fields) => {
                loaded = fields;
                continue;
            }
            Step::In { .. } if loaded == [Field::Interface] => {
                by = Some(outside);
                continue;
            }
            Step::Is {
                mask,
                value,
                inverted,
            } => is(loaded, mask, value, *inverted),
            Step::In { set, inverted } => matches(family, set, &ends(loaded), *inverted),
            Step::Map(_) => [
                matches(family, RESTRICTED, "dst,dst", false),
                matches(family, SOURCE_RANGES, "dst,dst,src", true),
                "-j DROP".to_owned(),
            ]
            .join(" "),
            Step::Verdict(Verdict::Accept | Verdict::Return) => "-j RETURN".to_owned(),
            Step::Verdict(Verdict::Drop) => "-j DROP".to_owned(),
            Step::Verdict(Verdict::Jump(chain)) => format!("-j {chain}"),
            Step::Reject => match family {
                Family::V4 => "-j REJECT --reject-with icmp-port-unreachable",
                Family::V6 => "-j REJECT --reject-with icmp6-port-unreachable",
            }
            .to_owned(),
            Step::Masquerade => format!("-j {marking}"),
        });
    }
    let rule = words.join(" ");
    match by {
        None => vec![rule],
        Some(names) => names
            .iter()
            .map(|name| format!("-i {name} {rule}"))
            .collect(),
    }
}

/// What leaves with a mark, and who reaches itself, is masqueraded.
fn masquerade(family: Family, mark: u32) -> Vec<String> {
    let hairpin = matches(family, Set::Hairpin.name(), "dst,dst,src", false);
    vec![
        format!("{hairpin} -j MASQUERADE --random-fully"),
        format!("-m mark ! --mark {mark:#x}/{mark:#x} -j RETURN"),
        // A packet that is wrapped up and comes by here again is not ours any more.
        format!("-j MARK --set-xmark 0x0/{mark:#x}"),
        "-j MASQUERADE --random-fully".to_owned(),
    ]
}

fn is(loaded: &[Field], mask: &[u8], value: &[u8], inverted: bool) -> String {
    if loaded == [Field::State] {
        // Under the mask of what is known it is compared with nothing.
        let not = if inverted { "" } else { "! " };
        return format!("-m conntrack {not}--ctstate {KNOWN}");
    }
    let end = if loaded == [Field::Source] {
        "src"
    } else {
        "dst"
    };
    let last: Vec<u8> = value.iter().zip(mask).map(|(v, m)| v | !m).collect();
    let not = if inverted { "! " } else { "" };
    // Unlike `-s` a rule may have it many times.
    let (first, last) = (address(value), address(&last));
    format!("-m iprange {not}--{end}-range {first}-{last}")
}

fn matches(family: Family, set: &str, ends: &str, inverted: bool) -> String {
    let not = if inverted { "! " } else { "" };
    let name = set_name(family, set);
    format!("-m set {not}--match-set {name} {ends}")
}

/// What of a packet is looked up in a set. The first packet of a connection has its destination still.
fn ends(loaded: &[Field]) -> String {
    let ends = loaded.iter().filter_map(|field| match field {
        Field::Source => Some("src"),
        Field::Destination | Field::Port | Field::OriginalDestination | Field::OriginalPort => {
            Some("dst")
        }
        // It is one with the port.
        Field::Protocol | Field::Interface | Field::State => None,
    });
    ends.collect::<Vec<_>>().join(",")
}

/// The sets of a family with their kinds and members.
fn contents(
    family: Family,
    frame: &Frame,
    elements: &BTreeSet<Element>,
) -> BTreeMap<String, (&'static str, Vec<String>)> {
    let mut sets = BTreeMap::new();
    for set in Set::ALL {
        let kind = match set {
            Set::Outside => continue,
            Set::Vips | Set::Foreign => "hash:ip",
            Set::Hairpin => "hash:ip,port,ip",
            _ => "hash:ip,port",
        };
        let members = elements
            .iter()
            .filter(|e| e.family == family && e.set == set);
        let members = members.map(member).collect();
        sets.insert(set_name(family, set.name()), (kind, members));
    }
    let (mut restricted, mut ranges) = (Vec::new(), Vec::new());
    for (key, nets) in &frame.source_ranges {
        if Family::of(key.address) != family {
            continue;
        }
        let place = member(&Element::place(Set::Served, key));
        let nets = nets.iter().filter(|net| Family::of(net.addr()) == family);
        let nets: BTreeSet<IpNet> = nets.flat_map(halves).collect();
        ranges.extend(nets.iter().map(|net| format!("{place},{net}")));
        restricted.push(place);
    }
    sets.insert(set_name(family, RESTRICTED), ("hash:ip,port", restricted));
    sets.insert(
        set_name(family, SOURCE_RANGES),
        ("hash:ip,port,net", ranges),
    );
    sets
}

/// Sets have no network of all addresses.
fn halves(net: &IpNet) -> Vec<IpNet> {
    let net = net.trunc();
    match net.prefix_len() {
        0 => net.subnets(1).into_iter().flatten().collect(),
        _ => vec![net],
    }
}

fn set_name(family: Family, set: &str) -> String {
    let number = match family {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    format!("{SETS}{number}-{set}")
}

/// An element as ipset has it: destination, port, source.
fn member(element: &Element) -> String {
    let (mut destination, mut source) = (String::new(), String::new());
    let (mut protocol, mut port) = ("", String::new());
    let mut rest = element.key.as_slice();
    for field in element.set.fields() {
        let (bytes, more) = rest.split_at(field.width(element.family));
        rest = more;
        match field {
            Field::Source => source = format!(",{}", address(bytes)),
            Field::Protocol => protocol = protocol_name(bytes[0]),
            Field::Port | Field::OriginalPort => {
                port = format!(",{protocol}:{}", u16::from_be_bytes([bytes[0], bytes[1]]));
            }
            _ => destination = address(bytes).to_string(),
        }
    }
    format!("{destination}{port}{source}")
}

const fn protocol_name(number: u8) -> &'static str {
    match number {
        17 => "udp",
        132 => "sctp",
        _ => "tcp",
    }
}

/// The address in a register.
fn address(bytes: &[u8]) -> IpAddr {
    match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => Ipv4Addr::from(v4).into(),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap_or_default()).into(),
    }
}
