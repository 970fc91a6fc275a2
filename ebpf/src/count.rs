//! Counts what goes through each service port, where the operator wants to know.

use signpost_common::flow::{FlowKey, FlowValue};

use crate::{packet::Packet, tables::Tables};

/// A connection was opened.
#[inline(always)]
pub(crate) fn connection(tables: &impl Tables, service: &u32) {
    if !tables.counts_services() {
        return;
    }
    tables.begin_to_count(service);
    tables.count_service(service, |count| count.connections += 1);
}

/// A packet got what its flow says. A masqueraded flow's packets come by twice, and count where the client is.
#[inline(always)]
pub(crate) fn packet<P: Packet>(tables: &impl Tables, packet: &P, direction: u8, flow: &FlowValue) {
    if !tables.counts_services() {
        return;
    }
    let bytes = u64::from(packet.length().saturating_sub(P::IP));
    if flow.flags & FlowValue::FORWARD != 0 {
        tables.count_service(&flow.service, |count| {
            count.packets_in += 1;
            count.bytes_in += bytes;
        });
        return;
    }
    let leaves = direction & FlowKey::OTHER_WAY != 0;
    let masquerades = flow.flags & FlowValue::MASQUERADE != 0;
    if (leaves && !masquerades) || flow.flags & FlowValue::HAIRPIN != 0 {
        tables.count_service(&flow.service, |count| {
            count.packets_out += 1;
            count.bytes_out += bytes;
        });
    }
}
