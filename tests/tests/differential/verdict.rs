//! What of all that was seen is wrong.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    on_purpose,
    run::Look,
    world::{Mode, Provider},
};

/// Sums up; an error lists everything that is not as expected. Where these are the looks of all scenarios, each
/// difference of the mode has to show.
pub(crate) fn on(mode: Mode, looks: &[Look<'_>], of_all: bool) -> Result<String, String> {
    let differences = on_purpose::of(mode);
    let mut wrong = String::new();
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    let mut same = 0;
    for look in looks {
        if !look.is_met_by(Provider::KubeProxy) {
            describe(&mut wrong, look, Provider::KubeProxy);
        }
        if !look.is_met_by(Provider::Signpost) {
            describe(&mut wrong, look, Provider::Signpost);
            continue;
        }
        if let Some(said) = &look.witness {
            describe(&mut wrong, look, Provider::Signpost);
            let _ = writeln!(wrong, "  {said}\n");
        }
        let counting = on_purpose::counting(look, &look.seen[&Provider::KubeProxy]);
        same += usize::from(counting.is_empty());
        for difference in counting {
            *counts.entry(difference).or_default() += 1;
        }
    }
    for (number, difference) in differences.iter().enumerate() {
        if of_all && !counts.contains_key(&number) {
            let why = difference.why;
            let _ = writeln!(wrong, "nothing shows a difference on purpose: {why}\n");
        }
    }
    let mut summary = format!("{} looks: {same} agree", looks.len());
    for (number, count) in &counts {
        let _ = write!(summary, "\n{count} differ: {}", differences[*number].why);
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
