//! Names to ask for: those that exist, and what people and attackers make of them. In wire form.

use proptest::prelude::*;
use signpost::zone::Name;

use super::cluster::LABELS;

/// Names around those that are known.
pub(crate) fn around(known: Vec<Name>) -> impl Strategy<Value = Vec<u8>> {
    let labels = prop_oneof![
        4 => prop::sample::select(known).prop_map(|name| name.labels().map(<[u8]>::to_vec).collect()),
        2 => composed(),
    ];
    let upper = prop_oneof![2 => Just(0), 3 => any::<u64>()];
    (labels, change(), upper).prop_map(|(mut labels, change, upper)| {
        change.make(&mut labels);
        let mut name: Vec<u8> = labels
            .iter()
            .flat_map(|label| std::iter::once(label.len() as u8).chain(label.iter().copied()))
            .collect();
        // Letter case as resolvers mix it; a label's length is no letter.
        let mut at = 0;
        while at < name.len() {
            let end = (at + 1 + usize::from(name[at])).min(name.len());
            for (n, byte) in name[at + 1..end].iter_mut().enumerate() {
                if upper >> ((at + n) % 64) & 1 == 1 {
                    byte.make_ascii_uppercase();
                }
            }
            at = end;
        }
        name.push(0);
        name
    })
}

/// A name out of labels that exist somewhere.
fn composed() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let label = prop::sample::select(&LABELS[..]);
    let suffix = prop::sample::select(vec![
        "svc cluster local",
        "svc cluster local",
        "pod cluster local",
        "cluster local",
        "local",
        "",
    ]);
    (prop::collection::vec(label, 0..6), suffix).prop_map(|(left, suffix)| {
        left.into_iter()
            .chain(suffix.split_whitespace())
            .map(|label| label.as_bytes().to_vec())
            .collect()
    })
}

/// What is done to a name.
#[derive(Clone, Debug)]
enum Change {
    Nothing,
    /// Labels put before it.
    Prefix(Vec<Vec<u8>>),
    /// The first label is gone.
    Cut,
    /// A byte of a label is another one.
    Typo(prop::sample::Index, prop::sample::Index, u8),
    /// Two labels are one, with a dot in it.
    Joined,
    /// A label is empty, which ends the name early.
    Empty(prop::sample::Index),
    /// A label is so long.
    Long(prop::sample::Index, usize),
    /// So many labels of this length before it.
    Many(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let label = prop_oneof![
        3 => prop::sample::select(&LABELS[..]).prop_map(|label| label.as_bytes().to_vec()),
        1 => prop::sample::select(vec!["_http", "_tcp", "com", "10-0-0-1", "dns-version", "_main", "_", "main", "ns"])
            .prop_map(|label| label.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..8),
    ];
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => Just(Change::Nothing),
        3 => prop::collection::vec(label, 1..5).prop_map(Change::Prefix),
        1 => Just(Change::Cut),
        2 => (index(), index(), any::<u8>()).prop_map(|(a, b, c)| Change::Typo(a, b, c)),
        1 => Just(Change::Joined),
        1 => index().prop_map(Change::Empty),
        1 => (index(), 60..66_usize).prop_map(|(at, length)| Change::Long(at, length)),
        1 => (1..36_usize, 1..40_usize).prop_map(|(count, length)| Change::Many(count, length)),
    ]
}

impl Change {
    fn make(self, labels: &mut Vec<Vec<u8>>) {
        match self {
            Self::Prefix(prefix) => drop(labels.splice(0..0, prefix)),
            Self::Many(count, length) => {
                labels.splice(0..0, vec![vec![b'x'; length]; count]);
            }
            _ if labels.is_empty() => {}
            Self::Nothing => {}
            Self::Cut => drop(labels.remove(0)),
            Self::Typo(label, at, byte) => {
                let label = label.get_mut(labels);
                if let Some(changed) = label.len().checked_sub(1).map(|_| at.index(label.len())) {
                    label[changed] = byte;
                }
            }
            Self::Joined => {
                let first = labels.remove(0);
                match labels.first_mut() {
                    Some(second) => *second = [&first[..], b".", second].concat(),
                    None => labels.push(first),
                }
            }
            Self::Empty(label) => label.get_mut(labels).clear(),
            Self::Long(label, length) => *label.get_mut(labels) = vec![b'x'; length],
        }
    }
}
