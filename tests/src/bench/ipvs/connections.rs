//! Connections through the eBPF mode and through the IPVS mode, beside direct ones.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use crate::{
    bench::{
        Options,
        connector::{Connector, exchange},
        figure::Figure,
        progress::Progress,
        rounds::{Comparison, Of, Subject, take},
        site::{ANSWERS, FAR, NEAR, PORTS, Site, service, slice, write},
    },
    lab::{Agent, wait::until},
};

/// Connections in one slice: they are slow where the processor is emulated.
const CONNECTIONS: u32 = 100;
/// How long an agent may take to serve, on processors that are not emulated.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

const DIRECT: &str = "direct";
const EBPF: &str = "eBPF mode";
const IPVS: &str = "IPVS mode";

/// A laboratory, and the client in it.
struct Place {
    name: &'static str,
    client: Connector,
    site: Site,
}

/// Measures it.
pub(super) fn run(options: &Options) -> Result<Vec<Figure>> {
    let mut places = [
        Place::raise(DIRECT, None)?,
        Place::raise(EBPF, Some("ebpf"))?,
        Place::raise(IPVS, Some("ipvs"))?,
    ];
    let progress = Progress::new("connections", 2 * (options.pairs + 1));
    let mut figures = Vec::new();
    for local in [true, false] {
        let mut subjects = Vec::new();
        for place in &mut places {
            let to = place.target(local);
            let client = &mut place.client;
            subjects.push(Subject::new(place.name, move || {
                client.slice(to, CONNECTIONS)
            }));
        }
        take(&mut subjects, options.pairs, &progress)?;
        let backend = if local { "local" } else { "remote" };
        for (subject, against) in [(EBPF, IPVS), (EBPF, DIRECT), (IPVS, DIRECT)] {
            let comparison = Comparison {
                suite: "ipvs",
                what: &format!("pod → ClusterIP, {backend} backend: {subject}"),
                unit: "1/s",
                of: Of::Value,
                subject,
                against,
                reach: None,
            };
            figures.push(comparison.figure(&subjects));
        }
    }
    Ok(figures)
}

impl Place {
    fn raise(name: &'static str, mode: Option<&str>) -> Result<Self> {
        let mut site = Site::plain()?;
        if let Some(mode) = mode {
            let objects = [
                service("default", "near", NEAR, &PORTS),
                slice("near", site.near.v4()),
                service("default", "far", FAR, &PORTS),
                slice("far", site.far.v4()),
            ];
            write(&site.lab, "services", &objects)?;
            let flags = ["--mode", mode, "--cluster-cidr", "10.244.0.0/16"];
            for node in site.lab.nodes() {
                site.agents.push(Agent::with_flags(node, &flags)?);
            }
            for address in [NEAR, FAR] {
                until("an answer", PATIENCE, || {
                    site.clients[0].run(|| exchange((address, 80).into()))?
                })?;
            }
        }
        Ok(Self {
            name,
            client: Connector::start(|program| site.clients[0].command(program))?,
            site,
        })
    }

    fn target(&self, local: bool) -> SocketAddr {
        let (service, pod): (IpAddr, _) = if local {
            (NEAR.into(), &self.site.near)
        } else {
            (FAR.into(), &self.site.far)
        };
        if self.name == DIRECT {
            (pod.v4(), ANSWERS).into()
        } else {
            (service, 80).into()
        }
    }
}
