//! Names outside of the cluster, with upstreams that are slow, silent, or not what they seem.

use std::{net::Ipv4Addr, sync::atomic::Ordering, time::Duration};

use hickory_proto::{op::ResponseCode, rr::RecordType};
use tokio::{net::UdpSocket, time::sleep};

use super::{
    super::*,
    stand::{Bench, FakeUpstream, addresses, question},
};

/// An address at which nobody answers.
async fn silent() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

#[tokio::test]
async fn the_next_upstream_is_asked_when_one_is_silent_until_it_answers_again() {
    let (one, good) = (silent().await, FakeUpstream::start().await);
    let upstreams = format!("{},{}", one.local_addr().unwrap(), good.address);
    let flags = ["--upstream", &upstreams, "--upstream-policy", "sequential"];
    let bench = Bench::new(&flags).await;
    let answer = bench.ask("example.com.", RecordType::A).await;
    assert_eq!(addresses(&answer).len(), 1);

    // Silent, it only gets probes.
    let mut buffer = [0; 512];
    while let Ok(length) = one.try_recv(&mut buffer) {
        assert!(length > 0);
    }
    let answer = bench.ask("www.example.com.", RecordType::A).await;
    assert_eq!(addresses(&answer).len(), 1);
    let (length, from) = one.recv_from(&mut buffer).await.unwrap();
    assert_eq!(buffer[12..17], [0, 0, 2, 0, 1], "the root's name servers");

    let asked = good.asked.load(Ordering::Relaxed);
    let echo =
        |length: usize, buffer: &[u8]| super::stand::upstream_answer(&buffer[..length], true);
    one.send_to(&echo(length, &buffer), from).await.unwrap();
    let one = tokio::spawn(async move {
        loop {
            let (length, from) = one.recv_from(&mut buffer).await.unwrap();
            one.send_to(&echo(length, &buffer), from).await.unwrap();
        }
    });
    // Names of their own, so that the cache says nothing.
    for n in 0..200 {
        let before = good.asked.load(Ordering::Relaxed);
        bench
            .ask(&format!("n{n}.example.com."), RecordType::A)
            .await;
        if good.asked.load(Ordering::Relaxed) == before {
            one.abort();
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("asked {asked} times and more, and never the first again");
}

#[tokio::test]
async fn without_any_answer_from_upstreams_the_client_is_told() {
    let silent = silent().await;
    let upstream = silent.local_addr().unwrap().to_string();
    let bench = Bench::new(&["--upstream", &upstream]).await;
    let answer = bench.ask("example.com.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(!answer.metadata.recursion_available);
}

#[tokio::test]
async fn who_asks_the_same_at_the_same_time_waits_for_one_answer() {
    let bench = Bench::new(&[]).await;
    let asked = question("slow.example.com.", RecordType::A);
    let answers = futures::future::join_all((0..20).map(|_| bench.udp(&asked))).await;
    assert!(answers.iter().all(|answer| addresses(answer).len() == 1));
    assert_eq!(bench.upstream.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn upstreams_are_asked_in_random_letters_and_askers_get_their_own() {
    let bench = Bench::new(&[]).await;
    for name in ["Letters.Example.Com.", "lettERS.exAMPle.coM."] {
        let answer = bench.ask(name, RecordType::A).await;
        assert_eq!(answer.answers[0].name.to_ascii(), name);
    }
    for n in 0..30 {
        let name = format!("abcdefghijklmnop{n}.example.com.");
        bench.ask(&name, RecordType::A).await;
    }
    let names = bench.upstream.names.lock().unwrap().clone();
    assert!(names.iter().any(|name| *name != name.to_ascii_lowercase()));
}

#[tokio::test]
async fn an_upstream_that_answers_in_other_letters_is_asked_over_tcp() {
    let bench = Bench::new(&[]).await;
    let answer = bench
        .ask("forged-lettercase.example.com.", RecordType::A)
        .await;
    assert_eq!(addresses(&answer), [Ipv4Addr::new(192, 0, 2, 7)]);
}

#[tokio::test]
async fn tcp_alone_is_used_where_that_is_wanted() {
    let bench = Bench::new(&["--upstream-transport", "tcp"]).await;
    let answer = bench.ask("example.com.", RecordType::A).await;
    assert_eq!(addresses(&answer), [Ipv4Addr::new(192, 0, 2, 1)]);
    assert_eq!(bench.upstream.asked.load(Ordering::Relaxed), 0, "over UDP");
}

#[tokio::test]
async fn the_upstreams_of_a_file_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    std::fs::write(&file, "nameserver 192.0.2.53\n").unwrap();
    let line = ["dns", "--resolv-conf", file.to_str().unwrap()];
    let args = <super::stand::Line as clap::Parser>::parse_from(line).args;
    let routes = super::super::routes::Routes::new(
        &args,
        &Default::default(),
        None,
        &super::super::metrics::times(),
    )
    .unwrap();
    let forward = &routes.default;
    assert_eq!(forward.addresses(), ["192.0.2.53:53".parse().unwrap()]);
    assert!(!forward.follow().unwrap());
    std::fs::write(&file, "nameserver 2001:db8::1\nnameserver 192.0.2.54\n").unwrap();
    assert!(forward.follow().unwrap());
    let wanted: Vec<SocketAddr> = ["[2001:db8::1]:53", "192.0.2.54:53"]
        .map(|a| a.parse().unwrap())
        .to_vec();
    assert_eq!(forward.addresses(), wanted);
    std::fs::remove_file(&file).unwrap();
    assert!(!forward.follow().unwrap());
    assert_eq!(forward.addresses(), wanted, "they stay");
}
