//! Clients that count failures.

use std::{
    collections::BTreeMap,
    io::Read as _,
    net::{SocketAddr, ToSocketAddrs as _, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use signpost_tests::lab::client::{Load, get as request};

/// How long a single attempt may take.
const PATIENCE: Duration = Duration::from_millis(900);

/// Prints the addresses of a name.
pub(crate) fn resolve(name: &str) -> anyhow::Result<()> {
    let mut found: Vec<_> = (name, 0)
        .to_socket_addrs()
        .with_context(|| format!("cannot resolve {name}"))?
        .map(|address| address.ip())
        .collect();
    found.sort();
    found.dedup();
    for address in found {
        println!("{address}");
    }
    Ok(())
}

/// Prints what a server answers.
pub(crate) fn get(target: &str, times: usize) -> anyhow::Result<()> {
    for _ in 0..times {
        println!("{}", attempt(target, PATIENCE)?);
    }
    Ok(())
}

/// Runs until standard input ends, then prints a [`Load`] as JSON.
pub(crate) fn run(
    target: &str,
    udp: Option<SocketAddr>,
    clients: usize,
    patience: Duration,
    pause: Duration,
) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let datagrams = udp.map(|address| {
        let stop = Arc::clone(&stop);
        thread::spawn(move || send(address, patience, &stop))
    });
    let connections: Vec<_> = (0..clients)
        .map(|_| {
            let (stop, target) = (Arc::clone(&stop), target.to_owned());
            thread::spawn(move || {
                let mut load = Load::default();
                while !stop.load(Ordering::Relaxed) {
                    load.count(attempt(&target, patience));
                    thread::sleep(pause);
                }
                load
            })
        })
        .collect();
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    stop.store(true, Ordering::Relaxed);
    let mut all = BTreeMap::new();
    let mut tcp = Load::default();
    for client in connections {
        tcp.add(client.join().unwrap_or_default());
    }
    all.insert("tcp", tcp);
    if let Some(datagrams) = datagrams {
        all.insert("udp", datagrams.join().unwrap_or_default());
    }
    println!("{}", serde_json::to_string(&all)?);
    Ok(())
}

fn attempt(target: &str, patience: Duration) -> anyhow::Result<String> {
    let mut addresses = target
        .to_socket_addrs()
        .with_context(|| format!("cannot resolve {target}"))?;
    let address = addresses.next().context("a name without addresses")?;
    request(address, patience).with_context(|| format!("{target} at {address}"))
}

/// Sends datagrams from one socket, one after the answer to the other.
fn send(address: SocketAddr, patience: Duration, stop: &AtomicBool) -> Load {
    let mut load = Load::default();
    let mut number = 0_u64;
    let socket = match connected(address, patience) {
        Ok(socket) => socket,
        Err(error) => {
            load.count(Err(error));
            return load;
        }
    };
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        load.count(exchange(&socket, number));
        thread::sleep(Duration::from_millis(1));
    }
    load
}

fn connected(address: SocketAddr, patience: Duration) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind(if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    })?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(patience))?;
    Ok(socket)
}

fn exchange(socket: &UdpSocket, number: u64) -> anyhow::Result<String> {
    socket.send(number.to_string().as_bytes())?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
    let (name, echoed) = answer.split_once(' ').context("not an answer")?;
    ensure!(
        echoed == number.to_string(),
        "an answer to another datagram"
    );
    Ok(name.to_owned())
}
