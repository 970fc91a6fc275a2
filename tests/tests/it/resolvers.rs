//! Resolvers that workloads bring along, beside those of the C libraries: all find the same.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::IpAddr,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use signpost_tests::lab::{Cni, upstream, wait};

use crate::{
    names::{DNS, Names, addresses},
    small::PATIENCE,
};

/// Names that resolvers with a search list are given: of the kernel, of the DNS pod, and of the world.
const NAMES: [&str; 6] = [
    "ent",
    "ent.prod",
    "ent.dev.svc.cluster.local",
    "set",
    "set-1.set",
    "10-1-2-3.dev.pod.cluster.local",
];
/// Names that are none.
const NONE: [&str; 3] = ["nothing", "ent.nowhere", "nothing.example.com"];

/// A file beside this one.
fn source(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it")
        .join(name)
}

fn world() -> [IpAddr; 2] {
    let (v4, v6) = upstream::ADDRESSES;
    [v4.into(), v6.into()]
}

/// A resolver finds what glibc's finds.
fn finds_the_same(
    names: &Names,
    resolve: impl Fn(&str) -> anyhow::Result<Vec<IpAddr>>,
) -> anyhow::Result<()> {
    for name in NAMES {
        assert_eq!(resolve(name)?, names.resolve(name)?, "{name}");
    }
    assert_eq!(resolve(upstream::NAME.trim_end_matches('.'))?, world());
    for name in NONE {
        assert!(resolve(name).is_err(), "{name}: {:?}", resolve(name));
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn golang_without_a_c_library_finds_the_same() -> anyhow::Result<()> {
    let names = Names::start(Cni::Routed)?;
    let program = names.jump.folder().join("lookup");
    let built = Command::new("go")
        .args(["build", "-o"])
        .args([&program, &source("lookup.go")])
        .env("CGO_ENABLED", "0")
        .status()?;
    ensure!(built.success(), "go build: {built}");
    let lookup = |kind: &str, name: &str| {
        let mut command = names.jump.command(&program)?;
        command.args([kind, name]).text()
    };
    finds_the_same(&names, |name| addresses(&lookup("host", name)?))?;
    let services = lookup("srv", "_web._tcp.set.dev.svc.cluster.local")?;
    let expected = "set-0.set.dev.svc.cluster.local.:8080\nset-1.set.dev.svc.cluster.local.:8080\n";
    assert_eq!(services, expected);
    assert_eq!(
        lookup("address", "10.96.2.1")?,
        "ent.dev.svc.cluster.local.\n"
    );
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn java_finds_the_same() -> anyhow::Result<()> {
    let names = Names::start(Cni::Routed)?;
    let lookup = |how: &str, asked: &[&str]| {
        let mut command = names.jump.command("java")?;
        command
            // A virtual machine for each name: the small compiler is enough.
            .args(["-XX:TieredStopAtLevel=1", "-Xshare:auto"])
            .arg(source("Lookup.java"))
            .arg(how)
            .args(asked)
            .text()
    };
    finds_the_same(&names, |name| addresses(&lookup("host", &[name])?))?;
    // Its own resolver, which asks for records.
    let asked = ["set.dev.svc.cluster.local", "A"];
    assert_eq!(addresses(&lookup("dns", &asked)?)?, names.resolve("set")?);
    let asked = ["_web._tcp.set.dev.svc.cluster.local", "SRV"];
    assert_eq!(
        lookup("dns", &asked)?,
        "0 50 8080 set-0.set.dev.svc.cluster.local.\n0 50 8080 set-1.set.dev.svc.cluster.local.\n"
    );
    Ok(())
}

/// Node.js asks by c-ares, which has a socket for all questions under way.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn cares_finds_the_same() -> anyhow::Result<()> {
    let names = Names::start(Cni::Routed)?;
    let mut command = names.jump.command("node")?;
    let text = command.arg(source("lookup.js")).text()?;
    let expected = [
        "A ent.dev.svc.cluster.local 10.96.2.1",
        "AAAA ent.dev.svc.cluster.local fd00:96::2:1",
        "A ent.prod.svc.cluster.local 10.96.2.2",
        "AAAA ent.prod.svc.cluster.local ENODATA",
        "A nothing.dev.svc.cluster.local ENOTFOUND",
        "A www.example.com 203.0.113.80",
        "AAAA www.example.com 2001:db8::80",
        "SRV _web._tcp.set.dev.svc.cluster.local \
         set-0.set.dev.svc.cluster.local:8080 set-1.set.dev.svc.cluster.local:8080",
        "PTR 10.96.2.1 ent.dev.svc.cluster.local",
    ];
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines, expected);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn nslookup_follows_the_search_list() -> anyhow::Result<()> {
    let names = Names::start(Cni::Routed)?;
    let lookup = |name: &str| names.jump.command("nslookup")?.arg(name).text();
    let text = lookup("ent")?;
    assert!(text.contains("Name:\tent.dev.svc.cluster.local"), "{text}");
    assert!(text.contains("Address: 10.96.2.1"), "{text}");
    assert!(text.contains("Address: fd00:96::2:1"), "{text}");
    let text = lookup("10.96.2.1")?;
    assert!(text.contains("name = ent.dev.svc.cluster.local."), "{text}");
    assert!(lookup("ent.nowhere").is_err());
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn kdig_gets_the_same_answer_however_it_asks() -> anyhow::Result<()> {
    let names = Names::start(Cni::Bridged)?;
    let kdig = |args: &str| {
        let mut command = names.jump.command("kdig")?;
        command
            .args(["+retry=0", "+timeout=2"])
            .args(args.split(' '))
            .text()
    };
    for how in [
        "+noedns",
        "+edns",
        "+cookie",
        "+padding=64",
        "+dnssec",
        "+tcp",
    ] {
        for (name, address) in [
            ("ent.dev.svc.cluster.local", "10.96.2.1"),
            ("10-1-2-3.dev.pod.cluster.local", "10.1.2.3"),
            ("www.example.com", "203.0.113.80"),
        ] {
            let text = kdig(&format!("+short {how} {name} A"))?;
            assert_eq!(text.trim(), address, "{how} {name}");
        }
        let text = kdig(&format!("{how} ent.nowhere.svc.cluster.local A"))?;
        assert!(text.contains("status: NXDOMAIN"), "{how}: {text}");
    }
    Ok(())
}

/// What an init system brings along: programs ask its stub at 127.0.0.53 by their C library, or itself over a socket.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn resolved_finds_the_same_by_its_stub_and_by_itself() -> anyhow::Result<()> {
    let names = Names::start(Cni::Routed)?;
    let known = |name: &str| Ok((name.to_owned(), names.resolve(name)?));
    let expected = NAMES
        .map(known)
        .into_iter()
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut resolved = names.jump.command("sh")?;
    let search = "dev.svc.cluster.local svc.cluster.local cluster.local";
    resolved
        .arg(source("resolved.sh"))
        .args([&DNS.join(" "), search]);
    names.jump.start(&mut resolved)?;
    wait::until("an answer of systemd-resolved", PATIENCE, || {
        names.jump.run(|| by_varlink("ent"))?.map(drop)
    })
    .with_context(|| names.jump.log())?;
    let before = names.agent.counters()?["dns_answered"];

    for (name, addresses) in &expected {
        assert_eq!(names.resolve(name)?, *addresses, "{name}");
    }
    assert_eq!(
        names.resolve(upstream::NAME.trim_end_matches('.'))?,
        world()
    );
    for name in NONE {
        assert!(names.resolve(name).is_err(), "{name}");
    }
    // Names of one label are the only ones that its own search list is for.
    for (name, full) in [
        ("ent", "ent.dev.svc.cluster.local"),
        ("set", "set.dev.svc.cluster.local"),
        ("ent.prod.svc.cluster.local", "ent.prod.svc.cluster.local"),
    ] {
        let (found, canonical) = names.jump.run(|| by_varlink(name))??;
        assert_eq!((found, &*canonical), (names.resolve(full)?, full));
    }
    assert!(names.jump.run(|| by_varlink("nothing"))?.is_err());
    let after = names.agent.counters()?["dns_answered"];
    assert!(after > before, "nothing was answered in the kernel");
    Ok(())
}

/// What systemd-resolved says over the socket that its NSS module asks: addresses, and the name that has them.
fn by_varlink(name: &str) -> anyhow::Result<(Vec<IpAddr>, String)> {
    let mut socket = UnixStream::connect("/run/systemd/resolve/io.systemd.Resolve")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let call = json!({
        "method": "io.systemd.Resolve.ResolveHostname",
        "parameters": {"name": name, "flags": 0},
    });
    socket.write_all(format!("{call}\0").as_bytes())?;
    let mut answer = Vec::new();
    BufReader::new(socket).read_until(0, &mut answer)?;
    answer.pop();
    let answer: Value = serde_json::from_slice(&answer)?;
    let found = &answer["parameters"];
    let addresses = found["addresses"].as_array();
    let addresses = addresses.with_context(|| format!("{name}: {answer}"))?;
    let mut all = Vec::new();
    for address in addresses {
        let bytes: Vec<u8> = serde_json::from_value(address["address"].clone())?;
        all.push(match bytes.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(&bytes[..])?),
            _ => IpAddr::from(<[u8; 16]>::try_from(&bytes[..])?),
        });
    }
    all.sort();
    let name = found["name"].as_str().context("no name")?;
    Ok((all, name.trim_end_matches('.').to_owned()))
}
