//! The filter in front of the addresses: see [`signpost_common::filter`].

use std::io;

use signpost_common::{Address, dns::Network, filter};

use super::super::tables::{Destinations, Tables};

/// What is written of it. Nothing is ever taken out: an agent before this one, or a Service that is gone, may have flows.
#[derive(Debug, Default)]
pub(super) struct DestinationFilter {
    written: Option<Box<filter::Destinations>>,
}

impl DestinationFilter {
    /// Makes sure that the programs look at packets to these addresses.
    ///
    /// # Errors
    /// Where the map cannot be read or written.
    pub(super) fn cover<'a>(
        &mut self,
        tables: &mut impl Tables,
        addresses: impl IntoIterator<Item = &'a Address>,
    ) -> io::Result<()> {
        let new = addresses.into_iter().filter(|address| {
            let written = self.written.as_ref();
            written.is_none_or(|written| !written.has(address))
        });
        let new: Vec<&Address> = new.collect();
        if new.is_empty() {
            return Ok(());
        }
        self.change(tables, |filter| {
            new.into_iter().for_each(|address| filter.cover(address));
        })
    }

    /// The same for all addresses of these networks.
    ///
    /// # Errors
    /// As [`DestinationFilter::cover`].
    pub(super) fn cover_networks(
        &mut self,
        tables: &mut impl Tables,
        networks: &[Network],
    ) -> io::Result<()> {
        self.change(tables, |filter| {
            networks
                .iter()
                .for_each(|network| filter.cover_network(network));
        })
    }

    fn change(
        &mut self,
        tables: &mut impl Tables,
        change: impl FnOnce(&mut filter::Destinations),
    ) -> io::Result<()> {
        // Should writing fail, it is not known what is written: it is read again the next time.
        let written = match self.written.take() {
            Some(written) => written,
            None => read(tables)?,
        };
        let mut wanted = written.clone();
        change(&mut wanted);
        let words = wanted.words().iter().zip(written.words());
        let changed: Vec<(u32, u64)> = (0..)
            .zip(words)
            .filter(|(_, (word, written))| word != written)
            .map(|(index, (word, _))| (index, *word))
            .collect();
        if let Some(failed) = tables.put::<Destinations>(&changed).pop() {
            return Err(failed.error);
        }
        self.written = Some(wanted);
        Ok(())
    }
}

fn read(tables: &impl Tables) -> io::Result<Box<filter::Destinations>> {
    let mut found = Box::<filter::Destinations>::default();
    tables.for_each::<Destinations>(&mut |index, bits| found.add(*index, *bits))?;
    Ok(found)
}
