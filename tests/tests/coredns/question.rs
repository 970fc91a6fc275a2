//! A question on the wire.

/// A question. Names are labels, because some of them cannot be written with dots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Question {
    pub(crate) name: Vec<Vec<u8>>,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    /// Opcode and flags.
    pub(crate) flags: u16,
    pub(crate) edns: Option<Edns>,
}

/// An OPT record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Edns {
    pub(crate) size: u16,
    pub(crate) version: u8,
    pub(crate) dnssec_ok: bool,
    pub(crate) options: Vec<u8>,
}

/// Recursion desired.
pub(crate) const RD: u16 = 0x0100;

impl Question {
    pub(crate) fn new(name: &str, kind: u16) -> Self {
        let labels = name.split('.').filter(|label| !label.is_empty());
        Self {
            name: labels.map(|label| label.as_bytes().to_vec()).collect(),
            kind,
            class: 1,
            flags: RD,
            edns: None,
        }
    }

    pub(crate) fn edns(mut self, size: u16) -> Self {
        self.edns = Some(Edns {
            size,
            version: 0,
            dnssec_ok: false,
            options: Vec::new(),
        });
        self
    }

    /// The bytes of the question section.
    pub(crate) fn section(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for label in &self.name {
            bytes.push(u8::try_from(label.len()).expect("a label"));
            bytes.extend(label);
        }
        bytes.push(0);
        bytes.extend(self.kind.to_be_bytes());
        bytes.extend(self.class.to_be_bytes());
        bytes
    }

    /// The message, with zero as its identification.
    pub(crate) fn message(&self) -> Vec<u8> {
        let mut bytes = vec![0, 0];
        bytes.extend(self.flags.to_be_bytes());
        for count in [1, 0, 0, u16::from(self.edns.is_some())] {
            bytes.extend(u16::to_be_bytes(count));
        }
        bytes.extend(self.section());
        if let Some(edns) = &self.edns {
            bytes.extend([0, 0, 41]);
            bytes.extend(edns.size.to_be_bytes());
            bytes.extend([0, edns.version, u8::from(edns.dnssec_ok) << 7, 0]);
            let length = u16::try_from(edns.options.len()).expect("few options");
            bytes.extend(length.to_be_bytes());
            bytes.extend(&edns.options);
        }
        bytes
    }

    /// The name with dots, in small letters. Bytes that are not printed are escaped.
    pub(crate) fn text(&self) -> String {
        let labels = self
            .name
            .iter()
            .map(|label| label.escape_ascii().to_string());
        labels.collect::<Vec<_>>().join(".").to_lowercase()
    }

    /// Whether some of its letters are capital ones.
    pub(crate) fn has_capitals(&self) -> bool {
        self.name.concat().iter().any(u8::is_ascii_uppercase)
    }

    /// Labels below the cluster's zone, from the zone to the left, in small letters; `None` for other names.
    pub(crate) fn below_zone(&self) -> Option<Vec<String>> {
        let mut labels: Vec<String> = self
            .name
            .iter()
            .rev()
            .map(|label| label.escape_ascii().to_string().to_lowercase())
            .collect();
        if labels.len() < 2 || labels[0] != "local" || labels[1] != "cluster" {
            return None;
        }
        Some(labels.split_off(2))
    }
}
