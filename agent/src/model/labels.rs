//! Labels of objects. Of most of them nobody ever asks, so they take one piece of memory.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

/// `metadata.labels`: lines of `key=value`, ordered by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(Option<Arc<str>>);

impl Labels {
    /// What an object says. A label that no API server takes is left out.
    pub fn new(labels: Option<&BTreeMap<String, String>>) -> Self {
        let mut text = String::new();
        for (key, value) in labels.into_iter().flatten() {
            let fits = |text: &str| !text.contains(['\n', '=']);
            if fits(key) && fits(value) {
                text.extend([key, "=", value, "\n"]);
            }
        }
        Self((!text.is_empty()).then(|| text.into()))
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let mut lines = self.0.as_deref().unwrap_or_default().lines();
        lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_by_their_whole_key() {
        let labels = [
            ("a", "1"),
            ("a.b/c", ""),
            ("ab", "2"),
            ("x\ny", "3"),
            ("z", "a=b"),
        ];
        let labels: BTreeMap<_, _> = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let labels = Labels::new(Some(&labels));
        assert_eq!(labels.get("a"), Some("1"));
        assert_eq!(labels.get("a.b/c"), Some(""));
        assert_eq!(labels.get("ab"), Some("2"));
        for none in ["", "b", "x", "y", "z", "a.b"] {
            assert_eq!(labels.get(none), None, "{none}");
        }
        assert_eq!(Labels::new(None), Labels::default());
        assert_eq!(Labels::new(Some(&BTreeMap::new())), Labels::default());
    }
}
