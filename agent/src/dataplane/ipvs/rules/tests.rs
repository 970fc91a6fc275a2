use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::model::Protocol;

fn key(address: &str, port: u16) -> ServerKey {
    ServerKey {
        protocol: Protocol::Tcp,
        address: address.parse().unwrap(),
        port,
    }
}

#[test]
fn an_element_is_as_long_as_the_fields_of_its_set() {
    for (v4, v6) in [("10.96.0.1", "fd96::1")] {
        for (address, family) in [(v4, Family::V4), (v6, Family::V6)] {
            let address: IpAddr = address.parse().unwrap();
            let elements = [
                Element::place(Set::Served, &key(&address.to_string(), 80)),
                Element::address(Set::Vips, address),
                Element::hairpin(SocketAddr::new(address, 8080), Protocol::Tcp),
                Element::outside(family, 7),
            ];
            for element in elements {
                let fields = element.set.fields().iter();
                let width: usize = fields.map(|field| field.width(family)).sum();
                assert_eq!(element.key.len(), width, "{element:?}");
                assert_eq!(element.family, family);
            }
        }
    }
}

#[test]
fn a_place_is_as_the_registers_have_it() {
    assert_eq!(
        place(&key("10.96.0.1", 80)),
        [10, 96, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0]
    );
}

#[test]
fn many_elements_are_several_messages_and_none_is_none() {
    let elements: BTreeSet<Element> = (0..1200_u16)
        .map(|port| Element::place(Set::Served, &key("10.96.0.1", port)))
        .collect();
    assert_eq!(change(Fate::Come, &elements).len(), 3);
    assert_eq!(change(Fate::Go, &elements).len(), 3);
    assert_eq!(change(Fate::Come, &BTreeSet::new()), []);
}

#[test]
fn services_with_the_same_source_ranges_share_a_chain() {
    let ranges = |text: &str| vec![text.parse::<IpNet>().unwrap()];
    let chains = |frame: &Frame| {
        let changes = source_ranges(Family::V4, frame);
        let chain = nft::chain(Family::V4, TABLE, "source-ranges-0", None);
        let second = nft::chain(Family::V4, TABLE, "source-ranges-1", None);
        (changes.contains(&chain), changes.contains(&second))
    };
    let mut frame = Frame::default();
    assert_eq!(chains(&frame), (false, false));
    for last in 1..4 {
        let key = key(&format!("198.19.0.{last}"), 80);
        frame.source_ranges.insert(key, ranges("203.0.113.0/24"));
    }
    assert_eq!(chains(&frame), (true, false));
    frame
        .source_ranges
        .insert(key("198.19.0.9", 80), ranges("198.51.100.0/24"));
    assert_eq!(chains(&frame), (true, true));
    assert_eq!(source_ranges(Family::V6, &frame), []);
}

/// What is not known of the pods' networks must not make everybody an outsider.
#[test]
fn who_is_outside_is_only_masqueraded_where_the_pods_networks_are_known() {
    let mut frame = Frame::default();
    let rules = masquerade(Family::V4, &frame).len();
    frame.cluster_ranges = vec!["10.1.0.0/16".parse().unwrap()];
    assert_eq!(masquerade(Family::V4, &frame).len(), rules + 1);
    assert_eq!(masquerade(Family::V6, &frame).len(), rules);
    frame.masquerade_all = true;
    assert_eq!(masquerade(Family::V6, &frame).len(), rules + 1);
}

/// The real kernel takes the tables, whole and changed, and the real `nft` shows them.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_kernel_takes_the_tables_and_nft_shows_them() {
    let of_its_own = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let mut frame = Frame {
            cluster_ranges: vec!["10.1.0.0/16".parse().unwrap(), "fd01::/48".parse().unwrap()],
            service_ranges: ["10.96.0.0/12", "fd96::/112"]
                .map(|n| n.parse().unwrap())
                .into(),
            ..Frame::default()
        };
        let range = vec!["203.0.113.0/24".parse().unwrap()];
        frame.source_ranges.insert(key("198.19.0.1", 80), range);
        let first = BTreeSet::from([
            Element::place(Set::Served, &key("10.96.0.1", 80)),
            Element::place(Set::Served, &key("fd96::1", 80)),
            Element::address(Set::Vips, "10.96.0.1".parse().unwrap()),
            Element::hairpin("10.1.0.5:8080".parse().unwrap(), Protocol::Tcp),
            Element::outside(Family::V4, 1),
        ]);
        nft::carry_out(&whole(&frame, &first)).unwrap();
        // Again, in the place of what is there.
        nft::carry_out(&whole(&frame, &first)).unwrap();
        let second = BTreeSet::from([Element::place(Set::Served, &key("10.96.0.2", 443))]);
        let mut changes = change(Fate::Come, &second);
        changes.extend(change(Fate::Go, first.iter().take(1)));
        nft::carry_out(&changes).unwrap();
        let none = nft::carry_out(&change(Fate::Go, first.iter().take(1))).unwrap_err();
        assert_eq!(none.raw_os_error(), Some(libc::ENOENT));
        let show = |family: &str| {
            let listed = std::process::Command::new("nft")
                .args(["list", "table", family, TABLE])
                .output()
                .unwrap();
            assert!(listed.status.success(), "{listed:?}");
            String::from_utf8(listed.stdout).unwrap()
        };
        let shown = show("ip");
        for text in [
            "10.96.0.2 . tcp . 443",
            "10.1.0.5 . 10.1.0.5 . tcp . 8080",
            "198.19.0.1 . tcp . 80 : jump source-ranges-0",
            "ip saddr 203.0.113.0/24 return",
            "ip saddr @vips",
            "masquerade fully-random",
            "@rejected reject",
            "ct state established,related,untracked accept",
        ] {
            assert!(shown.contains(text), "{text} is not in {shown}");
        }
        let shown = show("ip6");
        assert!(shown.contains("fd96::1 . tcp . 80"), "{shown}");
        for family in [Family::V4, Family::V6] {
            nft::carry_out(&gone(family)).unwrap();
        }
    });
    of_its_own.join().unwrap();
}
