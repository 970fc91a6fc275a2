use std::net::SocketAddr;

use super::*;
use crate::{dataplane::ipvs::server::ServerKey, model::Protocol};

fn key(address: &str, port: u16, protocol: Protocol) -> ServerKey {
    ServerKey {
        protocol,
        address: address.parse().unwrap(),
        port,
    }
}

fn frame() -> Frame {
    let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect();
    let restricted = key("198.19.0.1", 80, Protocol::Tcp);
    Frame {
        cluster_ranges: nets(&["10.1.0.0/16", "10.2.0.0/16", "fd01::/48"]),
        service_ranges: ["10.96.0.0/12", "fd96::/112"]
            .map(|net| net.parse().unwrap())
            .into(),
        source_ranges: [(restricted, nets(&["203.0.113.0/24", "0.0.0.0/0"]))].into(),
        ..Frame::default()
    }
}

fn elements() -> BTreeSet<Element> {
    let backend: SocketAddr = "10.1.0.5:8080".parse().unwrap();
    let v6: SocketAddr = "[fd01::5]:8080".parse().unwrap();
    [
        Element::place(Set::Served, &key("10.96.0.1", 80, Protocol::Tcp)),
        Element::place(Set::Served, &key("10.96.0.1", 53, Protocol::Udp)),
        Element::place(Set::Served, &key("fd96::1", 3868, Protocol::Sctp)),
        Element::address(Set::Vips, "10.96.0.1".parse().unwrap()),
        Element::hairpin(backend, Protocol::Tcp),
        Element::hairpin(v6, Protocol::Udp),
        Element::outside(Family::V4, 1),
    ]
    .into()
}

fn rules(family: Family) -> String {
    let outside = ["eth0".to_owned(), "eth1".to_owned()].into();
    text::rules(family, &frame(), &outside, 0x4000, &Owned::default())
}

