use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::dataplane::ipvs::server::{OURS, Terms};

/// A kernel that refuses what the real one refuses.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kernel(BTreeMap<ServerKey, KnownServer>);

impl Kernel {
    fn carry_out(&mut self, operation: &Operation) {
        let refuse = || panic!("{operation:?} is refused");
        match operation {
            Operation::AddServer(key, terms) => {
                let server = KnownServer {
                    terms: terms.clone(),
                    destinations: BTreeMap::new(),
                };
                if self.0.insert(*key, server).is_some() {
                    refuse();
                }
            }
            Operation::SetServer(key, terms) => self.server(operation, key).terms = terms.clone(),
            Operation::DeleteServer(key) => {
                let gone = self.0.remove(key);
                let gone = gone.unwrap_or_else(|| panic!("{operation:?} is refused"));
                let left = gone.destinations.values().any(|d| d.connections > 0);
                let kept = key.protocol == Protocol::Udp || !left;
                assert!(kept, "{operation:?} breaks connections");
            }
            Operation::AddDestination(key, to, weight) => {
                let new = KnownDestination {
                    weight: *weight,
                    connections: 0,
                };
                let before = self.server(operation, key).destinations.insert(*to, new);
                if before.is_some() {
                    refuse();
                }
            }
            Operation::SetDestination(key, to, weight) => {
                let destinations = &mut self.server(operation, key).destinations;
                destinations
                    .get_mut(to)
                    .unwrap_or_else(|| panic!("{operation:?}"))
                    .weight = *weight;
            }
            Operation::DeleteDestination(key, to) => {
                let gone = self.server(operation, key).destinations.remove(to);
                let gone = gone.unwrap_or_else(|| panic!("{operation:?} is refused"));
                let kept = key.protocol == Protocol::Udp || gone.connections == 0;
                assert!(kept, "{operation:?} breaks connections");
            }
        }
    }

    fn server(&mut self, operation: &Operation, key: &ServerKey) -> &mut KnownServer {
        let server = self.0.get_mut(key);
        server.unwrap_or_else(|| panic!("{operation:?} is refused"))
    }
}

#[derive(Debug, Default)]
struct Bench {
    differ: Differ,
    kernel: Kernel,
}

impl Bench {
    /// Carries out all that is to do now.
    fn round(&mut self) -> Vec<Operation> {
        let mut all = Vec::new();
        for key in self.differ.keys() {
            for operation in self.differ.operations(&key) {
                self.kernel.carry_out(&operation);
                self.differ.carried_out(&operation);
                all.push(operation);
            }
        }
        all
    }

    fn count(&mut self) {
        for key in self.differ.draining() {
            let known = self.kernel.0.get(&key).cloned();
            self.differ.know(key, known);
        }
    }

    /// Another agent comes.
    fn restart(&mut self) {
        self.differ.set_known(self.kernel.0.clone());
    }

    fn connect(&mut self, key: &ServerKey, to: &str, connections: u32) {
        let server = self.kernel.0.get_mut(key).unwrap();
        let destination = server.destinations.get_mut(&to.parse().unwrap()).unwrap();
        destination.connections = connections;
    }
}

fn key(protocol: Protocol, last: u8) -> ServerKey {
    ServerKey {
        protocol,
        address: IpAddr::from([10, 96, 0, last]),
        port: 80,
    }
}

fn terms(persistence: Option<u32>) -> Terms {
    Terms {
        scheduler: "rr".into(),
        flags: OURS,
        persistence,
    }
}

fn server(destinations: &[&str]) -> Server {
    let destinations: BTreeSet<SocketAddr> =
        destinations.iter().map(|to| to.parse().unwrap()).collect();
    Server {
        terms: terms(None),
        destinations: destinations.into_iter().collect(),
    }
}

const A: &str = "10.1.0.1:8080";
const B: &str = "10.1.0.2:8080";

#[test]
fn a_destination_goes_once_its_last_connection_has() {
    let mut bench = Bench::default();
    let key = key(Protocol::Tcp, 1);
    bench.differ.want(key, Some(server(&[A, B])));
    bench.round();
    bench.connect(&key, A, 3);
    bench.differ.want(key, Some(server(&[B])));
    let to = A.parse().unwrap();
    assert_eq!(bench.round(), [Operation::SetDestination(key, to, 0)]);
    bench.count();
    assert_eq!(bench.round(), [], "it has connections");
    bench.connect(&key, A, 0);
    assert_eq!(bench.round(), [], "nobody has counted");
    bench.count();
    assert_eq!(bench.round(), [Operation::DeleteDestination(key, to)]);
    assert!(bench.differ.draining().is_empty());
}

#[test]
fn a_destination_that_comes_back_gets_its_weight_back() {
    let mut bench = Bench::default();
    let key = key(Protocol::Sctp, 1);
    bench.differ.want(key, Some(server(&[A, B])));
    bench.round();
    bench.differ.want(key, Some(server(&[B])));
    bench.round();
    bench.differ.want(key, Some(server(&[A, B])));
    let to = A.parse().unwrap();
    assert_eq!(bench.round(), [Operation::SetDestination(key, to, WEIGHT)]);
}

