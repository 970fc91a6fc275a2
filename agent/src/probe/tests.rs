use super::*;

fn all() -> Probes {
    let there = |feature| (feature, Ok("there".to_owned()));
    Probes {
        kernel: "6.12".to_owned(),
        features: Feature::ALL.into_iter().map(there).collect(),
    }
}

fn without(features: &[Feature]) -> Probes {
    let mut probes = all();
    for feature in features {
        probes.features.insert(*feature, Err("refused".to_owned()));
    }
    probes
}

#[test]
fn ebpf_is_chosen_wherever_it_is_possible() {
    let choice = choose(&all(), Wish::Auto);
    assert_eq!(choice.mode, Some(Mode::Ebpf));
    for less in [
        Feature::Tcx,
        Feature::Clsact,
        Feature::Cgroup2,
        Feature::SetRetval,
        Feature::IpVs,
    ] {
        assert_eq!(
            choose(&without(&[less]), Wish::Auto).mode,
            Some(Mode::Ebpf),
            "{less:?}"
        );
    }
}

#[test]
fn a_kernel_that_denies_bpf_gets_ipvs_and_is_told_why() {
    let choice = choose(&without(&[Feature::Bpf]), Wish::Auto);
    assert_eq!(choice.mode, Some(Mode::Ipvs));
    assert!(choice.reason.contains("BPF: refused"), "{}", choice.reason);
    let neither = choose(&without(&[Feature::Tcx, Feature::Clsact]), Wish::Auto);
    assert_eq!(neither.mode, Some(Mode::Ipvs));
}

#[test]
fn without_nftables_no_virtual_server_is_filled_and_the_operator_is_told() {
    for wish in [Wish::Auto, Wish::Ipvs] {
        let choice = choose(&without(&[Feature::Bpf, Feature::Nftables]), wish);
        assert_eq!(choice.mode, None);
        let reason = choice.reason;
        assert!(reason.contains("nftables: refused"), "{reason}");
    }
}

#[test]
fn what_was_asked_for_is_done_or_nothing() {
    assert_eq!(choose(&all(), Wish::Ipvs).mode, Some(Mode::Ipvs));
    let choice = choose(&without(&[Feature::IpVs]), Wish::Ipvs);
    assert_eq!(choice.mode, None);
    assert!(choice.reason.contains("IPVS: refused"), "{}", choice.reason);
    assert_eq!(choose(&without(&[Feature::Bpffs]), Wish::Ebpf).mode, None);
    let nothing = choose(&without(&[Feature::Bpf, Feature::IpVs]), Wish::Auto);
    assert_eq!(nothing.mode, None);
}

#[test]
fn each_feature_that_is_missing_is_told_with_what_follows() {
    for feature in Feature::ALL {
        let probes = without(&[feature]);
        let rows = probes.table(choose(&probes, Wish::Auto).mode);
        let row = rows.iter().find(|row| row.feature == feature).unwrap();
        assert!(!row.there);
        assert_eq!(row.found, "refused");
        assert_eq!(row.todo.is_empty(), row.level == Level::Fine, "{feature:?}");
        // Where there is TCX, clsact is of no use.
        assert_eq!(
            row.level == Level::Fine,
            feature == Feature::Clsact,
            "{feature:?}"
        );
        let others = rows.iter().filter(|row| row.feature != feature);
        assert_eq!(
            others.filter(|row| row.level != Level::Fine).count(),
            0,
            "{feature:?}"
        );
    }
}

#[test]
fn without_tcx_clsact_decides() {
    let probes = without(&[Feature::Tcx, Feature::Clsact]);
    let rows = probes.table(Some(Mode::Ebpf));
    let level = |feature| {
        rows.iter()
            .find(|row| row.feature == feature)
            .unwrap()
            .level
    };
    assert_eq!(level(Feature::Clsact), Level::Broken);
    assert_eq!(level(Feature::Tcx), Level::Less);
    assert_eq!(
        without(&[Feature::Clsact]).table(Some(Mode::Ebpf))[8].level,
        Level::Fine
    );
}

#[test]
fn what_was_not_probed_is_missing() {
    let nothing = Probes::default();
    assert_eq!(choose(&nothing, Wish::Auto).mode, None);
    assert!(
        nothing
            .table(None)
            .iter()
            .all(|row| !row.there && row.found == "not probed")
    );
}

#[test]
fn names_are_the_same_everywhere() {
    for feature in Feature::ALL {
        let json = serde_json::to_string(&feature).unwrap();
        assert_eq!(json, format!("{:?}", feature.name()));
    }
}
