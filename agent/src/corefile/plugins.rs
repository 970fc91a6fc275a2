//! The plugins beside `kubernetes` and `forward`.

use super::{Directive, Notes, cluster::fallthrough};
use crate::{
    config::dns::{
        AnswerRewrite, Auto, Bounded, Cache, Class, HostEntry, Hosts, Kept, Log, MatchKind, Period,
        Prefetch, RewriteRule,
    },
    zone::Name,
};

/// What CoreDNS's cache does unless it is told otherwise.
pub(super) fn cache_defaults() -> Cache {
    Cache {
        prefetch: Bounded::new(0).map(|hits| Prefetch {
            hits,
            within: Period::from_secs(60),
            percentage: Bounded::least(),
        }),
        serve_stale: Some(Period::default()),
        ..Cache::default()
    }
}

/// Plugins that say nothing about answers here.
pub(super) fn other(name: &str, directive: &Directive, notes: &mut Notes) {
    let arguments = &directive.words[1..];
    match name {
        // The configuration is always followed, probes are always served, addresses always rotated.
        "reload" | "ready" if arguments.iter().all(|a| a != "off") => {}
        "loadbalance" if arguments.is_empty() || *arguments == ["round_robin"] => {}
        "loadbalance" => notes.add(directive, "addresses are rotated at random"),
        "prometheus" if arguments.is_empty() || *arguments == [":9153"] => {}
        "prometheus" => notes.add(directive, "the address is a flag, --metrics-address"),
        "bind" => notes.add(directive, "addresses are a flag, --listen"),
        "bufsize" => notes.add(directive, "the largest UDP answer is a flag, --max-payload"),
        "import" => notes.add(directive, "it is another file; convert that too"),
        _ => notes.add(directive, "signpost has no such plugin"),
    }
}

/// The plugin `hosts`.
pub(super) fn hosts(directive: &Directive, zones: &[Name], notes: &mut Notes) -> Hosts {
    let mut hosts = Hosts::default();
    let mut own = Vec::new();
    // The first argument is a file, whatever it looks like.
    for (index, argument) in directive.words[1..].iter().enumerate() {
        if index == 0 && argument == "/dev/null" {
            continue;
        }
        if index == 0 {
            notes.add(
                directive,
                format!("write the entries of {argument} into hosts.entries"),
            );
        } else {
            own.extend(name(argument, directive, notes));
        }
    }
    let zones = if own.is_empty() { zones.to_vec() } else { own };
    hosts.zones = (zones != [Name::default()]).then_some(zones);
    for option in &directive.block {
        let words: Vec<&str> = option.words.iter().map(String::as_str).collect();
        match words[..] {
            ["fallthrough", ref zones @ ..] => {
                hosts.fallthrough = fallthrough(zones, option, notes);
            }
            ["no_reverse"] => hosts.no_reverse = true,
            ["ttl", seconds] => match seconds.parse().ok().and_then(Bounded::new) {
                Some(ttl) => hosts.ttl = Some(ttl),
                None => notes.add(option, "it is a number between 1 and 65535"),
            },
            // There is no file to read again.
            ["reload", _] => {}
            [address, ref names @ ..] => match address.parse() {
                Ok(address) => hosts.entries.push(HostEntry {
                    address,
                    names: names
                        .iter()
                        .filter_map(|text| name(text, option, notes))
                        .collect(),
                }),
                Err(_) => notes.add(option, "it does not begin with an address"),
            },
            [] => {}
        }
    }
    hosts
}

/// A name; one that is none is left out.
fn name(text: &str, directive: &Directive, notes: &mut Notes) -> Option<Name> {
    let name = Name::from_text(text);
    if name.is_none() {
        notes.add(directive, format!("{text:?} is no name"));
    }
    name
}

