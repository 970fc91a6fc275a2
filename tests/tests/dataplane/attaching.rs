use std::{fs, os::fd::AsFd as _, path::PathBuf};

use signpost::{
    dataplane::{
        Dataplane as _,
        ebpf::{
            attach::Hook,
            program::Program,
            sys,
            tables::{Devices, Frontends, Names, Slots},
            view::View,
        },
    },
    interfaces::Place,
};
use signpost_common::{
    device::DeviceValue,
    layout::{LAYOUT_VERSION, map},
};
use signpost_tests::lab::links::remove;

use super::*;

/// What a pinned link is attached to and runs, `None` where nothing is pinned.
fn link(instance: &Instance, ifindex: u32, program: Program) -> Option<sys::LinkInfo> {
    let path = folder(instance).join(format!("links/{ifindex}_{}", program.name()));
    let link = sys::open_pinned(&path).ok()?;
    Some(sys::link_info(link.as_fd()).unwrap())
}

/// Names of the programs that an interface has by clsact, ingress first, as `tc` says.
fn filters(interface: &str) -> Vec<String> {
    let mut names = Vec::new();
    for side in ["ingress", "egress"] {
        let output = std::process::Command::new("tc")
            .args(["-json", "filter", "show", "dev", interface, side])
            .output()
            .unwrap();
        let filters: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        let name =
            |filter: &serde_json::Value| Some(filter["options"]["bpf_name"].as_str()?.to_owned());
        names.extend(filters.iter().filter_map(name));
    }
    names
}

