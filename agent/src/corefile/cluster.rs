//! The plugin `kubernetes`.

use super::{Directive, Notes};
use crate::{
    config::dns::{Bounded, Cluster, Period, Pods, ReverseZone},
    zone::{Name, Selector},
};

/// Converts the plugin, of a server block with these zones.
pub(super) fn convert(directive: &Directive, zones: &[Name], notes: &mut Notes) -> Cluster {
    let mut cluster = Cluster {
        // CoreDNS's defaults, which are not kubeadm's.
        ttl: Bounded::new(5),
        pods: Some(Pods::Disabled),
        fallthrough: Some(Vec::new()),
        ..Cluster::default()
    };
    let mut reverse = Vec::new();
    let mut names = Vec::new();
    for argument in &directive.words[1..] {
        if let Ok(zone) = argument.parse::<ReverseZone>() {
            reverse.push(zone);
        } else if let Some(name) = Name::from_text(argument) {
            names.push(name);
        } else {
            notes.add(directive, format!("{argument:?} is no zone"));
        }
    }
    if directive.words.len() == 1 {
        for zone in zones {
            match zone.to_string().parse() {
                Ok(zone) => reverse.push(zone),
                Err(_) => names.push(zone.clone()),
            }
        }
    }
    cluster.reverse_zones = Some(reverse);
    let mut names = names.into_iter().filter(|name| *name != Name::default());
    cluster.domain = names.next();
    cluster.other_domains = names.collect();
    for option in &directive.block {
        let words: Vec<&str> = option.words.iter().map(String::as_str).collect();
        match words[..] {
            ["ttl", seconds] => match seconds.parse().ok().and_then(Bounded::new) {
                Some(ttl) => cluster.ttl = Some(ttl),
                None => notes.add(option, "it is a number between 0 and 3600"),
            },
            ["pods", "disabled"] => cluster.pods = Some(Pods::Disabled),
            ["pods", "insecure"] => cluster.pods = Some(Pods::Insecure),
            ["pods", "verified"] => cluster.pods = Some(Pods::Verified),
            ["namespaces", ..] if words.len() > 1 => {
                cluster
                    .namespaces
                    .extend(words[1..].iter().map(|&name| name.to_owned()));
            }
            ["endpoint_pod_names"] => cluster.endpoint_pod_names = true,
            ["ignore", "empty_service"] => cluster.ignore_empty_services = true,
            ["fallthrough", ref zones @ ..] => {
                cluster.fallthrough = Some(fallthrough(zones, option, notes));
            }
            ["endpoint" | "tls" | "kubeconfig", ..] => {
                notes.add(
                    option,
                    "how the API server is reached are flags: --kubeconfig, --api-server",
                );
            }
            // Nothing depends on these any more, or ever did here.
            ["resyncperiod" | "upstream", ..] => {}
            ["startup_timeout", time] => match time.parse::<Period>() {
                Ok(time) => cluster.startup_timeout = Some(time),
                Err(why) => notes.add(option, why),
            },
            [
                "apiserver_qps" | "apiserver_burst" | "apiserver_max_inflight",
                ..,
            ] => {
                notes.add(option, "signpost lists once and watches");
            }
            ["pods", ..] => notes.add(option, "pods is disabled, insecure or verified"),
            [which @ ("labels" | "namespace_labels"), ref selector @ ..]
                if !selector.is_empty() =>
            {
                match selector.join(" ").parse::<Selector>() {
                    Ok(selector) if which == "labels" => cluster.labels = selector,
                    Ok(selector) => cluster.namespace_labels = selector,
                    Err(error) => notes.add(option, error.to_string()),
                }
            }
            _ => notes.add(option, "signpost has no such option"),
        }
    }
    cluster
}

/// Zones of a `fallthrough`; none are all.
pub(super) fn fallthrough(zones: &[&str], option: &Directive, notes: &mut Notes) -> Vec<Name> {
    if zones.is_empty() {
        return vec![Name::default()];
    }
    let mut names = Vec::new();
    for zone in zones {
        if let Ok(reverse) = zone.parse::<ReverseZone>() {
            names.extend(reverse.zones());
        } else if let Some(name) = Name::from_text(zone) {
            names.push(name);
        } else {
            notes.add(option, format!("{zone:?} is no zone"));
        }
    }
    names
}
