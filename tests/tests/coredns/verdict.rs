//! What of all the answers is wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use anyhow::{Result, bail, ensure};

use crate::{answer::Answer, on_purpose::ON_PURPOSE, question::Question};

/// How signpost was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// `signpost dns` itself.
    UserSpace,
    /// The cluster's DNS address, where the kernel passed the question on.
    ClusterIp,
    /// The cluster's DNS address, where the kernel answered.
    Kernel,
    /// The cluster's DNS address over TCP.
    Tcp,
}

/// A question and both answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) question: &'a Question,
    pub(crate) way: Way,
    pub(crate) core_dns: &'a Answer,
    pub(crate) signpost: &'a Answer,
}

/// Counts, and what is wrong.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    questions: BTreeSet<(Question, bool)>,
    same: BTreeMap<Way, usize>,
    on_purpose: BTreeMap<usize, usize>,
    wrong: usize,
    /// The first of each kind: way, type, and what differs.
    examples: BTreeMap<(Way, u16, Vec<&'static str>), (usize, String)>,
}

impl Verdict {
    pub(crate) fn add(&mut self, pair: &Pair<'_>) {
        let tcp = pair.way == Way::Tcp;
        self.questions.insert((pair.question.clone(), tcp));
        let both_cut = pair.core_dns.truncated
            && pair.signpost.truncated
            && pair.core_dns.without_records() == pair.signpost.without_records();
        if both_cut || pair.core_dns == pair.signpost {
            *self.same.entry(pair.way).or_default() += 1;
            return;
        }
        // Several differences may meet in one answer.
        let mut expected = pair.core_dns.clone();
        let mut reasons = Vec::new();
        for (number, difference) in ON_PURPOSE.iter().enumerate() {
            if let Some(instead) = (difference.instead)(pair, &expected)
                && instead != expected
            {
                expected = instead;
                reasons.push(number);
            }
        }
        if expected == *pair.signpost {
            for number in reasons {
                *self.on_purpose.entry(number).or_default() += 1;
            }
            return;
        }
        self.wrong += 1;
        let kind = (
            pair.way,
            pair.question.kind,
            expected.differences(pair.signpost),
        );
        let example = self.examples.entry(kind).or_default();
        example.0 += 1;
        if example.0 <= EXAMPLES {
            let _ = writeln!(
                example.1,
                "{:?} {} type {} class {} flags {:04x} {:?}\n  CoreDNS:  {}\n  expected: {expected}\n  signpost: {}",
                pair.way,
                pair.question.text(),
                pair.question.kind,
                pair.question.class,
                pair.question.flags,
                pair.question.edns,
                pair.core_dns,
                pair.signpost,
            );
        }
    }

    /// Different questions that were put, each over UDP to two addresses.
    pub(crate) fn pairs(&self) -> usize {
        self.questions.len()
    }

    pub(crate) fn summary(&self) -> String {
        let mut text = format!("{} different questions\n", self.questions.len());
        for (way, count) in &self.same {
            let _ = writeln!(text, "{count} the same: {way:?}");
        }
        for (number, count) in &self.on_purpose {
            let _ = writeln!(text, "{count} differ: {}", ON_PURPOSE[*number].what);
        }
        text
    }

    /// # Errors
    /// Lists what is wrong: answers that differ, differences that nothing shows, ways that nobody went.
    pub(crate) fn check(&self) -> Result<()> {
        self.check_answers()?;
        for (number, difference) in ON_PURPOSE.iter().enumerate() {
            ensure!(
                self.on_purpose.contains_key(&number),
                "nothing shows a difference on purpose: {}",
                difference.what
            );
        }
        for way in [Way::UserSpace, Way::ClusterIp, Way::Kernel, Way::Tcp] {
            ensure!(self.same.get(&way) > Some(&100), "{way:?} was not tested");
        }
        Ok(())
    }

    /// # Errors
    /// Lists the answers that differ.
    pub(crate) fn check_answers(&self) -> Result<()> {
        if self.wrong > 0 {
            let mut text = format!("{} answers differ\n", self.wrong);
            for (count, example) in self.examples.values() {
                let _ = writeln!(text, "{count} like\n{example}");
            }
            bail!(text);
        }
        Ok(())
    }
}

/// How many examples of a kind are shown.
const EXAMPLES: usize = 2;
