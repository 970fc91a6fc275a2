//! What of all that was seen is wrong.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{not_yet::NOT_YET, run::Look, world::Provider};

/// Sums up; an error lists everything that is not as expected. Where these are the looks of all scenarios, none of what
/// is not yet may have come true.
pub(crate) fn on(looks: &[Look<'_>], of_all: bool) -> Result<String, String> {
    let mut wrong = String::new();
    let mut missing: BTreeMap<usize, usize> = BTreeMap::new();
    let (mut same, mut on_purpose) = (0, 0);
    for look in looks {
        if !look.is_met_by(Provider::KubeProxy) {
            describe(&mut wrong, look, Provider::KubeProxy);
        }
        if look.is_met_by(Provider::Signpost) {
            if look.case.instead.is_some() {
                on_purpose += 1;
            } else {
                same += 1;
            }
            continue;
        }
        let mut list = NOT_YET.iter();
        match list.position(|not_yet| (not_yet.shows)(look)) {
            Some(entry) => *missing.entry(entry).or_default() += 1,
            None => describe(&mut wrong, look, Provider::Signpost),
        }
    }
    for (entry, not_yet) in NOT_YET.iter().enumerate() {
        let shown = looks.iter().any(|look| (not_yet.shows)(look));
        if of_all && shown && !missing.contains_key(&entry) {
            let what = not_yet.what;
            let _ = writeln!(
                wrong,
                "“{what}” is no longer so: take it off the list of not_yet.rs\n"
            );
        }
    }
    let mut summary = format!(
        "{} looks: {same} agree, {on_purpose} differ on purpose",
        looks.len()
    );
    for (entry, count) in &missing {
        let _ = write!(summary, "; {count} not yet: {}", NOT_YET[*entry].what);
    }
    if wrong.is_empty() {
        Ok(summary)
    } else {
        Err(format!("{summary}\n\n{wrong}"))
    }
}

fn describe(text: &mut String, look: &Look<'_>, who: Provider) {
    let case = look.case;
    let _ = writeln!(
        text,
        "{who:?} in “{}”, step {}: {:?} to {:?} of Service {}, port {}, {:?} {:?}\n  \
         expected:   {:?}\n  kube-proxy: {:?}\n  signpost:   {:?}\n",
        look.scenario.name,
        look.step,
        case.client,
        case.target.at,
        case.target.service,
        case.target.port,
        look.family,
        look.protocol,
        look.expected(who),
        look.seen[&Provider::KubeProxy],
        look.seen[&Provider::Signpost],
    );
}
