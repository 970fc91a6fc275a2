//! The plugin `forward`.

use super::{Directive, Notes};
use crate::{
    config::dns::{Bounded, Code, Forward, HealthCheck, Period, Policy, UpstreamAddress},
    zone::Name,
};

/// Converts the plugin: the zone that it is for, and how it is asked for.
pub(super) fn convert(directive: &Directive, notes: &mut Notes) -> Option<(Name, Forward)> {
    let mut arguments = directive.words[1..].iter();
    let from = arguments
        .next()
        .and_then(|from| Name::from_text(from.trim_end_matches(":53")));
    let Some(from) = from else {
        notes.add(directive, "it does not begin with a zone");
        return None;
    };
    let mut forward = Forward {
        // CoreDNS has no limit by itself.
        max_concurrent: Bounded::new(0),
        ..Forward::default()
    };
    for to in arguments {
        match to.parse::<UpstreamAddress>() {
            Ok(upstream) => forward.upstreams.push(upstream),
            Err(error) => notes.add(directive, error),
        }
    }
    for option in &directive.block {
        if let Err(why) = set(&mut forward, option) {
            notes.add(option, why);
        }
    }
    if forward.upstreams.is_empty() {
        notes.add(directive, "it names nobody who could be asked");
        return None;
    }
    Some((from, forward))
}

fn set(forward: &mut Forward, option: &Directive) -> Result<(), String> {
    let words: Vec<&str> = option.words.iter().map(String::as_str).collect();
    let number = |text: &str| {
        text.parse::<u32>()
            .map_err(|_| format!("{text:?} is no number"))
    };
    let most = || "it is too large".to_owned();
    match words[..] {
        ["except", ref zones @ ..] => {
            for zone in zones {
                let name = Name::from_text(zone).ok_or_else(|| format!("{zone:?} is no zone"))?;
                forward.except.push(name);
            }
        }
        ["force_tcp"] => forward.force_tcp = true,
        ["prefer_udp"] => forward.prefer_udp = true,
        ["policy", "random"] => forward.policy = Some(Policy::Random),
        ["policy", "round_robin"] => forward.policy = Some(Policy::RoundRobin),
        ["policy", "sequential"] => forward.policy = Some(Policy::Sequential),
        ["max_fails", count] => {
            forward.max_fails = Some(Bounded::new(number(count)?).ok_or_else(most)?);
        }
        ["max_concurrent", count] => {
            forward.max_concurrent = Some(Bounded::new(number(count)?).ok_or_else(most)?);
        }
        ["expire", time] => forward.expire = Some(time.parse()?),
        ["read_timeout", time] => forward.read_timeout = Some(time.parse()?),
        ["health_check", time, ref rest @ ..] => forward.health_check = Some(check(time, rest)?),
        ["tls_servername", name] => forward.tls.server_name = Some(name.to_owned()),
        ["tls"] => {}
        ["tls", ca] => forward.tls.ca = Some(ca.into()),
        ["tls", ..] => return Err("signpost shows upstreams no certificate of its own".to_owned()),
        ["failover", ref codes @ ..] => {
            for code in codes {
                let known = Code::from_name(code);
                forward
                    .failover
                    .push(known.ok_or_else(|| format!("{code} is no such code"))?);
            }
        }
        _ => return Err("signpost has no such option".to_owned()),
    }
    Ok(())
}

fn check(time: &str, rest: &[&str]) -> Result<HealthCheck, String> {
    let interval: Period = time.parse()?;
    let mut check = HealthCheck::default();
    if !interval.get().is_zero() {
        check.interval = interval;
    }
    let mut rest = rest.iter();
    while let Some(option) = rest.next() {
        match *option {
            "no_rec" => check.no_recursion = true,
            "domain" => {
                let name = rest.next().and_then(|name| Name::from_text(name));
                check.domain = name.ok_or_else(|| "the domain is no name".to_owned())?;
            }
            other => return Err(format!("{other} is no option of it")),
        }
    }
    Ok(check)
}
