//! Server blocks: which one is the cluster's, which ones are stub domains.

use super::{Directive, Notes, cluster, forward, plugins};
use crate::{
    config::dns::{Cache, Class, DnsConfig, Forward, Kept, Period, ReverseZone, StubDomain},
    zone::Name,
};

/// The zones that NodeLocal DNSCache hands to the cluster's DNS.
const OF_THE_CLUSTER: [&str; 3] = ["cluster.local", "in-addr.arpa", "ip6.arpa"];

/// A server block.
struct Server<'a> {
    directive: &'a Directive,
    zones: Vec<Name>,
}

/// Converts all server blocks.
pub(super) fn convert(blocks: &[Directive], notes: &mut Notes) -> DnsConfig {
    let servers: Vec<Server<'_>> = blocks
        .iter()
        .filter_map(|block| server(block, notes))
        .collect();
    let has =
        |server: &Server<'_>, name: &str| server.directive.block.iter().any(|d| d.words[0] == name);
    let root = Name::default();
    let is_root = |server: &Server<'_>| server.zones.contains(&root);
    let of_cluster = servers.iter().position(|server| has(server, "kubernetes"));
    let of_root = servers.iter().position(is_root);
    let mut config = DnsConfig {
        cache: no_cache(),
        errors: Some(false),
        loop_detection: Some(false),
        ..DnsConfig::default()
    };
    for (index, server) in servers.iter().enumerate() {
        let main = Some(index) == of_cluster || Some(index) == of_root;
        if main {
            main_block(server, &mut config, notes);
            continue;
        }
        if has(server, "kubernetes") {
            notes.add(
                server.directive,
                "there is one zone of the cluster, of the first such block",
            );
            continue;
        }
        let relayed = |zone: &Name| OF_THE_CLUSTER.contains(&zone.to_string().as_str());
        if of_cluster.is_none() && server.zones.iter().all(relayed) {
            notes.add(
                server.directive,
                "signpost has the cluster's names itself and asks nobody for them",
            );
            continue;
        }
        config.stub_domains.extend(stub(server, notes));
    }
    let mut main = [of_cluster, of_root].into_iter().flatten();
    if !main.any(|index| has(&servers[index], "forward")) && !servers.is_empty() {
        // Nobody is asked for names that no block forwards.
        config.forward.except = vec![root];
    }
    config
}

fn server<'a>(directive: &'a Directive, notes: &mut Notes) -> Option<Server<'a>> {
    let mut zones = Vec::new();
    for key in &directive.words {
        let (transport, rest) = key.split_once("://").unwrap_or(("dns", key));
        if transport != "dns" {
            notes.add(directive, format!("signpost serves no {transport}://"));
            return None;
        }
        let (zone, port) = match rest.rsplit_once(':') {
            Some((zone, port)) if port.parse::<u16>().is_ok() => (zone, port),
            _ => (rest, "53"),
        };
        if port != "53" {
            notes.add(
                directive,
                format!("signpost serves one port; for {port} see --listen"),
            );
            return None;
        }
        if let Ok(reverse) = zone.parse::<ReverseZone>() {
            zones.extend(reverse.zones());
        } else if let Some(name) = Name::from_text(if zone.is_empty() { "." } else { zone }) {
            zones.push(name);
        } else {
            notes.add(directive, format!("{zone:?} is no zone"));
        }
    }
    (!zones.is_empty()).then_some(Server { directive, zones })
}

/// The block of the cluster, or of all names; often these are the same.
fn main_block(server: &Server<'_>, config: &mut DnsConfig, notes: &mut Notes) {
    let root = Name::default();
    let all = server.zones.contains(&root);
    for directive in &server.directive.block {
        let arguments = &directive.words[1..];
        match directive.words[0].as_str() {
            "kubernetes" => config.cluster = cluster::convert(directive, &server.zones, notes),
            "forward" | "proxy" => forward_of(directive, server, config, notes),
            "hosts" => {
                let hosts = plugins::hosts(directive, &server.zones, notes);
                match &config.hosts {
                    None => config.hosts = Some(hosts),
                    Some(_) => notes.add(directive, "there is one list of hosts; add these to it"),
                }
            }
            "rewrite" => {
                if !all {
                    notes.add(
                        directive,
                        "it counts for all names, not only for those of this block",
                    );
                }
                config.rewrite.extend(plugins::rewrite(directive, notes));
            }
            "cache" => config.cache = plugins::cache(directive, notes),
            "log" => {
                let log = plugins::log(directive, &server.zones, notes);
                config.log.classes.extend(log.classes);
                config.log.zones.extend(log.zones);
            }
            "errors" => {
                config.errors = Some(true);
                for option in &directive.block {
                    notes.add(option, "every failure is logged by itself");
                }
            }
            "loop" => config.loop_detection = Some(true),
            "health" => {
                if !matches!(arguments, [] | [_]) || arguments.iter().any(|at| at != ":8080") {
                    notes.add(directive, "the address is a flag, --health-address");
                }
                for option in &directive.block {
                    match option.words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                        ["lameduck", time] => match time.parse::<Period>() {
                            Ok(time) => config.lameduck = Some(time),
                            Err(why) => notes.add(option, why),
                        },
                        _ => notes.add(option, "there is no such option"),
                    }
                }
            }
            name => plugins::other(name, directive, notes),
        }
    }
    if config.log.classes.contains(&Class::All) {
        config.log.classes = vec![Class::All];
    }
    config.log.zones.retain(|zone| *zone != root);
}

/// A forward of all names is that of the server; one of some names is a stub domain.
fn forward_of(
    directive: &Directive,
    server: &Server<'_>,
    config: &mut DnsConfig,
    notes: &mut Notes,
) {
    let root = Name::default();
    let Some((from, converted)) = forward::convert(directive, notes) else {
        return;
    };
    let all = server.zones.contains(&root);
    if from == root && all {
        config.forward = converted;
    } else if from != root {
        config.stub_domains.push(StubDomain {
            domains: vec![from],
            forward: converted,
            cache: None,
        });
    } else {
        notes.add(
            directive,
            "names that fall through are asked for as all other names are",
        );
    }
}

fn stub(server: &Server<'_>, notes: &mut Notes) -> Option<StubDomain> {
    let mut stub = StubDomain {
        domains: server.zones.clone(),
        forward: Forward::default(),
        cache: Some(no_cache()),
    };
    for directive in &server.directive.block {
        match directive.words[0].as_str() {
            "forward" | "proxy" => {
                let Some((from, converted)) = forward::convert(directive, notes) else {
                    continue;
                };
                if from == Name::default() || server.zones.contains(&from) {
                    stub.forward = converted;
                } else {
                    notes.add(directive, "write it as a stub domain of its own");
                }
            }
            "cache" => stub.cache = Some(plugins::cache(directive, notes)),
            "errors" | "log" | "loop" | "health" => {}
            name @ ("hosts" | "rewrite") => {
                notes.add(directive, format!("a stub domain has no {name} of its own"));
            }
            name => plugins::other(name, directive, notes),
        }
    }
    if stub.forward.upstreams.is_empty() {
        notes.add(server.directive, "it forwards to nobody");
        return None;
    }
    Some(stub)
}

/// Without the plugin, nothing is kept.
fn no_cache() -> Cache {
    let kept = || Kept {
        ttl: crate::config::dns::Bounded::new(0),
        ..Kept::default()
    };
    Cache {
        success: kept(),
        denial: kept(),
        ..plugins::cache_defaults()
    }
}
