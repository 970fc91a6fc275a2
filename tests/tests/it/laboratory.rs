//! The laboratory itself: without signpost, pods reach each other by their own addresses and nothing else.

use std::{net::SocketAddr, time::Duration};

use signpost_tests::lab::{
    Cni, Lab, Upstream,
    client::{Datagrams, get},
    programs, serve, upstream,
};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
#[ignore = "needs root: cargo xtask test"]
fn every_pod_reaches_every_other() -> anyhow::Result<()> {
    let lab = Lab::builder()
        .node("routed", Cni::Routed)
        .node("bridged", Cni::Bridged)
        .start()?;
    let mut pods = Vec::new();
    for node in lab.nodes() {
        for number in 0..2 {
            let pod = node.pod(&format!("{}-{number}", node.name()))?;
            serve(&pod, &[8080])?;
            pods.push(pod);
        }
    }
    for client in &pods {
        for server in &pods {
            for ip in [server.v4(), server.v6()] {
                let address = SocketAddr::new(ip, 8080);
                let answer = client.run(|| get(address, PATIENCE))??;
                assert_eq!(answer, server.name(), "{} to {ip}", client.name());
                let answer =
                    client.run(|| Datagrams::to(address, PATIENCE)?.ask(&[b'x'; 8000]))??;
                assert_eq!(answer, server.name(), "{} to {ip}", client.name());
            }
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_has_a_resolv_conf_and_a_host_name_of_its_own() -> anyhow::Result<()> {
    let lab = Lab::builder().node("one", Cni::Routed).start()?;
    let pod = lab.node("one")?.pod("client")?;
    assert_eq!(
        pod.command("cat")?.arg("/etc/resolv.conf").text()?,
        "nameserver 10.96.0.10\n\
         search default.svc.cluster.local svc.cluster.local cluster.local\n\
         options ndots:5\n"
    );
    assert_eq!(pod.command("uname")?.arg("-n").text()?, "client\n");
    let user = pod.command("id")?.arg("-u").unprivileged().text()?;
    assert_eq!(user, "65534\n");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn nothing_is_left_of_a_laboratory() -> anyhow::Result<()> {
    let lab = Lab::builder().node("one", Cni::Bridged).start()?;
    let folder = lab.folder().to_owned();
    let cgroup = lab.node("one")?.cgroup().path().to_owned();
    let pod = lab.node("one")?.pod("p")?;
    serve(&pod, &[8080])?;
    assert!(folder.exists() && cgroup.exists());
    drop((lab, pod));
    assert!(!folder.exists() && !cgroup.exists());
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_name_server_of_the_world_remembers_what_it_was_asked() -> anyhow::Result<()> {
    let lab = Lab::builder()
        .node("one", Cni::Routed)
        .nameservers(&[signpost_tests::lab::WORLD[0].parse()?])
        .start()?;
    let upstream = Upstream::start(&lab)?;
    let pod = lab.node("one")?.pod("client")?;
    let mut resolve = pod.command(programs::lab_pod()?)?;
    let found = resolve.args(["resolve", "www.example.com"]).text()?;
    let (v4, v6) = upstream::ADDRESSES;
    assert_eq!(found, format!("{v4}\n{v6}\n"));
    let asked = upstream.questions();
    // A and AAAA for each of the three suffixes, and for the name.
    assert_eq!(asked.len(), 8, "{asked:?}");
    Ok(())
}
