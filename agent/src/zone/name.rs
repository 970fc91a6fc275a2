//! Names in wire form.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use signpost_common::name::{MAX_LABEL, MAX_NAME};

/// A name in wire form (RFC 1035 §3.1), lower-cased, without the root's zero byte. As text it is written without
/// final dot, with the escapes of RFC 1035 §5.1; the root is `.`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Name(Box<[u8]>);

/// A text that is not a DNS name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a DNS name: labels have 1 to 63 bytes, the whole name at most 253")]
pub struct NotAName(String);

impl Name {
    /// From wire form with or without the final zero, any letter case. `None` where it is malformed (a label longer
    /// than 63 bytes, a name longer than 255, a compression pointer).
    pub fn from_wire(wire: &[u8]) -> Option<Self> {
        let mut at = 0;
        while let Some(&length) = wire.get(at) {
            if length == 0 {
                break;
            }
            if usize::from(length) > MAX_LABEL {
                return None;
            }
            at += usize::from(length) + 1;
        }
        if at >= MAX_NAME || at > wire.len() || (at < wire.len() && at + 1 != wire.len()) {
            return None;
        }
        Some(Self(wire[..at].to_ascii_lowercase().into()))
    }

    /// From text such as `cluster.local` or `ent.prod.svc.cluster.local.`
    pub fn from_text(text: &str) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        let mut wire = Vec::with_capacity(text.len() + 1);
        let mut label = Vec::new();
        let mut bytes = text.bytes();
        let end = |label: &mut Vec<u8>, wire: &mut Vec<u8>| {
            let length = u8::try_from(label.len()).ok().filter(|&l| l > 0)?;
            wire.push(length);
            wire.append(label);
            Some(())
        };
        while let Some(byte) = bytes.next() {
            match byte {
                b'.' if text.len() == 1 => {}
                b'.' => end(&mut label, &mut wire)?,
                b'\\' => label.push(escaped(&mut bytes)?),
                byte => label.push(byte),
            }
        }
        if !label.is_empty() {
            end(&mut label, &mut wire)?;
        }
        Self::from_wire(&wire)
    }

    /// Wire form, lower-cased, without the final zero.
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// The labels, from the left.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.0;
        std::iter::from_fn(move || {
            let (&length, after) = rest.split_first()?;
            let (label, after) = after.split_at_checked(length.into())?;
            rest = after;
            Some(label)
        })
    }

    /// The name with one more label on its left. `None` where the label is empty or too long, or the name gets too
    /// long.
    pub fn child(&self, label: impl AsRef<[u8]>) -> Option<Self> {
        let label = label.as_ref();
        if label.is_empty() || label.len() > MAX_LABEL || self.0.len() + label.len() + 2 > MAX_NAME
        {
            return None;
        }
        let mut wire = Vec::with_capacity(self.0.len() + label.len() + 1);
        wire.push(label.len() as u8);
        wire.extend(label.iter().map(u8::to_ascii_lowercase));
        wire.extend_from_slice(&self.0);
        Some(Self(wire.into()))
    }

    /// Whether the name is at or below one of these.
    pub fn is_in<'a>(&self, zones: impl IntoIterator<Item = &'a Self>) -> bool {
        let mut zones = zones.into_iter();
        zones.any(|zone| self.below(zone).is_some())
    }

    /// The labels left of `zone`, from the right: the one nearest to the zone first. `None` where the name is not in
    /// the zone.
    pub fn below(&self, zone: &Self) -> Option<Vec<&[u8]>> {
        let left = self.0.len().checked_sub(zone.0.len())?;
        if self.0[left..] != *zone.0 {
            return None;
        }
        let mut labels = Vec::new();
        let mut length = 0;
        for label in self.labels() {
            if length == left {
                break;
            }
            length += label.len() + 1;
            labels.push(label);
        }
        // Otherwise the zone's bytes begin inside a label.
        (length == left).then(|| {
            labels.reverse();
            labels
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(".");
        }
        for (n, label) in self.labels().enumerate() {
            if n > 0 {
                f.write_str(".")?;
            }
            for &byte in label {
                match byte {
                    b'.' | b'\\' | b'"' | b';' | b'(' | b')' | b'@' | b'$' => {
                        write!(f, "\\{}", char::from(byte))?;
                    }
                    b'!'..=b'~' => write!(f, "{}", char::from(byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
        }
        Ok(())
    }
}

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        Self::from_text(text).ok_or_else(|| NotAName(text.to_owned()))
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for Name {
    type Error = NotAName;

    fn try_from(text: String) -> Result<Self, NotAName> {
        text.parse()
    }
}

fn escaped(bytes: &mut std::str::Bytes<'_>) -> Option<u8> {
    let first = bytes.next()?;
    if !first.is_ascii_digit() {
        return Some(first);
    }
    [first, bytes.next()?, bytes.next()?]
        .iter()
        .try_fold(0u8, |sum, digit| {
            sum.checked_mul(10)?
                .checked_add(digit.checked_sub(b'0').filter(|d| *d < 10)?)
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_and_wire_form_are_the_same_name() {
        let name = Name::from_text("Ent.prod.").unwrap();
        assert_eq!(name.wire(), b"\x03ent\x04prod");
        assert_eq!(Name::from_wire(b"\x03ENT\x04prod\0"), Some(name.clone()));
        assert_eq!(name.to_string(), "ent.prod");
        assert_eq!(Name::from_text("."), Some(Name::default()));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "..", ".a", "a..b", "a\\", "a\\25", "a\\256", "a\\2x5"] {
            assert_eq!(Name::from_text(text), None, "{text}");
        }
        let label = "a".repeat(63);
        assert!(Name::from_text(&format!("{label}.{label}.{label}.{}", &label[..61])).is_some());
        assert_eq!(
            Name::from_text(&format!("{label}.{label}.{label}.{}", &label[..62])),
            None
        );
        assert_eq!(Name::from_text(&"a".repeat(64)), None);
        for wire in [
            b"\x03ab".as_slice(),
            b"\xc0\x0c",
            b"\x01a\0\x01b",
            b"\x01a\0\0",
        ] {
            assert_eq!(Name::from_wire(wire), None, "{wire:?}");
        }
    }

    #[test]
    fn a_name_is_below_a_zone_at_a_label_border_only() {
        let zone = Name::from_text("cluster.local").unwrap();
        let below = |text| Name::from_text(text).unwrap().below(&zone).map(|l| l.len());
        assert_eq!(below("cluster.local"), Some(0));
        assert_eq!(below("ent.dev.svc.cluster.local"), Some(3));
        assert_eq!(below("cluster.locale"), None);
        assert_eq!(below("local"), None);
        // A label whose last bytes look like the zone.
        let fake = Name::from_wire(b"\x0ex\x07cluster\x05local").unwrap_or_default();
        assert_eq!(fake.below(&zone), None);
    }

    proptest! {
        #[test]
        fn text_leads_back_to_the_name(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..8)) {
            let name = labels.iter().try_fold(Name::default(), |n, l| n.child(l)).unwrap();
            prop_assert_eq!(Name::from_text(&name.to_string()), Some(name));
        }
    }
}
