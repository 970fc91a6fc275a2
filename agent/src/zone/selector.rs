//! Label selectors, as `kubectl` and CoreDNS's `labels` write them
//! (<https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>).

use std::{collections::BTreeSet, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::model::Labels;

/// A label selector. The default one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector {
    text: String,
    /// All of them must hold.
    requirements: Vec<Requirement>,
}

/// What is required of one label.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    must: Must,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Must {
    Exist,
    NotExist,
    Equal(BTreeSet<String>),
    /// What has no such label is none of them.
    Differ(BTreeSet<String>),
}

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no label selector: write key, !key, key=value, key!=value, key in (a,b) or key notin (a,b), with commas between"
)]
pub struct NoSelector(String);

impl Selector {
    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|Requirement { key, must }| {
            let value = labels.get(key);
            match must {
                Must::Exist => value.is_some(),
                Must::NotExist => value.is_none(),
                Must::Equal(values) => value.is_some_and(|value| values.contains(value)),
                Must::Differ(values) => value.is_none_or(|value| !values.contains(value)),
            }
        })
    }

    /// Whether it selects everything.
    pub const fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

impl FromStr for Selector {
    type Err = NoSelector;

    fn from_str(text: &str) -> Result<Self, NoSelector> {
        let text = text.trim();
        let mut requirements = Vec::new();
        if !text.is_empty() {
            for part in parts(text) {
                let wrong = || NoSelector(part.trim().to_owned());
                requirements.push(requirement(part.trim()).ok_or_else(wrong)?);
            }
        }
        Ok(Self {
            text: text.to_owned(),
            requirements,
        })
    }
}

impl TryFrom<String> for Selector {
    type Error = NoSelector;

    fn try_from(text: String) -> Result<Self, NoSelector> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        selector.text
    }
}

/// What is between commas that are not in brackets.
fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut from, mut inside) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            '(' => inside = true,
            ')' => inside = false,
            ',' if !inside => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts
}

fn requirement(text: &str) -> Option<Requirement> {
    let (key, must) = if let Some(key) = text.strip_prefix('!') {
        (key, Must::NotExist)
    } else if let Some((left, list)) = text.split_once('(') {
        let values = list.strip_suffix(')')?.split(',').map(value);
        let values = values.collect::<Option<_>>()?;
        let mut words = left.split_whitespace();
        let (key, operator, None) = (words.next()?, words.next()?, words.next()) else {
            return None;
        };
        match operator {
            "in" => (key, Must::Equal(values)),
            "notin" => (key, Must::Differ(values)),
            _ => return None,
        }
    } else if let Some((key, other)) = text.split_once("!=") {
        (key, Must::Differ([value(other)?].into()))
    } else if let Some((key, one)) = text.split_once('=') {
        let one = one.strip_prefix('=').unwrap_or(one);
        (key, Must::Equal([value(one)?].into()))
    } else {
        (text, Must::Exist)
    };
    let key = key.trim();
    is_key(key).then(|| Requirement {
        key: key.to_owned(),
        must,
    })
}

/// A label's value: nothing, or what may also be a name.
fn value(text: &str) -> Option<String> {
    let text = text.trim();
    (text.is_empty() || is_name(text)).then(|| text.to_owned())
}

fn is_key(key: &str) -> bool {
    let (prefix, name) = key.rsplit_once('/').unwrap_or(("x", key));
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        label.bytes().all(|b| inner(b) || b == b'-')
            && label.bytes().next().is_some_and(inner)
            && label.bytes().next_back().is_some_and(inner)
    };
    is_name(name) && prefix.len() <= 253 && prefix.split('.').all(is_label)
}

fn is_name(text: &str) -> bool {
    let outer = |byte: u8| byte.is_ascii_alphanumeric();
    text.len() <= 63
        && text.bytes().all(|b| outer(b) || b"-_.".contains(&b))
        && text.bytes().next().is_some_and(outer)
        && text.bytes().next_back().is_some_and(outer)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn labels(text: &str) -> Labels {
        let pairs = text
            .split_whitespace()
            .filter_map(|pair| pair.split_once('='));
        let pairs = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        Labels::new(Some(&pairs))
    }

    #[rstest]
    #[case("", &["", "a=1"], &[])]
    #[case("a", &["a=", "a=1 b=2"], &["", "b=1"])]
    #[case("!a", &["", "b=1"], &["a=", "a=1"])]
    #[case("a=1", &["a=1"], &["", "a=2", "b=1"])]
    #[case("a==1", &["a=1"], &["a=2"])]
    #[case("a=", &["a="], &["", "a=1"])]
    #[case("a!=1", &["", "a=2"], &["a=1"])]
    #[case("a in (1, 2)", &["a=1", "a=2"], &["", "a=3"])]
    #[case("a in (1,)", &["a=1", "a="], &[""])]
    #[case("a  notin  ( 1,2 )", &["", "a=3"], &["a=1", "a=2"])]
    #[case("environment in (staging, qa),application=nginx", &["environment=qa application=nginx"],
        &["environment=qa", "application=nginx", "environment=prod application=nginx"])]
    #[case(" a = 1 , !b ", &["a=1"], &["a=1 b="])]
    #[case("kubernetes.io/metadata.name=dev", &["kubernetes.io/metadata.name=dev"], &["metadata.name=dev"])]
    fn objects_are_selected_by_their_labels(
        #[case] selector: &str,
        #[case] some: &[&str],
        #[case] others: &[&str],
    ) {
        let selector: Selector = selector.parse().unwrap();
        for text in some {
            assert!(selector.matches(&labels(text)), "{text}");
        }
        for text in others {
            assert!(!selector.matches(&labels(text)), "{text}");
        }
    }

    #[rstest]
    #[case(",")]
    #[case("a,")]
    #[case("a in 1")]
    #[case("a in (1")]
    #[case("a within (1)")]
    #[case("in (1)")]
    #[case("a b")]
    #[case("a=b c")]
    #[case("a>1")]
    #[case("-a")]
    #[case("A.b/c/d")]
    #[case("a=_")]
    fn what_is_no_selector_is_refused(#[case] text: &str) {
        let error = text.parse::<Selector>().unwrap_err();
        assert!(
            error.to_string().contains("is no label selector"),
            "{error}"
        );
    }
}