/// kubernetes/kubernetes#92019: kube-proxy forgot with a restart why the weight was 0.
#[test]
fn the_weight_is_right_after_a_restart() {
    let mut bench = Bench::default();
    let key = key(Protocol::Tcp, 1);
    bench.differ.want(key, Some(server(&[A])));
    bench.round();
    bench.differ.want(key, Some(server(&[])));
    bench.round();
    bench.restart();
    bench.differ.want(key, Some(server(&[A])));
    let to = A.parse().unwrap();
    assert_eq!(bench.round(), [Operation::SetDestination(key, to, WEIGHT)]);
}

#[test]
fn a_restart_changes_nothing_that_is_right() {
    let mut bench = Bench::default();
    for (protocol, last) in [(Protocol::Tcp, 1), (Protocol::Udp, 2)] {
        bench
            .differ
            .want(key(protocol, last), Some(server(&[A, B])));
    }
    bench.round();
    bench.restart();
    assert_eq!(bench.round(), []);
}

#[test]
fn of_udp_all_goes_at_once() {
    let mut bench = Bench::default();
    let key = key(Protocol::Udp, 1);
    bench.differ.want(key, Some(server(&[A, B])));
    bench.round();
    bench.connect(&key, A, 7);
    bench.differ.want(key, Some(server(&[B])));
    let to = A.parse().unwrap();
    assert_eq!(bench.round(), [Operation::DeleteDestination(key, to)]);
    bench.differ.want(key, None);
    assert_eq!(bench.round(), [Operation::DeleteServer(key)]);
}

#[test]
fn a_virtual_server_goes_with_the_last_of_its_connections() {
    let mut bench = Bench::default();
    let key = key(Protocol::Tcp, 1);
    bench.differ.want(key, Some(server(&[A])));
    bench.round();
    bench.connect(&key, A, 1);
    bench.differ.want(key, None);
    bench.round();
    bench.count();
    assert_eq!(bench.round(), []);
    assert!(bench.differ.serves_at(key.address));
    bench.connect(&key, A, 0);
    bench.count();
    assert_eq!(bench.round(), [Operation::DeleteServer(key)]);
    assert!(!bench.differ.serves_at(key.address));
}

#[test]
fn what_somebody_else_has_made_is_left_alone_or_taken_over() {
    let mut bench = Bench::default();
    let (theirs, wanted) = (key(Protocol::Tcp, 1), key(Protocol::Tcp, 2));
    for key in [theirs, wanted] {
        let server = KnownServer {
            terms: Terms {
                flags: 0,
                ..terms(None)
            },
            destinations: BTreeMap::new(),
        };
        bench.kernel.0.insert(key, server);
    }
    bench.restart();
    bench.differ.want(wanted, Some(server(&[])));
    assert_eq!(
        bench.round(),
        [Operation::SetServer(wanted, terms(None))],
        "connections of kube-proxy's stay"
    );
    assert!(!bench.differ.serves_at(theirs.address));
}

#[derive(Clone, Debug)]
enum Step {
    Want(ServerKey, Option<Server>),
    Restart,
    /// All destinations have so many connections.
    Connections(u32),
    Count,
}

fn step() -> impl Strategy<Value = Step> {
    let protocols = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]);
    let keys = (protocols, 1..4_u8).prop_map(|(protocol, last)| key(protocol, last));
    let destinations = prop::collection::btree_set(1..5_u8, 0..4);
    let persistence = prop::option::of(Just(10_800_u32));
    let server = (destinations, persistence).prop_map(|(destinations, persistence)| Server {
        terms: terms(persistence),
        destinations: destinations
            .into_iter()
            .map(|last| SocketAddr::from(([10, 1, 0, last], 8080)))
            .collect(),
    });
    prop_oneof![
        6 => (keys, prop::option::weighted(0.8, server)).prop_map(|(k, s)| Step::Want(k, s)),
        1 => Just(Step::Restart),
        2 => (0..3_u32).prop_map(Step::Connections),
        2 => Just(Step::Count),
    ]
}

proptest! {
    /// Whatever happens, no connection of TCP is broken, the kernel refuses nothing, and in the end it has what it would have
    /// if the agent had started just now on an empty one.
    #[test]
    fn any_changes_end_as_a_fresh_start(steps in prop::collection::vec(step(), 1..40)) {
        let mut bench = Bench::default();
        for step in steps {
            match step {
                Step::Want(key, server) => bench.differ.want(key, server),
                Step::Restart => bench.restart(),
                Step::Connections(count) => {
                    for server in bench.kernel.0.values_mut() {
                        for destination in server.destinations.values_mut() {
                            destination.connections = count;
                        }
                    }
                }
                Step::Count => bench.count(),
            }
            bench.round();
            prop_assert!(bench.round().is_empty(), "one round is enough");
            for (key, wanted) in bench.differ.wanted() {
                let known = &bench.kernel.0[key];
                prop_assert_eq!(&known.terms, &wanted.terms);
                let chosen: Vec<SocketAddr> = known
                    .destinations
                    .iter()
                    .filter(|(_, destination)| destination.weight > 0)
                    .map(|(to, _)| *to)
                    .collect();
                prop_assert_eq!(&chosen, &wanted.destinations);
            }
        }
        for server in bench.kernel.0.values_mut() {
            for destination in server.destinations.values_mut() {
                destination.connections = 0;
            }
        }
        bench.count();
        bench.round();
        let mut fresh = Bench::default();
        for (key, server) in bench.differ.wanted().clone() {
            fresh.differ.want(key, Some(server));
        }
        fresh.round();
        prop_assert_eq!(bench.kernel, fresh.kernel);
    }
}
