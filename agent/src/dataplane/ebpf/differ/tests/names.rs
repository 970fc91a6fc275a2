use signpost_common::{
    dns::{Config, NameValue, qtype},
    layout::map,
};

use super::*;
use crate::dataplane::ebpf::tables::{
    Clocks, Configs, LargeAnswers, NameTexts, Names, SmallAnswers,
};

const ENT: &str = "ent.prod.svc.cluster.local";

/// So many addresses.
fn set(count: usize) -> NameEntry {
    let addresses: Vec<String> = (1..=count).map(|last| format!("10.1.0.{last}")).collect();
    entry(&addresses.iter().map(String::as_str).collect::<Vec<_>>())
}

fn value(maps: &Model, text: &str) -> Option<NameValue> {
    maps.find::<Names>(&maps.hash(&name(text)))
}

fn started(first: &Update) -> (Model, Differ) {
    let mut maps = Model::default();
    let mut differ = open(&mut maps);
    apply(&mut differ, &mut maps, first);
    maps.log.clear();
    (maps, differ)
}

#[test]
fn a_name_is_written_after_its_answers_and_removed_before_them() {
    let (mut maps, mut differ) = started(&names([]));
    apply(&mut differ, &mut maps, &names([(ENT, Some(set(1)))]));
    assert_eq!(
        maps.log,
        [map::NAME_TEXTS, map::ANSWERS_SMALL, map::NAMES].map(|map| (map, true))
    );
    maps.log.clear();
    apply(&mut differ, &mut maps, &names([(ENT, None)]));
    assert_eq!(
        maps.log,
        [map::NAMES, map::ANSWERS_SMALL, map::NAME_TEXTS].map(|map| (map, false))
    );
    assert_eq!(maps.canonical().len(), 0);
}

#[test]
fn an_answer_is_never_missing_while_it_moves() {
    let (mut maps, mut differ) = started(&names([(ENT, Some(set(1)))]));
    maps.constant.insert((maps.hash(&name(ENT)), qtype::A));
    for (count, small, large, user) in [
        (1, 1, 0, 0),
        (30, 0, 1, 0),
        (100, 0, 0, 1),
        (4, 1, 0, 0),
        (60, 0, 0, 1),
        (20, 0, 1, 0),
    ] {
        apply(&mut differ, &mut maps, &names([(ENT, Some(set(count)))]));
        assert_eq!(
            (maps.len::<SmallAnswers>(), maps.len::<LargeAnswers>()),
            (small, large)
        );
        let value = value(&maps, ENT).unwrap();
        assert_eq!((value.large, value.user), (large as u32, user));
    }
}

#[test]
fn flags_and_types_say_what_the_zone_says() {
    let namespace = NameEntry {
        namespace: true,
        complete: true,
        ..NameEntry::default()
    };
    let mixed = NameEntry {
        user: vec![qtype::SRV, qtype::AAAA],
        aaaa: vec!["fd00::1".parse().unwrap()],
        complete: false,
        ..set(1)
    };
    let (maps, _) = started(&names([
        ("prod.svc.cluster.local", Some(namespace)),
        (ENT, Some(mixed)),
    ]));
    let found = value(&maps, "prod.svc.cluster.local").unwrap();
    assert_eq!(found.flags, NameValue::NAMESPACE | NameValue::COMPLETE);
    let found = value(&maps, ENT).unwrap();
    assert_eq!(found.flags, NameValue::SERVICE);
    let user = NameValue::type_bit(qtype::SRV) | NameValue::type_bit(qtype::AAAA);
    assert_eq!((found.user, found.large), (user, 0));
    assert_eq!(
        maps.len::<SmallAnswers>(),
        1,
        "what user space answers has no answer here"
    );
    assert_eq!(found.check, maps.hash(&name(ENT)).check());
}

#[test]
fn a_restart_with_the_same_names_writes_nothing_and_other_names_go() {
    let update = names([
        (ENT, Some(set(3))),
        ("web.prod.svc.cluster.local", Some(set(30))),
    ]);
    let (mut maps, differ) = started(&update);
    drop(differ);
    apply(&mut open(&mut maps), &mut maps, &update);
    assert_eq!(maps.log, []);
    apply(
        &mut open(&mut maps),
        &mut maps,
        &names([(ENT, Some(set(3)))]),
    );
    assert_eq!((maps.len::<Names>(), maps.len::<NameTexts>()), (1, 1));
    assert_eq!(
        (maps.len::<SmallAnswers>(), maps.len::<LargeAnswers>()),
        (1, 0)
    );
}

