//! Elements of one map that are written together, each for somebody.

use std::io;

use super::super::tables::{NotWritten, Table, Tables};
use crate::dataplane::Report;

/// Elements to write, and for whom: a number that the caller gives.
#[derive(Debug)]
pub(super) struct Batch<T: Table> {
    elements: Vec<(T::Key, T::Value)>,
    owners: Vec<usize>,
}

impl<T: Table> Batch<T> {
    /// Without elements.
    pub(super) fn new() -> Self {
        Self {
            elements: Vec::new(),
            owners: Vec::new(),
        }
    }

    /// Adds an element.
    pub(super) fn push(&mut self, owner: usize, key: T::Key, value: T::Value) {
        self.elements.push((key, value));
        self.owners.push(owner);
    }

    /// The keys of all.
    pub(super) fn keys(&self) -> impl Iterator<Item = &T::Key> {
        self.elements.iter().map(|(key, _)| key)
    }

    /// Writes all; returns whose elements were not written, with their keys.
    pub(super) fn write(
        self,
        tables: &mut impl Tables,
        report: &mut Report,
    ) -> Vec<(usize, T::Key, NotWritten)> {
        if self.elements.is_empty() {
            return Vec::new();
        }
        let failed = tables.put::<T>(&self.elements);
        report.written += self.elements.len() - failed.len();
        let owner = |failed: NotWritten| {
            (
                self.owners[failed.index],
                self.elements[failed.index].0,
                failed,
            )
        };
        failed.into_iter().map(owner).collect()
    }
}

/// Deletes elements.
///
/// # Errors
/// As [`Tables::delete`].
pub(super) fn delete<T: Table>(
    tables: &mut impl Tables,
    keys: &[T::Key],
    report: &mut Report,
) -> io::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    report.deleted += keys.len();
    tables.delete::<T>(keys)
}
