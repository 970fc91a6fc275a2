//! Servers that say who they are.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    thread,
};

use anyhow::Context as _;

/// Longest datagram.
const LONGEST: usize = 65_507;

/// Listens on every port of every address for good.
pub(crate) fn run(name: &str, addresses: &[IpAddr], ports: &[u16]) -> anyhow::Result<()> {
    let name: Arc<str> = name.into();
    let mut threads = Vec::new();
    let places = addresses
        .iter()
        .flat_map(|ip| ports.iter().map(move |port| SocketAddr::new(*ip, *port)));
    for place in places {
        let listener =
            TcpListener::bind(place).with_context(|| format!("cannot listen on TCP {place}"))?;
        let socket =
            UdpSocket::bind(place).with_context(|| format!("cannot listen on UDP {place}"))?;
        let of_tcp = Arc::clone(&name);
        threads.push(thread::spawn(move || accept(&listener, &of_tcp)));
        let of_udp = Arc::clone(&name);
        threads.push(thread::spawn(move || echo(&socket, &of_udp)));
    }
    println!("{name} listens");
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

fn accept(listener: &TcpListener, name: &Arc<str>) {
    for stream in listener.incoming().flatten() {
        let name = Arc::clone(name);
        thread::spawn(move || {
            let _ = converse(&stream, &name);
        });
    }
}

/// A request of HTTP gets one answer; any other line is answered with the pod's name and the line, and the
/// connection stays.
fn converse(mut stream: &TcpStream, name: &str) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next() {
        let line = line?;
        if !line.starts_with("GET ") {
            stream.write_all(format!("{name} {line}\n").as_bytes())?;
            continue;
        }
        for header in lines.by_ref() {
            if header?.is_empty() {
                break;
            }
        }
        let length = name.len() + 1;
        let answer = format!(
            "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{name}\n"
        );
        return stream.write_all(answer.as_bytes());
    }
    Ok(())
}

/// Sends each datagram back with the pod's name and a space before it.
fn echo(socket: &UdpSocket, name: &str) {
    let mut buffer = vec![0; LONGEST];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let mut answer = format!("{name} ").into_bytes();
        answer.extend_from_slice(&buffer[..length]);
        answer.truncate(LONGEST);
        let _ = socket.send_to(&answer, from);
    }
}