fn folder(instance: &Instance) -> PathBuf {
    instance.root().join(format!("v{LAYOUT_VERSION}"))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn links_stay_when_the_agent_ends_and_run_the_programs_of_the_next_one() {
    let (node, pod) = (namespace(), namespace());
    connect(&node, &pod);
    node.run(|| {
        let instance = Instance::new();
        let veth0 = index("veth0");
        let mut dataplane = instance.open();
        dataplane.apply(&one_service()).unwrap();
        dataplane.attach(veth0, "veth0", Place::Pod).unwrap();
        let before = Program::of(Place::Pod).map(|p| link(&instance, veth0, p).unwrap());
        assert_eq!(before.map(|info| info.ifindex), [veth0; 2]);
        drop(dataplane);
        assert_eq!(
            Program::of(Place::Pod).map(|p| link(&instance, veth0, p).unwrap()),
            before
        );

        let mut dataplane = instance.open();
        assert_eq!(dataplane.attached().keys().collect::<Vec<_>>(), [&veth0]);
        let after = Program::of(Place::Pod).map(|p| link(&instance, veth0, p).unwrap());
        for (before, after) in before.into_iter().zip(after) {
            assert_eq!(after.ifindex, veth0);
            assert_ne!(after.program, before.program, "the program was replaced");
        }
        dataplane.attach(veth0, "veth0", Place::Pod).unwrap();
        dataplane.detach(veth0).unwrap();
        assert_eq!(
            Program::of(Place::Pod).map(|p| link(&instance, veth0, p)),
            [None; 2]
        );
    })
    .unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_interface_has_the_programs_of_one_place() {
    let (node, pod) = (namespace(), namespace());
    connect(&node, &pod);
    node.run(|| {
        for hook in [Hook::Tcx, Hook::Clsact] {
            let instance = Instance::new();
            let veth0 = index("veth0");
            let mut dataplane = instance.open_with(hook);
            dataplane.apply(&one_service()).unwrap();
            dataplane.attach(veth0, "veth0", Place::Pod).unwrap();
            dataplane.attach(veth0, "veth0", Place::Wire).unwrap();
            if hook == Hook::Tcx {
                let links = Program::ALL.map(|p| link(&instance, veth0, p).is_some());
                let of_wire = Program::ALL.map(|p| Program::of(Place::Wire).contains(&p));
                assert_eq!(links, of_wire);
            } else {
                assert_eq!(filters("veth0"), ["from_wire", "to_wire"]);
            }
            dataplane.detach(veth0).unwrap();
            assert_eq!(Program::ALL.map(|p| link(&instance, veth0, p)), [None; 6]);
            assert_eq!(filters("veth0"), [""; 0]);
        }
    })
    .unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn addresses_of_an_interface_go_with_it() {
    let (node, pod) = (namespace(), namespace());
    connect(&node, &pod);
    node.run(|| {
        let instance = Instance::new();
        let veth0 = index("veth0");
        let mut dataplane = instance.open();
        dataplane.attach(veth0, "veth0", Place::Wire).unwrap();
        let v4 = Some([192, 0, 2, 1].into());
        dataplane.set_device(veth0, v4, None).unwrap();
        dataplane.set_device(DeviceValue::ANY, v4, None).unwrap();
        let devices = || {
            View::open(instance.root())
                .unwrap()
                .all::<Devices>()
                .unwrap()
        };
        assert_eq!(devices().len(), 2);
        dataplane.detach(veth0).unwrap();
        let left = devices();
        assert_eq!(left.len(), 1);
        let (index, device) = left[0];
        assert_eq!(index, DeviceValue::ANY);
        assert_eq!(device.v4, IpAddr::from([192, 0, 2, 1]).into());
        assert_eq!(device.v6, signpost_common::Address::UNSPECIFIED);
        dataplane.set_device(DeviceValue::ANY, None, None).unwrap();
        assert!(devices().is_empty());
    })
    .unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_restart_with_the_same_state_writes_nothing() {
    let instance = Instance::new();
    let mut dataplane = instance.open();
    let report = dataplane.apply(&one_service()).unwrap();
    assert!(
        report.written > 8 && report.refused.is_empty(),
        "{report:?}"
    );
    drop(dataplane);
    let mut dataplane = instance.open();
    let report = dataplane.apply(&one_service()).unwrap();
    assert_eq!((report.written, report.deleted), (0, 0));

    let view = View::open(instance.root()).unwrap();
    assert_eq!(view.all::<Frontends>().unwrap().len(), 1);
    assert_eq!(view.all::<Slots>().unwrap().len(), 2);
    assert_eq!(view.all::<Names>().unwrap().len(), 1);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn two_agents_do_not_share_an_instance() {
    let instance = Instance::new();
    let _first = instance.open();
    let error = EbpfDataplane::open(instance.config()).unwrap_err();
    assert!(error.to_string().contains("another agent uses"), "{error}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_operators_read_cannot_be_changed_through_it() {
    let instance = Instance::new();
    drop(instance.open());
    let path = folder(&instance).join("maps").join(map::CLOCKS);
    let clocks = sys::open_pinned_for_reading(&path).unwrap();
    assert_eq!(
        sys::lookup::<u32, u64>(clocks.as_fd(), &0).unwrap(),
        Some(0)
    );
    let error = sys::update(clocks.as_fd(), &0_u32, &1_u64).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn links_of_interfaces_that_are_gone_are_cleared() {
    let (node, pod) = (namespace(), namespace());
    connect(&node, &pod);
    let instance = Instance::new();
    let veth0 = node
        .run(|| {
            let mut dataplane = instance.open();
            let veth0 = index("veth0");
            dataplane.attach(veth0, "veth0", Place::Pod).unwrap();
            veth0
        })
        .unwrap();
    remove(&node, "veth0").unwrap();
    assert_eq!(
        link(&instance, veth0, Program::FromPod).map(|info| info.ifindex),
        Some(0)
    );
    node.run(|| {
        let mut dataplane = instance.open();
        assert!(dataplane.attached().is_empty());
        assert_eq!(link(&instance, veth0, Program::FromPod), None);
        let error = dataplane.attach(veth0, "veth0", Place::Pod).unwrap_err();
        assert!(
            format!("{error:#}").contains("cannot attach to interface veth0"),
            "{error:#}"
        );
    })
    .unwrap();
}

/// Puts another interface in the place of one: with the same index, which the kernel gives out again in time.
fn replace_interface(index: u32, old: &str, new: &str) {
    let peer = format!("{new}-peer");
    for arguments in [
        vec!["link", "delete", old],
        vec![
            "link",
            "add",
            new,
            "index",
            &index.to_string(),
            "type",
            "veth",
            "peer",
            "name",
            &peer,
        ],
    ] {
        let status = std::process::Command::new("ip")
            .args(&arguments)
            .status()
            .unwrap();
        assert!(status.success(), "ip {arguments:?}");
    }
    assert_eq!(super::index(new), index);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_interface_with_the_index_of_one_that_is_gone_has_nothing_of_it() {
    // With the same name too, nobody sees in a list of interfaces that it is another one.
    for new in ["veth0", "veth1"] {
        let (node, pod) = (namespace(), namespace());
        connect(&node, &pod);
        node.run(|| {
            let instance = Instance::new();
            let index = index("veth0");
            let links = || Program::ALL.map(|p| link(&instance, index, p).map(|l| l.ifindex));
            let of = |place| Program::ALL.map(|p| Program::of(place).contains(&p).then_some(index));
            let mut running = instance.open();
            running.apply(&one_service()).unwrap();
            running
                .set_device(index, Some([192, 0, 2, 1].into()), None)
                .unwrap();
            running.attach(index, "veth0", Place::Wire).unwrap();
            assert_eq!(links(), of(Place::Wire));

            replace_interface(index, "veth0", new);
            assert_eq!(running.look_again(), [index]);
            running.set_device(index, None, None).unwrap();
            running.attach(index, new, Place::Pod).unwrap();
            assert_eq!(links(), of(Place::Pod), "an agent that runs");
            let view = View::open(instance.root()).unwrap();
            assert!(view.all::<Devices>().unwrap().is_empty());
            drop(running);

            replace_interface(index, new, "veth2");
            let mut next = instance.open();
            assert!(next.attached().is_empty(), "{:?}", next.attached());
            assert_eq!(links(), [None; 6], "an agent that was away");
            next.attach(index, "veth2", Place::Pod).unwrap();
            assert_eq!(links(), of(Place::Pod));
        })
        .unwrap();
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn links_of_another_layout_go_on_until_the_new_maps_are_filled() {
    let (node, pod) = (namespace(), namespace());
    connect(&node, &pod);
    node.run(|| {
        let instance = Instance::new();
        let veth0 = index("veth0");
        let mut old = instance.open();
        old.apply(&one_service()).unwrap();
        old.attach(veth0, "veth0", Place::Pod).unwrap();
        let before = link(&instance, veth0, Program::FromPod).unwrap();
        drop(old);
        let elsewhere = instance.root().join("v0");
        fs::rename(folder(&instance), &elsewhere).unwrap();

        let mut new = instance.open();
        new.attach(veth0, "veth0", Place::Pod).unwrap();
        assert_eq!(
            link(&instance, veth0, Program::FromPod),
            None,
            "the maps are empty"
        );
        new.apply(&one_service()).unwrap();
        let after = link(&instance, veth0, Program::FromPod).unwrap();
        assert_eq!(after.ifindex, veth0);
        assert_ne!(after.program, before.program);
        assert!(!elsewhere.exists());
    })
    .unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pinned_map_that_is_not_as_it_must_be_is_replaced() {
    let instance = Instance::new();
    drop(instance.open());
    let path = folder(&instance).join("maps").join(map::SLOTS);
    fs::remove_file(&path).unwrap();
    let other = sys::MapInfo {
        kind: sys::MapKind::Hash as u32,
        key: 4,
        value: 4,
        size: 8,
        flags: 0,
    };
    let map = sys::create_map("slots", other).unwrap();
    sys::pin(map.as_fd(), &path).unwrap();
    let mut dataplane = instance.open();
    let report = dataplane.apply(&one_service()).unwrap();
    assert_eq!(report.refused, []);
    let slots = View::open(instance.root()).unwrap().all::<Slots>().unwrap();
    assert_eq!(slots.len(), 2);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn without_tcx_a_filter_is_attached_that_the_next_agent_finds_again() {
    let (node, pod) = (namespace(), namespace());
    connect(&node, &pod);
    node.run(|| {
        let instance = Instance::new();
        let veth0 = index("veth0");
        let mut first = instance.open_with(Hook::Clsact);
        first.attach(veth0, "veth0", Place::Pod).unwrap();
        drop(first);
        let mut second = instance.open_with(Hook::Clsact);
        second.attach(veth0, "veth0", Place::Pod).unwrap();
        second.detach(veth0).unwrap();
        assert!(second.attached().is_empty());
        let error = second.attach(veth0, "veth1", Place::Pod).unwrap_err();
        assert!(
            format!("{error:#}").contains("another one by now"),
            "{error:#}"
        );
    })
    .unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_filter_that_somebody_removes_is_missed() {
    let (node, pod) = (namespace(), namespace());
    connect(&node, &pod);
    node.run(|| {
        let instance = Instance::new();
        let veth0 = index("veth0");
        let mut dataplane = instance.open_with(Hook::Clsact);
        dataplane.apply(&one_service()).unwrap();
        dataplane.attach(veth0, "veth0", Place::Pod).unwrap();
        for gone in [
            ["filter", "del", "dev", "veth0", "egress"],
            ["qdisc", "del", "dev", "veth0", "clsact"],
        ] {
            assert_eq!(dataplane.look_again(), [0; 0]);
            let tc = std::process::Command::new("tc").args(gone).status();
            assert!(tc.unwrap().success(), "{gone:?}");
            assert_eq!(dataplane.look_again(), [veth0], "{gone:?}");
            dataplane.attach(veth0, "veth0", Place::Pod).unwrap();
            assert_eq!(filters("veth0"), ["from_pod", "to_pod"]);
        }
        let ip = std::process::Command::new("ip")
            .args(["link", "del", "veth0"])
            .status();
        assert!(ip.unwrap().success());
        assert_eq!(dataplane.look_again(), [0; 0], "it is gone itself");
    })
    .unwrap();
}
