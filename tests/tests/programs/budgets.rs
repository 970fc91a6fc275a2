//! What the programs and maps may cost.

use std::{fs, os::fd::AsRawFd as _};

use aya::maps::MapData;
use signpost::dataplane::ebpf::{features, program::SocketProgram};
use signpost_common::{Cause, layout};
use signpost_tests::report;

use crate::{
    machine::{data, kernel, verify},
    packets::{Family, Protocol},
    world::{World, local, remote},
};

/// The verifier's limit is a million; what one kernel's verifier takes, another one's may take twice over.
const VERIFIED: u32 = 500_000;
/// A tenth of it: there are eight of them.
const OF_SOCKETS: u32 = 100_000;
/// Bytes of maps without a Service: the tables of the hash maps, and the LRU maps, which have all their elements.
const EMPTY: u64 = 128 << 20;
/// Bytes of maps with ten thousand Services of ten endpoints each. With the agent it has to stay below 250 MB.
const FULL: u64 = 180 << 20;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_verifier_has_half_of_its_limit_left() {
    let has_set_retval = features::has_set_retval();
    let verified = verify(has_set_retval);
    for found in &verified {
        println!("{found:?}");
        report::keep(&serde_json::json!({
            "program": found.program,
            "verified": found.instructions,
            "milliseconds": found.took.as_millis() as u64,
        }))
        .expect("the report can be written");
    }
    // Without the helper the verifier has less to look at.
    let all = verified
        .into_iter()
        .chain(has_set_retval.then(|| verify(false)).into_iter().flatten());
    for found in all {
        let most = if SocketProgram::ALL.iter().any(|p| p.name() == found.program) {
            OF_SOCKETS
        } else {
            VERIFIED
        };
        assert!(
            found.instructions > 0 && found.instructions <= most,
            "{found:?}"
        );
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_maps_take_no_more_memory_than_planned() {
    let mut kernel = kernel();
    kernel.fill(&World::new());
    kernel.fill_flows(&World::new());
    let empty = print_memory(&kernel, "without Services");
    kernel.fill(&large_world());
    let full = print_memory(&kernel, "with 10,000 Services of 10 endpoints");
    kernel.fill(&World::new());
    assert!(empty <= EMPTY, "{empty} bytes without Services");
    assert!(full <= FULL, "{full} bytes with 10,000 Services");
    assert!(full > empty, "{full} bytes with Services, {empty} without");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_maps_have_the_sizes_of_the_layout() {
    let kernel = kernel();
    for (name, size) in [
        (layout::map::ADDRESSES, layout::size::ADDRESSES),
        (layout::map::FRONTENDS, layout::size::FRONTENDS),
        (layout::map::SLOTS, layout::size::SLOTS),
        (layout::map::MEMBERS, layout::size::MEMBERS),
        (layout::map::SERVICES, layout::size::SERVICES),
        (layout::map::FLOWS, layout::size::FLOWS),
        (layout::map::FRAGMENTS, layout::size::FRAGMENTS),
        (layout::map::AFFINITY, layout::size::AFFINITY),
        (layout::map::SOURCE_RANGES, layout::size::SOURCE_RANGES),
        (layout::map::DEVICES, layout::size::DEVICES),
        (layout::map::NAMES, layout::size::NAMES),
        (layout::map::NAME_TEXTS, layout::size::NAMES),
        (layout::map::ANSWERS_SMALL, layout::size::ANSWERS_SMALL),
        (layout::map::ANSWERS_LARGE, layout::size::ANSWERS_LARGE),
        (layout::map::ANSWERS_OUTSIDE, layout::size::ANSWERS_OUTSIDE),
        (layout::map::SERVICE_COUNTS, layout::size::SERVICES),
        (layout::map::DNS_LOG, layout::size::DNS_LOG),
        (layout::map::COUNTERS, Cause::COUNT),
    ] {
        let (_, map) = kernel
            .maps()
            .find(|(n, _)| *n == name)
            .expect("a map of that name");
        let info = data(map).info().expect("a loaded map has information");
        assert_eq!(info.max_entries(), size, "{name}");
    }
}

/// Ten thousand Services of ten endpoints each, two of them on this node, with names.
fn large_world() -> World {
    let mut world = World::new();
    for service in 0..10_000_u32 {
        let [_, _, high, low] = service.to_be_bytes();
        let family = Family::V4;
        let address = std::net::IpAddr::from([10, 96 + high, low, 1]);
        let backends: Vec<_> = (0..10)
            .map(|n| match n {
                0 | 1 => local(family.pod(n), 8080),
                n => remote(family.far_pod(n), 8080),
            })
            .collect();
        world.service(Protocol::Tcp, (address, 80).into(), &backends);
        let name = format!("service-{service}.namespace.svc.cluster.local");
        world.name(&name, 0);
        world.records(&name, &[address]);
    }
    world
}

fn print_memory(kernel: &crate::machine::Kernel, when: &str) -> u64 {
    let mut sum = 0;
    let mut maps: Vec<_> = kernel.maps().collect();
    maps.sort_by_key(|(name, _)| *name);
    println!("bytes of maps {when}:");
    for (name, map) in maps {
        let bytes = memory(data(map));
        println!("{bytes:>12} {name}");
        sum += bytes;
    }
    println!("{sum:>12} in all");
    sum
}

/// What the kernel says that a map takes.
fn memory(map: &MapData) -> u64 {
    use std::os::fd::AsFd as _;
    let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let info = fs::read_to_string(path).expect("the descriptor has information");
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("memlock:"))
        .expect("its memory is told");
    line.trim().parse().expect("a number")
}
