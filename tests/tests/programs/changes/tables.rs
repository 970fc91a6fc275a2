//! The maps, compared.

use std::collections::{BTreeMap, BTreeSet};

use bytemuck::bytes_of;
use signpost::dataplane::ebpf::tables::{
    Addresses, Configs, Frontends, LargeAnswers, Members, NameTexts, Names, Services, Slots,
    SmallAnswers, SourceRanges, Table,
};
use signpost_common::service::{FrontendValue, MemberKey, RangeKey, SlotValue};
pub(crate) use signpost_fuzz::maps::Maps;

/// Every element without what depends on how it came about: the numbers of service ports and of generations.
pub(crate) fn canonical(maps: &Maps) -> BTreeSet<String> {
    let names: BTreeMap<u32, String> = maps
        .all::<Services>()
        .map(|(id, value)| {
            let text = |bytes: &[u8]| {
                String::from_utf8_lossy(bytes)
                    .trim_end_matches('\0')
                    .to_owned()
            };
            let (name, port) = (text(&value.name), text(&value.port_name));
            (
                id,
                format!("{name}:{port}/{}/{}", value.protocol, value.family),
            )
        })
        .collect();
    let named = |id: u32| names.get(&id).map_or("nobody's", String::as_str);
    let mut all: Vec<String> = names
        .values()
        .map(|name| format!("service {name}"))
        .collect();
    all.extend(maps.all::<Frontends>().map(|(key, value)| {
        let rest = FrontendValue {
            service: 0,
            generation: 0,
            ..value
        };
        format!("frontend {key:?} of {}: {rest:?}", named(value.service))
    }));
    all.extend(maps.all::<Slots>().map(|(key, value)| {
        let rest = SlotValue {
            service: 0,
            generation: 0,
            ..value
        };
        format!("slot {} of {}: {rest:?}", key.index, named(key.service))
    }));
    all.extend(maps.all::<Members>().map(|(key, value)| {
        let rest = MemberKey { service: 0, ..key };
        format!("member {rest:?} of {}: {value:?}", named(key.service))
    }));
    all.extend(maps.all::<SourceRanges>().map(|(key, _)| {
        let service = match key.service {
            RangeKey::CLUSTER => "the cluster",
            id => named(id),
        };
        format!("range {:?}/{} of {service}", key.address, key.bits)
    }));
    all.extend(lines::<Addresses>(maps));
    all.extend(lines::<Configs>(maps));
    all.extend(lines::<Names>(maps));
    all.extend(lines::<NameTexts>(maps));
    all.extend(lines::<SmallAnswers>(maps));
    all.extend(lines::<LargeAnswers>(maps));
    let count = all.len();
    let all: BTreeSet<String> = all.into_iter().collect();
    assert_eq!(all.len(), count, "something is there twice");
    all
}

fn lines<T: Table>(maps: &Maps) -> impl Iterator<Item = String> {
    let line = |(key, value): (T::Key, T::Value)| {
        format!("{} {:?} {:?}", T::NAME, bytes_of(&key), bytes_of(&value))
    };
    maps.all::<T>().map(line)
}
