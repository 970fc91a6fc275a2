//! From a machine outside the cluster through a NodePort or an external IP to a backend and back.

use std::{
    io,
    net::{SocketAddr, TcpStream},
};

use serde_json::json;
use signpost_tests::lab::{
    Cni, Lab, Outside,
    capture::{Capture, all_right},
    client::Datagrams,
    offload, wait,
};

use crate::{
    small::{CNIS, PATIENCE, PROGRAMMED, Small},
    ways_in::{answered_by, get, outside, service, ways_in},
};

/// Sends a datagram that takes many packets; the answer brings it back.
fn long_datagram(outside: &Outside, address: SocketAddr) -> anyhow::Result<String> {
    let payload: Vec<u8> = (0..8192_u32).map(|n| (n % 251) as u8).collect();
    outside
        .namespace()
        .run(|| Datagrams::to(address, PATIENCE)?.ask(&payload))?
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn fragments_from_outside_may_come_in_another_order() -> anyhow::Result<()> {
    for node in ["one", "two"] {
        let mut small = Small::two(Cni::Routed)?;
        let outside = outside(&small.lab)?;
        small.server("web", node, "server")?;
        service(&small, &json!({}))?;
        for address in ways_in(&small)? {
            answered_by(&outside, address, "default/server")?;
            let payload: Vec<u8> = (0..8192_u32).map(|n| (n % 251) as u8).collect();
            outside.namespace().run(|| {
                let datagrams = Datagrams::to(address, PATIENCE)?;
                anyhow::ensure!(datagrams.ask(&payload)? == "default/server");
                anyhow::ensure!(datagrams.ask_in_reverse(&payload)? == "default/server");
                Ok(())
            })??;
        }
    }
    Ok(())
}

/// With offload and without, routed and bridged: every packet that anybody sees has right checksums.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn outside_clients_reach_backends_of_this_node_and_of_others() -> anyhow::Result<()> {
    for (cni, offloaded) in [
        (Cni::Routed, true),
        (Cni::Bridged, true),
        (Cni::Routed, false),
    ] {
        for node in ["one", "two"] {
            let mut builder = Lab::builder().node("one", cni).node("two", cni);
            if !offloaded {
                builder = builder.without_offload();
            }
            let mut small = Small::of(builder.start()?)?;
            let outside = outside(&small.lab)?;
            let server = small.server("web", node, "server")?;
            service(&small, &json!({}))?;
            for address in ways_in(&small)? {
                answered_by(&outside, address, "default/server")?;
            }
            let mut capture = Capture::default();
            if !offloaded {
                offload::switch_off(outside.namespace(), "eth0")?;
                capture.watch("outside", outside.namespace())?;
                capture.watch("server", server.namespace())?;
            }
            for address in ways_in(&small)? {
                assert_eq!(get(&outside, address)?, "default/server");
                let answer = long_datagram(&outside, address)?;
                assert_eq!(answer, "default/server", "{cni:?} {node} {address}");
            }
            let seen = capture.finish()?;
            if !offloaded {
                all_right(&seen)?;
            }
            let counters = small.agents[0].counters()?;
            assert!(counters["masqueraded"] > 0, "{cni:?} {node}: {counters:?}");
            assert_eq!(counters["helper_failed"], 0);
            assert_eq!(counters["no_masquerade_address"], 0);
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_local_policy_shows_backends_the_outside_client() -> anyhow::Result<()> {
    for cni in CNIS {
        let mut small = Small::two(cni)?;
        let outside = outside(&small.lab)?;
        small.server("web", "one", "here")?;
        small.server("web", "two", "far")?;
        service(&small, &json!({"externalTrafficPolicy": "Local"}))?;
        for address in ways_in(&small)? {
            answered_by(&outside, address, "default/here")?;
            for _ in 0..10 {
                assert_eq!(get(&outside, address)?, "default/here", "{cni:?} {address}");
            }
        }
        assert_eq!(small.agents[0].counter("masqueraded")?, 0, "{cni:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn outside_clients_are_refused_where_nobody_serves() -> anyhow::Result<()> {
    let small = Small::one(CNIS[0])?;
    let outside = outside(&small.lab)?;
    service(&small, &json!({}))?;
    // At the node's own address nothing listens either, so that only the external ones tell something.
    for address in ways_in(&small)?.into_iter().filter(|a| a.port() == 80) {
        wait::until("a refusal", PROGRAMMED, || {
            let connected = outside
                .namespace()
                .run(|| TcpStream::connect_timeout(&address, PATIENCE))?;
            let error = connected.err().map(|error| error.kind());
            anyhow::ensure!(error == Some(io::ErrorKind::ConnectionRefused), "{error:?}");
            Ok(())
        })?;
    }
    assert!(small.agents[0].counter("no_endpoints_rejected")? > 0);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn outside_clients_stay_with_their_backend() -> anyhow::Result<()> {
    let mut small = Small::two(CNIS[0])?;
    let outside = outside(&small.lab)?;
    for (node, name) in [("one", "a"), ("one", "b"), ("two", "c"), ("two", "d")] {
        small.server("web", node, name)?;
    }
    service(&small, &json!({"sessionAffinity": "ClientIP"}))?;
    for address in ways_in(&small)? {
        let mut answers = std::collections::BTreeSet::new();
        wait::until("an answer", PROGRAMMED, || get(&outside, address))?;
        for _ in 0..20 {
            answers.insert(get(&outside, address)?);
        }
        assert_eq!(answers.len(), 1, "{address}: {answers:?}");
    }
    Ok(())
}
