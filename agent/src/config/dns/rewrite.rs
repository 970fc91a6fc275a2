//! Names that stand for others: the name rules of CoreDNS's plugin `rewrite`.

use serde::{Deserialize, Serialize};

use super::is_default;
use crate::zone::rewrite::{AnswerRule, Pattern, Rewrite, Rule};

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RewriteRule {
    /// How names are told.
    #[serde(rename = "match", default)]
    pub kind: MatchKind,
    /// Which names.
    pub from: String,
    /// What they become; `{1}` is what the first group of a regular expression matched.
    pub to: String,
    /// Names in answers become again what was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Auto>,
    /// What becomes of owners in answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answer_names: Vec<AnswerRewrite>,
    /// What becomes of names in the data of answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answer_values: Vec<AnswerRewrite>,
    /// The rules after this one are tried too.
    #[serde(rename = "continue", default, skip_serializing_if = "is_default")]
    pub goes_on: bool,
}

/// How names are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MatchKind {
    /// The whole name.
    #[default]
    Exact,
    /// Its beginning.
    Prefix,
    /// Its end.
    Suffix,
    /// Any part of it.
    Substring,
    /// A regular expression that matches somewhere in it.
    Regex,
}

/// The only value of `answer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Auto {
    /// Names in answers become again what was asked for.
    Auto,
}

/// What becomes of names in answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AnswerRewrite {
    /// A regular expression.
    pub from: String,
    /// What the name becomes.
    pub to: String,
}

impl RewriteRule {
    /// Whether it is a rule.
    ///
    /// # Errors
    /// The key that is wrong, and why.
    pub fn check(&self) -> Result<(), String> {
        let wrong = |(key, why): (String, String)| format!("{key}: {why}");
        self.rule().map(|_| ()).map_err(wrong)
    }

    /// The rule as the zone has it.
    ///
    /// # Errors
    /// The key that is wrong, and why.
    pub(super) fn rule(&self) -> Result<Rewrite, (String, String)> {
        let (from, to) = (self.from.to_lowercase(), self.to.to_lowercase());
        if from.is_empty() {
            return Err(("from".to_owned(), "is empty".to_owned()));
        }
        let dotted = |text: String| {
            if text.ends_with('.') {
                text
            } else {
                text + "."
            }
        };
        let rule = match self.kind {
            MatchKind::Exact => Rule::Exact(dotted(from), dotted(to)),
            MatchKind::Suffix => Rule::Suffix(dotted(from), dotted(to)),
            MatchKind::Prefix => Rule::Prefix(from, to),
            MatchKind::Substring => Rule::Substring(from, to),
            // Its letters are its own: a capital letter may be a class.
            MatchKind::Regex => {
                let pattern =
                    pattern(&self.from, &self.to).map_err(|(key, why)| (key.to_owned(), why))?;
                Rule::Regex(pattern, dotted(to))
            }
        };
        let mut answers = Vec::new();
        for (value, key, rules) in [
            (false, "answerNames", &self.answer_names),
            (true, "answerValues", &self.answer_values),
        ] {
            for (index, rule) in rules.iter().enumerate() {
                let from = pattern(&rule.from, &rule.to)
                    .map_err(|(part, why)| (format!("{key}[{index}].{part}"), why))?;
                let to = dotted(rule.to.to_lowercase());
                answers.push(AnswerRule { value, from, to });
            }
        }
        Ok(Rewrite {
            rule,
            auto: self.answer.is_some(),
            answers,
            goes_on: self.goes_on,
        })
    }
}

fn pattern(from: &str, to: &str) -> Result<Pattern, (&'static str, String)> {
    let pattern = Pattern::new(from).map_err(|error| {
        let reason = error.to_string();
        let reason = reason.lines().last().unwrap_or_default();
        (
            "from",
            format!("{from:?} is no regular expression: {reason}"),
        )
    })?;
    let groups = pattern.groups();
    match (1..=100).find(|group| *group > groups && to.contains(&format!("{{{group}}}"))) {
        Some(group) => Err((
            "to",
            format!("{to:?} uses group {group}, and {from:?} has {groups}"),
        )),
        None => Ok(pattern),
    }
}
