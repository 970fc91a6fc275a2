//! Runs all scenarios side by side: every scenario is in its first step, then every one in its second.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result};
use signpost_tests::lab::probe::{Protocol, Question, Seen, Sight};

use crate::{
    addresses::Slot,
    objects::{self, Objects},
    on_purpose,
    place::{Client, Family, Node},
    scenario::{At, Case, Expect, Observed, Scenario, Source},
    sync::{Marker, with_logs},
    world::{Provider, Worlds},
};

/// How often a target is asked for each endpoint that there is. One of two is missed by chance once in 10⁹ times, one of
/// three still less often.
const TIMES: usize = 16;

/// One look with one family and protocol, and what both providers showed.
pub(crate) struct Look<'a> {
    pub(crate) scenario: &'a Scenario,
    /// From 1.
    pub(crate) step: usize,
    pub(crate) case: &'a Case,
    pub(crate) family: Family,
    pub(crate) protocol: Protocol,
    /// What kube-proxy showed with TCP where the same was asked with UDP.
    pub(crate) with_tcp: Option<BTreeSet<Observed>>,
    pub(crate) seen: BTreeMap<Provider, BTreeSet<Observed>>,
}

/// Runs the scenarios, and gives everything that was seen.
pub(crate) fn all<'a>(worlds: &mut Worlds, scenarios: &'a [Scenario]) -> Result<Vec<Look<'a>>> {
    let mut marker = Marker::default();
    let mut there = Objects::new();
    let mut looks = Vec::new();
    let steps = scenarios.iter().map(|s| s.steps.len()).max().unwrap_or(0);
    for step in 1..=steps {
        let start = Instant::now();
        let wanted = objects_in(scenarios, step);
        worlds.server.change(&there, &wanted)?;
        there = wanted;
        let followed = marker.wait(worlds);
        with_logs(worlds, followed)?;
        let synced = start.elapsed();
        looks.extend(look(worlds, scenarios, step)?);
        println!(
            "step {step}: written and carried out in {} ms, all looked in {} ms",
            synced.as_millis(),
            (start.elapsed() - synced).as_millis()
        );
    }
    Ok(looks)
}

/// What is there in a step. A scenario that has ended keeps what it had.
fn objects_in(scenarios: &[Scenario], step: usize) -> Objects {
    let mut all = Objects::new();
    for (number, scenario) in scenarios.iter().enumerate() {
        let last = scenario.steps.len();
        for service in &scenario.steps[step.min(last) - 1].services {
            let slot = Slot::new(number + 1, service.name);
            let name = format!("{}{}", service.name, number + 1);
            all.extend(objects::of(service, &name, slot));
        }
    }
    all
}

fn look<'a>(worlds: &mut Worlds, scenarios: &'a [Scenario], step: usize) -> Result<Vec<Look<'a>>> {
    let mut looks = Vec::new();
    let mut questions: BTreeMap<Client, Vec<Question>> = BTreeMap::new();
    let mut places = Vec::new();
    for (number, scenario) in scenarios.iter().enumerate() {
        let Some(of_step) = scenario.steps.get(step - 1) else {
            continue;
        };
        for case in &of_step.cases {
            let slot = Slot::new(number + 1, case.target.service);
            let endpoints = of_step.services.iter().flat_map(|s| &s.slices).flatten();
            let times = u32::try_from(TIMES * endpoints.count().max(2))?;
            for family in &case.families {
                for protocol in &case.protocols {
                    let to = address(case, slot, *family);
                    let over = case.over.map(|name| {
                        format!("{number} {name} {family:?} {protocol:?} {:?}", case.client)
                    });
                    let list = questions.entry(case.client).or_default();
                    places.push((case.client, list.len(), to.ip()));
                    list.push(Question {
                        protocol: *protocol,
                        to,
                        times,
                        over,
                    });
                    looks.push(Look {
                        scenario,
                        step,
                        case,
                        family: *family,
                        protocol: *protocol,
                        with_tcp: None,
                        seen: BTreeMap::new(),
                    });
                }
            }
        }
    }
    let questions = &questions;
    let answers: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = worlds
            .worlds
            .iter_mut()
            .map(|world| scope.spawn(|| Ok((world.provider, world.ask(questions)?))))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect::<Result<_>>()
    })?;
    for (provider, of_clients) in &answers {
        for (look, (client, index, asked)) in looks.iter_mut().zip(&places) {
            let sight = of_clients
                .get(client)
                .and_then(|sights| sights.get(*index))
                .context("an answer is missing")?;
            let seen = observe(sight, *client, look.family, *asked);
            look.seen.insert(*provider, seen);
        }
    }
    let with_tcp: BTreeMap<_, _> = looks
        .iter()
        .filter(|look| look.protocol == Protocol::Tcp)
        .map(|look| (look.question(), look.seen[&Provider::KubeProxy].clone()))
        .collect();
    for look in &mut looks {
        look.with_tcp = with_tcp.get(&look.question()).cloned();
    }
    Ok(looks)
}