#[test]
fn rules_are_written_as_iptables_restore_reads_them() {
    assert_eq!(
        rules(Family::V4),
        "\
*mangle
:SIGNPOST-INPUT - [0:0]
:SIGNPOST-OUTPUT - [0:0]
-I INPUT 1 -j SIGNPOST-INPUT
-A SIGNPOST-INPUT -m conntrack --ctstate RELATED,ESTABLISHED,UNTRACKED -j RETURN
-A SIGNPOST-INPUT -m set --match-set signpost-4-dropped dst,dst -j DROP
-A SIGNPOST-INPUT -m set --match-set signpost-4-restricted dst,dst -m set ! --match-set signpost-4-source-ranges dst,dst,src -j DROP
-I OUTPUT 1 -j SIGNPOST-OUTPUT
-A SIGNPOST-OUTPUT -m conntrack --ctstate RELATED,ESTABLISHED,UNTRACKED -j RETURN
-A SIGNPOST-OUTPUT -m set --match-set signpost-4-dropped dst,dst -j DROP
-A SIGNPOST-OUTPUT -m set --match-set signpost-4-restricted dst,dst -m set ! --match-set signpost-4-source-ranges dst,dst,src -j DROP
-A SIGNPOST-OUTPUT -m iprange --dst-range 10.96.0.0-10.111.255.255 -m set ! --match-set signpost-4-vips dst -m set ! --match-set signpost-4-foreign dst -m conntrack ! --ctstate RELATED,ESTABLISHED,UNTRACKED -j DROP
COMMIT
*nat
:SIGNPOST-MARK - [0:0]
:SIGNPOST-POSTROUTING - [0:0]
-I PREROUTING 1 -j SIGNPOST-MARK
-I OUTPUT 1 -j SIGNPOST-MARK
-A SIGNPOST-MARK -m set --match-set signpost-4-masqueraded dst,dst -j MARK --set-xmark 0x4000/0x4000
-A SIGNPOST-MARK -m iprange ! --src-range 10.1.0.0-10.1.255.255 -m iprange ! --src-range 10.2.0.0-10.2.255.255 -m set --match-set signpost-4-cluster-ips dst,dst -j MARK --set-xmark 0x4000/0x4000
-A SIGNPOST-MARK -m set --match-set signpost-4-vips src -m set --match-set signpost-4-served dst,dst -j MARK --set-xmark 0x4000/0x4000
-I POSTROUTING 1 -j SIGNPOST-POSTROUTING
-A SIGNPOST-POSTROUTING -m set --match-set signpost-4-hairpin dst,dst,src -j MASQUERADE --random-fully
-A SIGNPOST-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A SIGNPOST-POSTROUTING -j MARK --set-xmark 0x0/0x4000
-A SIGNPOST-POSTROUTING -j MASQUERADE --random-fully
COMMIT
*filter
:SIGNPOST-INPUT - [0:0]
:SIGNPOST-FORWARD - [0:0]
-I INPUT 1 -j SIGNPOST-INPUT
-A SIGNPOST-INPUT -m conntrack --ctstate RELATED,ESTABLISHED,UNTRACKED -j RETURN
-A SIGNPOST-INPUT -m set --match-set signpost-4-rejected dst,dst -j REJECT --reject-with icmp-port-unreachable
-A SIGNPOST-INPUT -i eth0 -m iprange ! --src-range 10.1.0.0-10.1.255.255 -m iprange ! --src-range 10.2.0.0-10.2.255.255 -m set --match-set signpost-4-dropped-outside dst,dst -j DROP
-A SIGNPOST-INPUT -i eth1 -m iprange ! --src-range 10.1.0.0-10.1.255.255 -m iprange ! --src-range 10.2.0.0-10.2.255.255 -m set --match-set signpost-4-dropped-outside dst,dst -j DROP
-A SIGNPOST-INPUT -m set --match-set signpost-4-vips dst -m set ! --match-set signpost-4-served dst,dst -j REJECT --reject-with icmp-port-unreachable
-I FORWARD 1 -j SIGNPOST-FORWARD
-A SIGNPOST-FORWARD -m iprange --dst-range 10.96.0.0-10.111.255.255 -m set ! --match-set signpost-4-vips dst -m set ! --match-set signpost-4-foreign dst -m conntrack ! --ctstate RELATED,ESTABLISHED,UNTRACKED -j DROP
COMMIT
"
    );
    let v6 = rules(Family::V6);
    for line in [
        "-A SIGNPOST-MARK -m iprange ! --src-range fd01::-fd01::ffff:ffff:ffff:ffff:ffff -m set --match-set signpost-6-cluster-ips dst,dst -j MARK --set-xmark 0x4000/0x4000",
        "-A SIGNPOST-INPUT -m set --match-set signpost-6-rejected dst,dst -j REJECT --reject-with icmp6-port-unreachable",
        "-A SIGNPOST-FORWARD -m iprange --dst-range fd96::-fd96::ffff -m set ! --match-set signpost-6-vips dst -m set ! --match-set signpost-6-foreign dst -m conntrack ! --ctstate RELATED,ESTABLISHED,UNTRACKED -j DROP",
    ] {
        assert!(v6.lines().any(|found| found == line), "{line}\n{v6}");
    }
}

#[test]
fn rules_that_lead_to_chains_before_are_replaced() {
    let saved = "*nat\n:SIGNPOST-MARK - [0:0]\n-A OUTPUT -j SIGNPOST-MARK\n";
    let before = Owned::find(saved, CHAINS);
    let script = text::rules(Family::V4, &frame(), &BTreeSet::new(), 0x4000, &before);
    let gone = script.find("-D OUTPUT -j SIGNPOST-MARK\n").unwrap();
    assert!(gone < script.find("-I OUTPUT 1 -j SIGNPOST-MARK\n").unwrap());
    assert_eq!(script.matches("\n-D ").count(), 1);
    assert!(!script.contains("dropped-outside"), "{script}");
}

