//! Attributes of netlink messages as nftables has them: numbers in network byte order, texts with a zero at the end.

use netlink_packet_core::{DefaultNla, Emitable as _, NLA_F_NESTED};

/// A value, as it is in registers.
pub(super) fn data(kind: u16, value: &[u8]) -> DefaultNla {
    nested(kind, &[nla(1, value)])
}

/// A number.
pub(super) fn word(kind: u16, value: u32) -> DefaultNla {
    nla(kind, &value.to_be_bytes())
}

/// A name.
pub(super) fn text(kind: u16, text: &str) -> DefaultNla {
    let mut value = text.as_bytes().to_vec();
    value.push(0);
    nla(kind, &value)
}

/// Bytes.
pub(super) fn nla(kind: u16, value: &[u8]) -> DefaultNla {
    DefaultNla::new(kind, value.to_vec())
}

/// Attributes within one.
pub(super) fn nested(kind: u16, parts: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; parts.buffer_len()];
    parts.emit(&mut value);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}