/// The plugin `rewrite`: one rule in its line, or several in its block.
pub(super) fn rewrite(directive: &Directive, notes: &mut Notes) -> Vec<RewriteRule> {
    let mut rules = Vec::new();
    let line = &directive.words[1..];
    if directive.block.is_empty() {
        rules.extend(rule(line, &[]).map_err(|why| notes.add(directive, why)));
    } else if line.is_empty() {
        for option in &directive.block {
            rules.extend(rule(&option.words, &[]).map_err(|why| notes.add(option, why)));
        }
    } else {
        // `rewrite stop { name … answer … }`
        let mut words: Vec<String> = line.to_vec();
        let (answers, first): (Vec<&Directive>, Vec<&Directive>) = directive
            .block
            .iter()
            .partition(|option| option.words[0] == "answer");
        words.extend(first.iter().flat_map(|option| option.words.clone()));
        let answers: Vec<&[String]> = answers.iter().map(|a| a.words.as_slice()).collect();
        rules.extend(rule(&words, &answers).map_err(|why| notes.add(directive, why)));
    }
    rules
}

fn rule(words: &[String], answers: &[&[String]]) -> Result<RewriteRule, String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (goes_on, words) = match words[..] {
        ["continue", ref rest @ ..] => (true, rest),
        ["stop", ref rest @ ..] => (false, rest),
        ref all => (false, all),
    };
    let ["name", rest @ ..] = words else {
        return Err("signpost rewrites names only".to_owned());
    };
    let (kind, from, to, rest) = match rest {
        ["exact", from, to, rest @ ..] => (MatchKind::Exact, from, to, rest),
        ["prefix", from, to, rest @ ..] => (MatchKind::Prefix, from, to, rest),
        ["suffix", from, to, rest @ ..] => (MatchKind::Suffix, from, to, rest),
        ["substring", from, to, rest @ ..] => (MatchKind::Substring, from, to, rest),
        ["regex", from, to, rest @ ..] => (MatchKind::Regex, from, to, rest),
        [from, to] => (MatchKind::Exact, from, to, &[][..]),
        _ => return Err("it is no rule for names".to_owned()),
    };
    let mut rule = RewriteRule {
        kind,
        from: (*from).to_owned(),
        to: (*to).to_owned(),
        answer: None,
        answer_names: Vec::new(),
        answer_values: Vec::new(),
        goes_on,
    };
    set_answers(&mut rule, rest)?;
    for answer in answers {
        let words: Vec<&str> = answer.iter().map(String::as_str).collect();
        set_answers(&mut rule, &words)?;
    }
    rule.check()?;
    Ok(rule)
}

fn set_answers(rule: &mut RewriteRule, mut words: &[&str]) -> Result<(), String> {
    loop {
        let rewrite = |from: &str, to: &str| AnswerRewrite {
            from: from.to_owned(),
            to: to.to_owned(),
        };
        match *words {
            [] => return Ok(()),
            ["answer", ref rest @ ..] => words = rest,
            ["auto", ref rest @ ..] => {
                rule.answer = Some(Auto::Auto);
                words = rest;
            }
            ["name", from, to, ref rest @ ..] => {
                rule.answer_names.push(rewrite(from, to));
                words = rest;
            }
            ["value", from, to, ref rest @ ..] => {
                rule.answer_values.push(rewrite(from, to));
                words = rest;
            }
            [other, ..] => return Err(format!("{other:?} says nothing about answers")),
        }
    }
}

/// The plugin `cache`.
pub(super) fn cache(directive: &Directive, notes: &mut Notes) -> Cache {
    const SUCCESS: u32 = 3600;
    const DENIAL: u32 = 1800;
    let mut cache = cache_defaults();
    let mut arguments = directive.words[1..].iter().peekable();
    let ttl: Option<u32> = arguments.peek().and_then(|ttl| ttl.parse().ok());
    if ttl.is_some() {
        arguments.next();
    }
    if arguments.peek().is_some() {
        notes.add(
            directive,
            "zones cannot be named; leave out others with except",
        );
    }
    let kept = |default: u32| Kept {
        ttl: Bounded::new(ttl.unwrap_or(default)),
        ..Kept::default()
    };
    cache.success = kept(SUCCESS);
    cache.denial = kept(DENIAL);
    for option in &directive.block {
        if let Err(why) = set_cache(&mut cache, option) {
            notes.add(option, why);
        }
    }
    cache
}

