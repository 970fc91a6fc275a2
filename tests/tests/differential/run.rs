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
    place::{Backend, Client, Family, Node},
    record::Record,
    scenario::{At, Case, Expect, Observed, Scenario, Source},
    service::{Endpoint, Service},
    sync::{Marker, with_logs},
    witness::Witness,
    world::{Mode, Provider, Worlds},
};

/// How often a target is asked for each endpoint that there is. One of two is missed by chance once in 10⁹ times, one of
/// three still less often.
const TIMES: usize = 16;

/// How often in IPVS mode, where endpoints are taken in turn and processors are emulated,
const IN_TURN: usize = 8;
/// and where there is one at most.
const ALONE: usize = 4;

/// One look with one family and protocol, and what was seen with each provider.
pub(crate) struct Look<'a> {
    pub(crate) mode: Mode,
    pub(crate) scenario: &'a Scenario,
    /// From 1.
    pub(crate) step: usize,
    pub(crate) case: &'a Case,
    pub(crate) family: Family,
    pub(crate) protocol: Protocol,
    /// What kube-proxy showed with TCP where the same was asked with UDP.
    pub(crate) with_tcp: Option<BTreeSet<Observed>>,
    /// In place of a kube-proxy that is not there its record stands, and else what the scenario says of it.
    pub(crate) seen: BTreeMap<Provider, BTreeSet<Observed>>,
    /// What a second witness says against what signpost showed.
    pub(crate) witness: Option<String>,
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
        worlds.store.change(&there, &wanted)?;
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
            let times = match (worlds.mode, endpoints.count()) {
                (Mode::Ipvs, 0 | 1) => ALONE,
                (Mode::Ipvs, count) => IN_TURN * count,
                (Mode::Ebpf, count) => TIMES * count.max(2),
            };
            let times = u32::try_from(times)?;
            for family in &case.families {
                for protocol in &case.protocols {
                    let to = address(case, slot, *family);
                    let over = case.over.map(|name| {
                        format!("{number} {name} {family:?} {protocol:?} {:?}", case.client)
                    });
                    let list = questions.entry(case.client).or_default();
                    places.push((case.client, list.len(), to));
                    list.push(Question {
                        protocol: *protocol,
                        to,
                        times,
                        over,
                    });
                    looks.push(Look {
                        mode: worlds.mode,
                        scenario,
                        step,
                        case,
                        family: *family,
                        protocol: *protocol,
                        with_tcp: None,
                        seen: BTreeMap::new(),
                        witness: None,
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
            let seen = observe(sight, *client, look.family, asked.ip());
            look.seen.insert(*provider, seen);
        }
    }
    if worlds.mode == Mode::Ipvs {
        let record = Record::kept()?;
        let witness = Witness::hear(&worlds.nodes()?)?;
        for (look, (_, _, asked)) in looks.iter_mut().zip(&places) {
            let of_kube_proxy = look.of_absent_kube_proxy(&record)?;
            look.seen.insert(Provider::KubeProxy, of_kube_proxy);
            look.witness = witness.against(look, *asked);
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

    /// What kube-proxy showed.
    pub(crate) fn of_kube_proxy(&self) -> &BTreeSet<Observed> {
        &self.seen[&Provider::KubeProxy]
    }

    fn of_absent_kube_proxy(&self, record: &Record) -> Result<BTreeSet<Observed>> {
        match &self.case.expect {
            Expect::All(seen) | Expect::One(seen) | Expect::AnyOf(seen) => Ok(seen.clone()),
            Expect::TheSame => record.seen(self).cloned().with_context(|| {
                let name = &self.scenario.name;
                format!("nothing is recorded of “{name}”: RECORD=1 cargo xtask test differential")
            }),
        }
    }

    /// The node whose proxy carries out the target for the client.
    pub(crate) const fn node(&self) -> Node {
        match self.case.target.at {
            At::NodePort(node) => node,
            _ => self.case.client.node(),
        }
    }

    /// The Service that is asked, as it is in this step.
    fn service(&self) -> Option<&Service> {
        let mut services = self.scenario.steps[self.step - 1].services.iter();
        services.find(|service| service.name == self.case.target.service)
    }

    /// The endpoints of a node that a policy Local goes by: those that are ready, and else those that serve while they
    /// terminate.
    pub(crate) fn local_endpoints(&self, node: Node) -> Vec<Backend> {
        let slices = self.service().map_or(&[][..], |service| &service.slices);
        let here = || slices.iter().flatten().filter(|e| e.at.node() == node);
        let named = |wanted: fn(&Endpoint) -> bool| -> Vec<Backend> {
            here().filter(|e| wanted(e)).map(|e| e.at).collect()
        };
        let ready = named(|endpoint| endpoint.ready != Some(false));
        if ready.is_empty() {
            named(|endpoint| endpoint.serving == Some(true) && endpoint.terminating == Some(true))
        } else {
            ready
        }
    }

    /// The endpoints that are ready.
    pub(crate) fn ready_endpoints(&self) -> Vec<Backend> {
        let slices = self.service().map_or(&[][..], |service| &service.slices);
        let ready = slices.iter().flatten().filter(|e| e.ready != Some(false));
        ready.map(|endpoint| endpoint.at).collect()
    }

    /// The endpoints of the Service.
    pub(crate) fn endpoints(&self) -> Vec<Backend> {
        let slices = self.service().map_or(&[][..], |service| &service.slices);
        slices
            .iter()
            .flatten()
            .map(|endpoint| endpoint.at)
            .collect()
    }

    /// Whether the Service's external policy is Local.
    pub(crate) fn is_externally_local(&self) -> bool {
        let service = self.service();
        service.is_some_and(|service| service.external == Some("Local"))
    }

    /// Whether the Service has session affinity.
    pub(crate) fn keeps_clients(&self) -> bool {
        let service = self.service();
        service.is_some_and(|service| service.affinity.is_some())
    }

    pub(crate) const fn is_of_host(&self) -> bool {
        matches!(self.case.client, Client::Host(_))
    }

    /// Whether the ClusterIP is one of a Service that is another proxy's.
    pub(crate) fn is_for_another_proxy(&self) -> bool {
        self.case.target.at == At::ClusterIp
            && self.service().is_some_and(|service| {
                let mut labels = service.labels.iter();
                labels.any(|(label, _)| label.ends_with("/service-proxy-name"))
            })
    }

    /// Whether a provider showed what it must. A kube-proxy that is not there did.
    pub(crate) fn is_met_by(&self, provider: Provider) -> bool {
        let is_absent = provider == Provider::KubeProxy && self.mode == Mode::Ipvs;
        is_absent || self.expected(provider).is(&self.seen[&provider])
    }
}