#[test]
fn the_programs_answer_once_the_maps_are_filled_and_go_on_over_a_restart() {
    let mut maps = Model::default();
    let mut differ = open(&mut maps);
    assert_eq!(maps.find::<Configs>(&0).unwrap().flags, 0);
    apply(&mut differ, &mut maps, &names([]));
    let config = maps.find::<Configs>(&0).unwrap();
    assert_eq!((config.flags, config.negative_grace), (Config::DNS, 300));
    let _ = open(&mut maps);
    assert_eq!(maps.find::<Configs>(&0), Some(config));
}

#[test]
fn programs_go_on_in_the_old_zone_until_the_first_update_of_an_agent_with_another_one() {
    let (mut maps, _) = started(&names([(ENT, Some(set(1)))]));
    let before = maps.find::<Configs>(&0).unwrap();
    let another = EbpfConfig {
        domain: name("cluster.example"),
        ..config()
    };
    let mut differ = Differ::open(another, &mut maps).unwrap();
    assert_eq!(maps.find::<Configs>(&0), Some(before));
    apply(&mut differ, &mut maps, &names([]));
    let after = maps.find::<Configs>(&0).unwrap();
    assert_ne!(after.zone, before.zone);
    assert_eq!((after.flags, maps.len::<Names>()), (Config::DNS, 0));
    assert_eq!(
        maps.find::<Clocks>(&0),
        Some(0),
        "nothing is denied until the agent is in sync again"
    );
}

#[test]
fn an_answer_without_room_is_left_to_user_space() {
    for (map, count) in [(map::ANSWERS_SMALL, 2), (map::ANSWERS_LARGE, 20)] {
        let (mut maps, mut differ) = started(&names([]));
        maps.sizes.insert(map, 0);
        let report = differ
            .apply(&mut maps, &names([(ENT, Some(set(count)))]))
            .unwrap();
        assert!(
            report.refused[0]
                .reason
                .contains(&format!("map {map} is full"))
        );
        let found = value(&maps, ENT).unwrap();
        assert_eq!(
            (found.user, found.large),
            (NameValue::type_bit(qtype::A), 0)
        );
        assert!(differ.may_deny(), "the name itself is known");
        maps.sizes.clear();
        apply(&mut differ, &mut maps, &names([]));
        assert_eq!(value(&maps, ENT).unwrap().user, 0);
    }
}

#[test]
fn while_a_name_finds_no_room_nothing_may_be_denied() {
    let (mut maps, mut differ) = started(&names([]));
    maps.sizes.insert(map::NAMES, 0);
    let report = differ
        .apply(&mut maps, &names([(ENT, Some(set(1)))]))
        .unwrap();
    assert_eq!(report.refused[0].object, format!("name {ENT}"));
    assert!(!differ.may_deny());
    maps.sizes.clear();
    apply(&mut differ, &mut maps, &names([]));
    assert!(differ.may_deny() && value(&maps, ENT).is_some());
}

#[test]
fn a_name_whose_service_is_refused_is_left_to_user_space() {
    let (mut maps, mut differ) = started(&names([]));
    maps.sizes.insert(map::SLOTS, 0);
    let update = Update {
        ports: ports([(port("ent"), Some(plan("10.96.0.1", &[1])))]).ports,
        ..names([
            (ENT, Some(set(1))),
            ("_http._tcp.web.prod.svc.cluster.local", Some(set(1))),
        ])
    };
    let report = differ.apply(&mut maps, &update).unwrap();
    assert_eq!(report.refused.len(), 2, "{:?}", report.refused);
    assert_eq!(maps.len::<SmallAnswers>(), 1, "that of the other Service");
    assert_eq!(value(&maps, ENT).unwrap().flags & NameValue::COMPLETE, 0);
    maps.sizes.clear();
    apply(&mut differ, &mut maps, &names([]));
    assert_eq!(
        (maps.len::<SmallAnswers>(), value(&maps, ENT).unwrap().user),
        (2, 0)
    );
}

#[test]
fn two_names_with_one_key_are_both_left_to_user_space() {
    // Without keys a label that fits into half a word adds nothing to the hash.
    let mut maps = Model::default();
    drop(open(&mut maps));
    let config = maps.find::<Configs>(&0).unwrap();
    maps.weaken_hash(config);
    let mut differ = open(&mut maps);
    let (one, other) = ("abc.prod.svc.cluster.local", "xyz.prod.svc.cluster.local");
    assert_eq!(maps.hash(&name(one)), maps.hash(&name(other)));
    apply(&mut differ, &mut maps, &names([(one, Some(set(1)))]));
    let report = differ
        .apply(&mut maps, &names([(other, Some(set(2)))]))
        .unwrap();
    assert_eq!(report.refused.len(), 1);
    let found = value(&maps, one).unwrap();
    assert_eq!((found.flags, found.user), (0, u32::MAX));
    assert_eq!(maps.len::<SmallAnswers>(), 0);
    differ.apply(&mut maps, &names([(one, None)])).unwrap();
    assert_eq!(
        value(&maps, other),
        Some(found),
        "the other one still exists"
    );
}