fn set_cache(cache: &mut Cache, option: &Directive) -> Result<(), String> {
    let words: Vec<&str> = option.words.iter().map(String::as_str).collect();
    match words[..] {
        ["success", ref rest @ ..] => set_kept(&mut cache.success, rest),
        ["denial", ref rest @ ..] => set_kept(&mut cache.denial, rest),
        ["servfail", time] => {
            let seconds = time.parse::<Period>()?.get().as_secs();
            let ttl = u32::try_from(seconds).ok().and_then(Bounded::new);
            cache.failure_ttl = Some(ttl.ok_or("it is at most 5 minutes")?);
            Ok(())
        }
        ["prefetch", hits, ref rest @ ..] => {
            let mut prefetch = Prefetch {
                hits: bounded(hits)?,
                within: Period::from_secs(60),
                percentage: Bounded::least(),
            };
            if let Some(within) = rest.first() {
                prefetch.within = within.parse()?;
            }
            if let Some(percentage) = rest.get(1) {
                prefetch.percentage = bounded(percentage.trim_end_matches('%'))?;
            }
            cache.prefetch = Some(prefetch);
            Ok(())
        }
        ["serve_stale", ref rest @ ..] => {
            let time = rest
                .first()
                .map_or(Ok(Period::from_secs(3600)), |time| time.parse())?;
            cache.serve_stale = Some(time);
            if rest.len() > 1 {
                return Err("upstreams are always asked first, for 1.8 s".to_owned());
            }
            Ok(())
        }
        ["disable", kind @ ("success" | "denial"), ref zones @ ..] => {
            let kept = if kind == "success" {
                &mut cache.success
            } else {
                &mut cache.denial
            };
            if zones.is_empty() {
                kept.ttl = Bounded::new(0);
            }
            for zone in zones {
                let name = Name::from_text(zone).ok_or_else(|| format!("{zone:?} is no zone"))?;
                kept.except.push(name);
            }
            Ok(())
        }
        _ => Err("signpost has no such option".to_owned()),
    }
}

fn set_kept(kept: &mut Kept, words: &[&str]) -> Result<(), String> {
    let mut words = words.iter();
    if let Some(capacity) = words.next() {
        kept.capacity = Some(bounded(capacity)?);
    }
    if let Some(ttl) = words.next() {
        kept.ttl = Some(bounded(ttl)?);
    }
    if let Some(ttl) = words.next() {
        kept.min_ttl = Some(bounded(ttl)?);
    }
    Ok(())
}

fn bounded<const LEAST: u32, const MOST: u32>(text: &str) -> Result<Bounded<LEAST, MOST>, String> {
    let number = text.parse().ok().and_then(Bounded::new);
    number.ok_or_else(|| format!("{text:?} is no number between {LEAST} and {MOST}"))
}

/// The plugin `log`.
pub(super) fn log(directive: &Directive, zones: &[Name], notes: &mut Notes) -> Log {
    let mut log = Log::default();
    for argument in &directive.words[1..] {
        if argument.contains(['{', ' ']) {
            notes.add(directive, "lines have a form of their own");
        } else {
            log.zones.extend(name(argument, directive, notes));
        }
    }
    if log.zones.is_empty() {
        log.zones = zones.to_vec();
    }
    for option in &directive.block {
        let words: Vec<&str> = option.words.iter().map(String::as_str).collect();
        let ["class", ref classes @ ..] = words[..] else {
            notes.add(option, "signpost has no such option");
            continue;
        };
        for class in classes {
            match *class {
                "all" => log.classes.push(Class::All),
                "success" => log.classes.push(Class::Success),
                "denial" => log.classes.push(Class::Denial),
                "error" => log.classes.push(Class::Error),
                _ => notes.add(option, format!("{class} is no class")),
            }
        }
    }
    if log.classes.is_empty() {
        log.classes.push(Class::All);
    }
    log
}