#[test]
fn sets_are_made_beside_those_that_are_there() {
    let there = ["signpost-4-served", "signpost-new"]
        .map(str::to_owned)
        .into();
    let script = text::sets(&[Family::V4], &frame(), &elements(), &there);
    assert_eq!(
        script,
        "\
destroy signpost-new
create signpost-4-cluster-ips hash:ip,port family inet maxelem 1048576
create signpost-4-dropped hash:ip,port family inet maxelem 1048576
create signpost-4-dropped-outside hash:ip,port family inet maxelem 1048576
create signpost-4-foreign hash:ip family inet maxelem 1048576
create signpost-4-hairpin hash:ip,port,ip family inet maxelem 1048576
add signpost-4-hairpin 10.1.0.5,tcp:8080,10.1.0.5
create signpost-4-masqueraded hash:ip,port family inet maxelem 1048576
create signpost-4-rejected hash:ip,port family inet maxelem 1048576
create signpost-4-restricted hash:ip,port family inet maxelem 1048576
add signpost-4-restricted 198.19.0.1,tcp:80
create signpost-new hash:ip,port family inet maxelem 1048576
add signpost-new 10.96.0.1,tcp:80
add signpost-new 10.96.0.1,udp:53
swap signpost-new signpost-4-served
destroy signpost-new
create signpost-4-source-ranges hash:ip,port,net family inet maxelem 1048576
add signpost-4-source-ranges 198.19.0.1,tcp:80,0.0.0.0/1
add signpost-4-source-ranges 198.19.0.1,tcp:80,128.0.0.0/1
add signpost-4-source-ranges 198.19.0.1,tcp:80,203.0.113.0/24
create signpost-4-vips hash:ip family inet maxelem 1048576
add signpost-4-vips 10.96.0.1
"
    );
    let v6 = text::sets(&[Family::V6], &frame(), &elements(), &BTreeSet::new());
    for line in [
        "add signpost-6-served fd96::1,sctp:3868",
        "add signpost-6-hairpin fd01::5,udp:8080,fd01::5",
    ] {
        assert!(v6.lines().any(|found| found == line), "{line}\n{v6}");
    }
}

#[test]
fn elements_come_and_go_by_their_names() {
    let element = |port| Element::place(Set::Rejected, &key("10.96.0.2", port, Protocol::Tcp));
    assert_eq!(
        text::changes(&[element(80)], &[element(81)]),
        "add signpost-4-rejected 10.96.0.2,tcp:80\ndel signpost-4-rejected 10.96.0.2,tcp:81\n"
    );
    assert_eq!(text::changes(&[], &[]), "");
}

/// The real kernel takes rules and sets, whole and changed, and nothing of them stays.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_kernel_takes_rules_and_sets_and_iptables_shows_them() {
    let of_its_own = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        assert_eq!(remains(), None);
        let mut iptables = match Iptables::new(14) {
            Ok(iptables) => iptables,
            Err(error) => return println!("skipped: {error:#}"),
        };
        iptables.make(&frame(), &elements()).unwrap();
        // Again, in the place of what is there.
        iptables.make(&frame(), &elements()).unwrap();
        assert!(iptables.is_there());
        assert_eq!(remains(), Some((12, 22)));
        let saved = iptables.form.save(Family::V4).unwrap();
        let written = text::rules(
            Family::V4,
            &frame(),
            &["lo".to_owned()].into(),
            1 << 14,
            &Owned::default(),
        );
        for line in written.lines().filter(|line| line.starts_with("-A ")) {
            assert!(saved.contains(line), "{line}\n{saved}");
        }
        assert_eq!(saved.matches("-A OUTPUT -j SIGNPOST-MARK").count(), 1);

        let come = Element::place(Set::Served, &key("10.96.0.2", 443, Protocol::Tcp));
        let go: Vec<Element> = elements().into_iter().take(1).collect();
        iptables.change(&[come], &go).unwrap();
        assert!(iptables.change(&[], &go).is_err(), "it is gone already");

        // A set of another kind, that a rule asks.
        iptables
            .form
            .restore(Family::V4, &Owned::find(&saved, CHAINS).removal())
            .unwrap();
        assert!(!iptables.is_there());
        ipset::restore("destroy signpost-4-vips\ncreate signpost-4-vips hash:net\n").unwrap();
        let theirs = "*filter\n-A INPUT -p tcp -j DROP\nCOMMIT\n";
        iptables.form.restore(Family::V4, theirs).unwrap();
        iptables.make(&frame(), &elements()).unwrap();
        assert!(iptables.is_there());

        remove().unwrap();
        assert_eq!(remains(), None);
        let saved = iptables.form.save(Family::V4).unwrap();
        assert!(saved.contains("-A INPUT -p tcp -j DROP"), "{saved}");
        assert!(!saved.contains("SIGNPOST"), "{saved}");
    });
    of_its_own.join().unwrap();
}
