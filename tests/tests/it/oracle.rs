//! No packet with a wrong checksum, ever. Transmit offload is off, so that every packet is finished wherever it is
//! seen.

use signpost_tests::lab::{
    Cni, Lab,
    capture::{self, Capture},
    client::Conversation,
};

use crate::small::{PATIENCE, Small, answering, ask, get};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_packet_has_a_wrong_checksum() -> anyhow::Result<()> {
    let lab = Lab::builder()
        .node("one", Cni::Routed)
        .node("two", Cni::Bridged)
        .without_offload()
        .start()?;
    let mut small = Small::of(lab)?;
    let clients = [
        small.client("one", "routed-client")?,
        small.client("two", "bridged-client")?,
    ];
    let server = small.server("web", "one", "server")?;
    small.server("web", "two", "other")?;
    small.host_server("web", "two", "host")?;
    small.deaf_server("deaf", "two", "deaf")?;
    let vips = ["web", "deaf", "empty"].map(|name| small.service(name));
    let [web, deaf, empty] = vips;
    let (web, deaf, empty) = (web?, deaf?, empty?);
    for client in &clients {
        answering(client, web)?;
    }

    let mut capture = Capture::new();
    capture.watch("wire", small.lab.wire())?;
    for node in small.lab.nodes() {
        capture.watch(node.name(), node.namespace())?;
    }
    for pod in clients.iter().chain([&server]) {
        capture.watch(pod.name(), pod.namespace())?;
    }
    for client in clients.iter().chain([&server]) {
        for address in web.both() {
            for _ in 0..10 {
                get(client, address)?;
                ask(client, address, b"odd")?;
                ask(client, address, &[7; 8000])?;
            }
            let line = "x".repeat(50_000);
            client.run(|| Conversation::start(address, PATIENCE)?.say(&line))??;
        }
        for address in deaf.both().into_iter().chain(empty.both()) {
            assert!(get(client, address).is_err());
            assert!(ask(client, address, b"x").is_err());
        }
    }
    let seen = capture.finish()?;
    assert!(seen.len() > 1000, "{} packets", seen.len());
    capture::all_right(&seen)
}
