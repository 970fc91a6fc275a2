//! Negative answers: only where it is proven that a name does not exist.

use core::ptr::{read_volatile, write_volatile};

use signpost_common::{
    Cause,
    dns::{Config, NameValue, SOA_LENGTH, SOA_POINTERS},
};

use super::{
    LABELS, Scratch,
    answer::{self, Records},
    question::DNS,
};
use crate::{packet::Packet, sum::Sum, tables::Tables};

/// Proves that a name of the zone with `labels` labels, which is not in the map itself, does not exist.
///
/// The proof goes from the zone to the left, by the suffixes of the name: what is not in the map under the zone, a
/// namespace or a Service that is missing, what is more than two labels left of a Service, and what is one label left of a
/// Service whose endpoints are all in the map. Else one label left of a Service may be an endpoint, and two may be a
/// port; these, and everything whose entry does not say what it is, are user space's.
///
/// # Errors
/// [`Cause::DnsUnproven`].
#[inline(never)]
pub fn prove<T: Tables>(
    tables: &T,
    config: &Config,
    scratch: &Scratch,
    labels: u16,
) -> Result<(), Cause> {
    let zone = config.zone.labels;
    let below = labels - zone;
    // The leftmost label under the zone: `svc` is known without a look-up.
    let services = suffix(scratch, zone + 1);
    if below == 0 {
        return Err(Cause::DnsUnproven); // the zone itself is always in the map
    }
    if services != config.services {
        return if below == 1 || tables.name(&services).is_none() {
            Ok(())
        } else {
            Err(Cause::DnsUnproven)
        };
    }
    if below == 1 {
        return Err(Cause::DnsUnproven); // and so is `svc`
    }
    if below == 2 {
        return Ok(()); // a namespace that is not there
    }
    let Some(namespace) = tables.name(&suffix(scratch, zone + 2)) else {
        return Ok(());
    };
    if namespace.flags & NameValue::NAMESPACE == 0 {
        return Err(Cause::DnsUnproven);
    }
    if below == 3 {
        return Ok(()); // a Service that is not there
    }
    let Some(service) = tables.name(&suffix(scratch, zone + 3)) else {
        return Ok(());
    };
    let flags = service.flags;
    if flags & NameValue::SERVICE != 0
        && (below > 5 || flags & NameValue::LISTED != 0 && below == 4)
    {
        Ok(())
    } else {
        Err(Cause::DnsUnproven)
    }
}

/// Whether a name is below a Service that is not in the map. There are no names below what is not there, so the name
/// itself does not have to be looked up: most of the questions that a search list makes are of this kind.
#[inline(always)]
pub fn is_orphan<T: Tables>(tables: &T, config: &Config, scratch: &Scratch, labels: u16) -> bool {
    let zone = config.zone.labels;
    labels > zone + 3
        && suffix(scratch, zone + 1) == config.services
        && tables.name(&suffix(scratch, zone + 3)).is_none()
}

/// Writes a negative answer's SOA record (RFC 2308), whose names end in the question's own zone part.
/// [`answer::finish`] has to follow.
///
/// # Errors
/// [`Cause::DnsNotInSync`] where the agent's knowledge is too old for a negative answer, and those of writing.
#[inline(never)]
pub fn write<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    config: &Config,
    scratch: &mut Scratch,
    rcode: u16,
) -> Result<(), Cause> {
    let in_sync_at = tables.in_sync_at();
    let grace = config.negative_grace as u64 * 1_000_000_000;
    if in_sync_at == 0 || tables.now().saturating_sub(in_sync_at) > grace {
        return Err(Cause::DnsNotInSync);
    }
    let zone_label = scratch.question.labels - config.zone.labels;
    let zone_at = scratch.starts[zone_label as usize & (LABELS - 1)];
    let pointer = (0xc000 | (DNS as u16 + zone_at)).to_be_bytes();
    copy_words(&mut scratch.soa, &config.soa);
    let mut sum = Sum::default();
    for at in SOA_POINTERS {
        scratch.soa[at] = pointer[0];
        scratch.soa[at + 1] = pointer[1];
    }
    // With the two zero bytes behind it: they add nothing.
    for word in bytemuck::cast::<[u8; 56], [u32; 14]>(scratch.soa) {
        sum = sum.add32(word);
    }
    let records = Records {
        length: SOA_LENGTH as u16,
        answers: 0,
        authorities: 1,
        additional: 0,
        flags: answer::ANSWER_FLAGS | rcode,
        sum,
    };
    let at = answer::make_room(packet, scratch, &records)?;
    scratch.records = records;
    packet.store_part(at, &scratch.soa, 0, SOA_LENGTH as u32)
}

/// In long words; for an assignment the compiler would move byte after byte.
#[inline(always)]
fn copy_words(to: &mut [u8; 56], from: &[u8; 56]) {
    let mut at = 0;
    while at < 56 {
        // SAFETY: inside both; the machines that the programs run on load and store words at any address, and where
        // the scratch area and the configuration have it is a multiple of four.
        unsafe {
            let word = read_volatile(from.as_ptr().add(at).cast::<u32>());
            write_volatile(to.as_mut_ptr().add(at).cast::<u32>(), word);
        }
        at += 4;
    }
}

#[inline(always)]
fn suffix(scratch: &Scratch, labels: u16) -> signpost_common::name::NameKey {
    scratch.suffixes[labels as usize & (LABELS - 1)]
}
