use std::os::{
    fd::{AsFd as _, AsRawFd as _},
    unix::fs::symlink,
};

use nix::sched::{CloneFlags, unshare};
use signpost::{
    dataplane::{
        Dataplane as _,
        ebpf::{
            sys,
            tables::{Flows, SocketPods, Sockets},
            view::View,
        },
    },
    namespaces::{self, Served, SocketPod},
};
use signpost_common::{
    Address, Port,
    flow::{FlowKey, FlowValue},
    layout::{LAYOUT_VERSION, map},
    socket::{PodValue, SocketKey, SocketValue},
};

use super::*;

/// Both entries of a UDP flow that was used at these times.
fn flow(number: u8, forward: u64, back: u64) -> [(FlowKey, FlowValue); 2] {
    let [client, service, backend] =
        [[10, 1, 0, 9], [10, 96, 0, 1], [10, 1, 0, 1]].map(Address::v4);
    let [from, to, at] = [4000 + u16::from(number), 53, 1053].map(Port::new);
    let forward_key = FlowKey {
        source: client,
        destination: service,
        source_port: from,
        destination_port: to,
        protocol: 17,
        direction: FlowKey::FROM_POD,
        pad: 0,
    };
    let back_key = FlowKey {
        source: backend,
        destination: client,
        source_port: at,
        destination_port: from,
        direction: FlowKey::TO_POD,
        ..forward_key
    };
    let forward = FlowValue {
        source: client,
        destination: backend,
        source_port: from,
        destination_port: at,
        flags: FlowValue::FORWARD,
        last_seen: forward,
        ..FlowValue::ZERO
    };
    let back = FlowValue {
        source: service,
        destination: client,
        source_port: to,
        destination_port: from,
        last_seen: back,
        ..FlowValue::ZERO
    };
    [(forward_key, forward), (back_key, back)]
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn idle_flows_go_and_a_flow_stays_as_long_as_either_side_uses_it() {
    let instance = Instance::new();
    let mut dataplane = instance.open();
    let path = instance
        .root()
        .join(format!("v{LAYOUT_VERSION}/maps/{}", map::FLOWS));
    let flows = sys::open_pinned(&path).unwrap();
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    let now = Duration::from(now);
    let long_ago = now
        .checked_sub(Duration::from_secs(31))
        .expect("the machine is up for a while");
    let [now, long_ago] = [now, long_ago].map(|at| at.as_nanos() as u64);
    let elements: Vec<_> = [
        flow(1, long_ago, long_ago),
        flow(2, long_ago, now),
        flow(3, now, now),
    ]
    .into_iter()
    .flatten()
    .collect();
    for (key, value) in &elements {
        sys::update(flows.as_fd(), key, value).unwrap();
    }
    let report = dataplane.sweep().unwrap();
    assert_eq!(report.deleted, 2);
    let view = View::open(instance.root()).unwrap();
    let mut left: Vec<_> = view
        .all::<Flows>()
        .unwrap()
        .into_iter()
        .map(|(key, _)| {
            (
                key.direction,
                key.source_port.get().max(key.destination_port.get()),
            )
        })
        .collect();
    left.sort_unstable();
    assert_eq!(left, [(0, 4002), (0, 4003), (1, 4002), (1, 4003)]);
    let pressure = dataplane.pressure();
    assert_eq!(
        pressure
            .iter()
            .find(|p| p.map == map::FLOWS)
            .unwrap()
            .elements,
        4
    );
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_a_program_writes_while_it_is_about_to_be_forgotten_stays() {
    let instance = Instance::new();
    let _dataplane = instance.open();
    let path = instance
        .root()
        .join(format!("v{LAYOUT_VERSION}/maps/{}", map::FLOWS));
    let flows = sys::open_pinned(&path).unwrap();
    let [(key, old), _] = flow(1, 1, 1);
    let new = FlowValue {
        last_seen: 2,
        ..old
    };
    let left = || sys::lookup::<_, FlowValue>(flows.as_fd(), &key).unwrap();

    sys::update(flows.as_fd(), &key, &new).unwrap();
    let is_old = |now: &FlowValue| *now == old;
    assert!(!sys::delete_if(flows.as_fd(), &key, is_old).unwrap());
    assert_eq!(left(), Some(new), "written before");

    sys::update(flows.as_fd(), &key, &old).unwrap();
    let mut looks = 0;
    let deleted = sys::delete_if(flows.as_fd(), &key, |now: &FlowValue| {
        let is_old = *now == old;
        looks += 1;
        if looks == 1 {
            sys::update(flows.as_fd(), &key, &new).unwrap();
        }
        is_old
    });
    // Kernels before 5.14 do not say what they deleted.
    if looks == 2 {
        assert!(!deleted.unwrap());
        assert_eq!(
            left(),
            Some(new),
            "written between the look and the deletion"
        );
    }

    sys::update(flows.as_fd(), &key, &old).unwrap();
    assert!(sys::delete_if(flows.as_fd(), &key, is_old).unwrap());
    assert_eq!(left(), None);
    assert!(
        !sys::delete_if(flows.as_fd(), &key, is_old).unwrap(),
        "it is gone"
    );
}

/// Cookie of a socket (`SO_COOKIE`).
fn cookie(socket: &impl std::os::fd::AsRawFd) -> u64 {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the pointers are to a word and to its length.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0);
    cookie
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn sockets_of_pods_are_forgotten_when_they_are_closed_also_after_the_pod_is_served_no_more() {
    let instance = Instance::new();
    let mut dataplane = instance.open();
    let folder = tempfile::tempdir().unwrap();
    let (udp, kept) = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let udp = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        (
            udp,
            std::fs::File::open("/proc/thread-self/ns/net").unwrap(),
        )
    })
    .join()
    .unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), kept.as_raw_fd());
    symlink(path, folder.path().join("cni-1")).unwrap();
    let [namespace] = &namespaces::find(&[folder.path().to_owned()]).unwrap().pods[..] else {
        panic!("the namespace is not found")
    };
    let pod = |served| SocketPod {
        namespace: namespace.clone(),
        served,
    };
    let view = View::open(instance.root()).unwrap();
    let served = || view.all::<SocketPods>().unwrap();
    assert_eq!(dataplane.serve_pods(&[pod(Served::Everything)]), []);
    let [(_, value)] = &served()[..] else {
        panic!("{:?}", served())
    };
    assert_eq!(value.flags, 0);
    assert_eq!(dataplane.serve_pods(&[pod(Served::Tcp)]), []);
    assert_eq!(served()[0].1.flags, PodValue::TCP_ONLY);
    assert_eq!(dataplane.serve_pods(&[pod(Served::Nothing)]), []);
    assert!(served().is_empty());

    let key = SocketKey {
        cookie: cookie(&udp),
        ..SocketKey::default()
    };
    let value = SocketValue {
        check: key.check(),
        ..SocketValue::default()
    };
    let path = instance
        .root()
        .join(format!("v{LAYOUT_VERSION}/maps/{}", map::SOCKETS));
    sys::update(sys::open_pinned(&path).unwrap().as_fd(), &key, &value).unwrap();
    let mut turns = || -> usize { (0..60).map(|_| dataplane.sweep().unwrap().deleted).sum() };
    assert_eq!(turns(), 0);
    drop(udp);
    assert_eq!(turns(), 1);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn sockets_that_are_closed_are_forgotten() {
    let instance = Instance::new();
    let mut dataplane = instance.open();
    let path = instance
        .root()
        .join(format!("v{LAYOUT_VERSION}/maps/{}", map::SOCKETS));
    let sockets = sys::open_pinned(&path).unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = std::net::TcpListener::bind("[::1]:0").unwrap();
    let (closed, multipath) = (u64::MAX, u64::MAX - 1);
    let (udp_cookie, tcp_cookie) = (cookie(&udp), cookie(&tcp));
    for cookie in [udp_cookie, tcp_cookie, closed, multipath] {
        let key = SocketKey {
            cookie,
            ..SocketKey::default()
        };
        let flags = if cookie == multipath {
            SocketValue::UNLISTED
        } else {
            0
        };
        let value = SocketValue {
            check: key.check(),
            flags,
            ..SocketValue::default()
        };
        sys::update(sockets.as_fd(), &key, &value).unwrap();
    }
    let left = || {
        let view = View::open(instance.root()).unwrap();
        let mut left: Vec<u64> = view
            .all::<Sockets>()
            .unwrap()
            .into_iter()
            .map(|(key, _)| key.cookie)
            .collect();
        left.sort_unstable();
        left
    };
    let mut expected = [udp_cookie, tcp_cookie, closed, multipath];
    expected.sort_unstable();
    let mut turn = || -> usize { (0..30).map(|_| dataplane.sweep().unwrap().deleted).sum() };
    // A socket that is not listed may be one that is just being connected.
    assert_eq!(turn(), 0);
    assert_eq!(left(), expected);
    assert_eq!(turn(), 1);
    let mut expected = [udp_cookie, tcp_cookie, multipath];
    expected.sort_unstable();
    assert_eq!(left(), expected);
    drop((udp, tcp));
    assert_eq!(turn(), 0);
    assert_eq!(turn(), 2);
    assert_eq!(left(), [multipath]);
}