fn address(case: &Case, slot: Slot, family: Family) -> SocketAddr {
    let port = case.target.port;
    let (pair, port): ([IpAddr; 2], u16) = match case.target.at {
        At::ClusterIp => (slot.cluster_ips(), port),
        At::ExternalIp => (slot.external_ips(), port),
        At::Ingress => (slot.ingress(), port),
        At::Unallocated => (slot.unallocated(), port),
        At::NodePort(node) => (node.addresses(), slot.node_port(port)),
        At::Loopback => (
            [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            slot.node_port(port),
        ),
    };
    SocketAddr::new(family.of(pair), port)
}

/// Puts what a prober saw into words that do not depend on the family.
fn observe(sight: &Sight, client: Client, family: Family, asked: IpAddr) -> BTreeSet<Observed> {
    let source = |address: IpAddr| {
        if address == family.of(client.addresses()) {
            return Source::Own;
        }
        if address == asked {
            return Source::Asked;
        }
        let mut nodes = Node::ALL.into_iter();
        match nodes.find(|node| family.of(node.addresses()) == address) {
            Some(node) => Source::Of(node),
            None => Source::Other(address),
        }
    };
    sight
        .iter()
        .map(|seen| match seen {
            Seen::Answer { by, to } => Observed::Answer {
                by: by.clone(),
                to: source(*to),
            },
            Seen::Refused => Observed::Refused,
            Seen::Silence => Observed::Silence,
            Seen::Denied => Observed::Denied,
            Seen::TimedOut => Observed::TimedOut,
            Seen::Other(text) => Observed::Other(text.clone()),
        })
        .collect()
}

impl Look<'_> {
    /// What is asked in a step, with whatever protocol.
    fn question(&self) -> (String, Client, Family, String) {
        let target = format!("{:?}", self.case.target);
        let name = self.scenario.name.clone();
        (name, self.case.client, self.family, target)
    }

    /// What kube-proxy must show, and what signpost must.
    pub(crate) fn expected(&self, provider: Provider) -> Expect {
        let of_kube_proxy = match &self.case.expect {
            Expect::TheSame => Expect::All(self.seen[&Provider::KubeProxy].clone()),
            expect => expect.clone(),
        };
        match provider {
            Provider::KubeProxy => of_kube_proxy,
            Provider::Signpost => on_purpose::instead(self, &of_kube_proxy),
        }
    }

    pub(crate) const fn is_of_host(&self) -> bool {
        matches!(self.case.client, Client::Host(_))
    }

    /// Whether the ClusterIP is one of a Service that is another proxy's.
    pub(crate) fn is_for_another_proxy(&self) -> bool {
        let mut services = self.scenario.steps[self.step - 1].services.iter();
        self.case.target.at == At::ClusterIp
            && services.any(|service| {
                let mut labels = service.labels.iter();
                service.name == self.case.target.service
                    && labels.any(|(label, _)| label.ends_with("/service-proxy-name"))
            })
    }

    /// Whether a provider showed what it must.
    pub(crate) fn is_met_by(&self, provider: Provider) -> bool {
        self.expected(provider).is(&self.seen[&provider])
    }
}
