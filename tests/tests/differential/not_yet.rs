//! What signpost cannot do yet. Each entry has to be there for a reason: where every look that it names agrees with what
//! is expected, the suite fails, so that the entry is taken off the list.

use crate::run::Look;

/// Something that is missing.
pub(crate) struct NotYet {
    pub(crate) what: &'static str,
    /// Whether a look shows it.
    pub(crate) shows: fn(&Look<'_>) -> bool,
}

/// The list.
pub(crate) const NOT_YET: &[NotYet] = &[];
