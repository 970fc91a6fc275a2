//! What a scenario is: a sentence, and steps that each say what there is and what is then seen with kube-proxy.
//! [`crate::on_purpose`] says where signpost shows something else.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use signpost_tests::lab::probe::Protocol;

use crate::{
    place::{Backend, Client, Family, Node, THE_WORLD},
    service::Service,
};

/// A scenario.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// What it shows, as a sentence.
    pub(crate) name: String,
    pub(crate) steps: Vec<Step>,
}

/// One step: all Services that are there, and what is seen when both proxies know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Step {
    pub(crate) services: Vec<Service>,
    pub(crate) cases: Vec<Case>,
}

/// One look from one place at one target, with each of the families and protocols.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) client: Client,
    pub(crate) target: Target,
    pub(crate) families: Vec<Family>,
    pub(crate) protocols: Vec<Protocol>,
    pub(crate) expect: Expect,
    /// Over the one connection of this name, which is opened by the first case that names it.
    pub(crate) over: Option<&'static str>,
}

/// An address of a Service, and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) service: &'static str,
    pub(crate) at: At,
    /// Port of the Service; a NodePort is the one that belongs to it.
    pub(crate) port: u16,
}

/// Which of a Service's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    ClusterIp,
    NodePort(Node),
    /// The NodePort at the loopback address.
    Loopback,
    ExternalIp,
    Ingress,
    /// An address of the range of ClusterIPs that no Service has.
    Unallocated,
}

/// What is to be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// All of these over many attempts, and nothing else.
    All(BTreeSet<Observed>),
    /// Over many attempts always the same one, which is one of these.
    One(BTreeSet<Observed>),
    /// Some of these over many attempts, and nothing else.
    AnyOf(BTreeSet<Observed>),
    /// Whatever kube-proxy shows, signpost shows the same.
    TheSame,
}

/// What came of one attempt, in words that are the same for both families.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Observed {
    Answer {
        by: String,
        to: Source,
    },
    Refused,
    Silence,
    /// EPERM: the kernel did not let it out.
    Denied,
    /// ETIMEDOUT, without any wait.
    TimedOut,
    Other(String),
}

/// The client's address as a server saw it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Source {
    /// The client's own.
    Own,
    /// A node's.
    Of(Node),
    /// The one that was asked.
    Asked,
    Other(std::net::IpAddr),
}

impl Scenario {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            steps: Vec::new(),
        }
    }

    /// The next step: from now on these Services are there, and no others.
    pub(crate) fn step(mut self, services: impl IntoIterator<Item = Service>) -> Self {
        self.steps.push(Step {
            services: services.into_iter().collect(),
            cases: Vec::new(),
        });
        self
    }

    /// What a client sees in this step, with both families and both protocols.
    pub(crate) fn sees(mut self, client: Client, target: Target, expect: Expect) -> Self {
        let step = self.steps.last_mut().expect("a step comes first");
        step.cases.push(Case {
            client,
            target,
            families: Family::BOTH.to_vec(),
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            expect,
            over: None,
        });
        self
    }

    /// With TCP alone.
    pub(crate) fn tcp(self) -> Self {
        self.last(|case| case.protocols = vec![Protocol::Tcp])
    }

    /// With UDP alone.
    pub(crate) fn udp(self) -> Self {
        self.last(|case| case.protocols = vec![Protocol::Udp])
    }

    /// By ping.
    pub(crate) fn ping(self) -> Self {
        self.last(|case| case.protocols = vec![Protocol::Ping])
    }

    /// With one family alone.
    pub(crate) fn only(self, family: Family) -> Self {
        self.last(|case| case.families = vec![family])
    }

    /// Over a connection with a name, one for each family and protocol.
    pub(crate) fn over(self, name: &'static str) -> Self {
        self.last(|case| case.over = Some(name))
    }

    fn last(mut self, change: impl FnOnce(&mut Case)) -> Self {
        let step = self.steps.last_mut().expect("a step comes first");
        change(step.cases.last_mut().expect("a case comes first"));
        self
    }
}

impl Observed {
    /// The same answer to a client that was seen with another address.
    pub(crate) fn to(&self, source: Source) -> Self {
        match self {
            Self::Answer { by, .. } => Self::Answer {
                by: by.clone(),
                to: source,
            },
            other => other.clone(),
        }
    }
}

impl Target {
    const fn new(at: At) -> Self {
        Self {
            service: "s",
            at,
            port: 80,
        }
    }

    /// Of the scenario's second Service.
    pub(crate) const fn second(mut self) -> Self {
        self.service = "t";
        self
    }

    pub(crate) const fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }
}

/// Port 80 of the ClusterIP.
pub(crate) const VIP: Target = Target::new(At::ClusterIp);

/// The NodePort of port 80 at the first node.
pub(crate) const NODE_PORT: Target = Target::new(At::NodePort(Node::One));

/// The NodePort of port 80 at the second node.
pub(crate) const NODE_PORT_OF_TWO: Target = Target::new(At::NodePort(Node::Two));

/// The NodePort of port 80 at the loopback address.
pub(crate) const LOOPBACK: Target = Target::new(At::Loopback);

/// Port 80 of the external IP.
pub(crate) const EXTERNAL_IP: Target = Target::new(At::ExternalIp);

/// Port 80 of the load balancer's ingress address.
pub(crate) const INGRESS: Target = Target::new(At::Ingress);

/// Port 80 of an address that no Service has.
pub(crate) const UNALLOCATED: Target = Target::new(At::Unallocated);

/// All of these are reached, and see the client's own address.
pub(crate) fn reaches(backends: &[Backend]) -> Expect {
    reaches_as(&Source::Own, backends)
}

/// All of these are reached, and see this address.
pub(crate) fn reaches_as(source: &Source, backends: &[Backend]) -> Expect {
    Expect::All(answers(source, backends))
}

/// Always the same one of these is reached.
pub(crate) fn one_of(backends: &[Backend]) -> Expect {
    Expect::One(answers(&Source::Own, backends))
}

/// Refused at once.
pub(crate) fn refused() -> Expect {
    Expect::All([Observed::Refused].into())
}

/// Nothing comes back.
pub(crate) fn silence() -> Expect {
    Expect::All([Observed::Silence].into())
}

/// The client's own kernel does not let it out. It tells so to datagrams; a SYN is sent again.
pub(crate) fn denied() -> Expect {
    Expect::All([Observed::Denied].into())
}

/// No node took the packet: it reached the world beyond the wire.
pub(crate) fn the_world() -> Expect {
    Expect::All(
        [Observed::Answer {
            by: THE_WORLD.to_owned(),
            to: Source::Own,
        }]
        .into(),
    )
}

fn answers(source: &Source, backends: &[Backend]) -> BTreeSet<Observed> {
    let answer = |backend: &Backend| Observed::Answer {
        by: backend.name().to_owned(),
        to: source.clone(),
    };
    backends.iter().map(answer).collect()
}

impl Expect {
    /// Whether this is what was seen.
    pub(crate) fn is(&self, seen: &BTreeSet<Observed>) -> bool {
        match self {
            Self::All(all) => seen == all,
            Self::One(some) => seen.len() == 1 && seen.is_subset(some),
            Self::AnyOf(any) => !seen.is_empty() && seen.is_subset(any),
            Self::TheSame => true,
        }
    }
}
