use super::*;

fn all() -> Probes {
    let there = |feature| (feature, Ok("there".to_owned()));
    Probes {
        kernel: "6.12".to_owned(),
        netfilter: NetfilterWish::Auto,
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
fn without_nftables_virtual_servers_have_iptables_beside_them() {
    let choice = choose(&without(&[Feature::Bpf, Feature::Nftables]), Wish::Auto);
    assert_eq!(choice.mode, Some(Mode::Ipvs));
    assert_eq!(choice.netfilter, Some(Netfilter::Iptables));
    let choice = choose(&all(), Wish::Ipvs);
    assert_eq!(choice.netfilter, Some(Netfilter::Nftables));
    assert_eq!(choose(&all(), Wish::Ebpf).netfilter, None);
}

#[test]
fn without_any_filter_no_virtual_server_is_filled_and_the_operator_is_told() {
    let neither = [Feature::Bpf, Feature::Nftables, Feature::Iptables];
    for wish in [Wish::Auto, Wish::Ipvs] {
        let choice = choose(&without(&neither), wish);
        assert_eq!((choice.mode, choice.netfilter), (None, None));
        for what in [
            "nftables: refused",
            "iptables and ipset: refused",
            "install iptables and ipset",
        ] {
            assert!(choice.reason.contains(what), "{what}: {}", choice.reason);
        }
    }
    let rows = without(&neither).table(None);
    let broken = |feature| {
        rows.iter()
            .any(|row| row.feature == feature && row.level == Level::Broken)
    };
    assert!(broken(Feature::Nftables) && broken(Feature::Iptables));
}

#[test]
fn the_filter_that_was_asked_for_is_taken_or_nothing() {
    for (wish, kind, other) in [
        (
            NetfilterWish::Nftables,
            Netfilter::Nftables,
            Feature::Iptables,
        ),
        (
            NetfilterWish::Iptables,
            Netfilter::Iptables,
            Feature::Nftables,
        ),
    ] {
        let mut probes = without(&[other]);
        probes.netfilter = wish;
        assert_eq!(choose(&probes, Wish::Ipvs).netfilter, Some(kind));
        let mut probes = without(&[feature_of(kind)]);
        probes.netfilter = wish;
        let choice = choose(&probes, Wish::Ipvs);
        assert_eq!(choice.mode, None);
        assert!(choice.reason.contains("refused"), "{}", choice.reason);
        assert_eq!(choose(&probes, Wish::Auto).mode, Some(Mode::Ebpf));
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
        // Where there is TCX, clsact is of no use, nor is iptables where there is nftables.
        assert_eq!(
            row.level == Level::Fine,
            [Feature::Clsact, Feature::Iptables].contains(&feature),
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
