//! From what the files say to the objects of a cluster: what a control plane would have made of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::Arc,
};

use super::{
    allocate::{Allocator, Wish},
    folder::Folder,
    manifest::{Content, Manifest},
    node_ports::{HEALTH_CHECK, NodePorts, Purpose},
    service::ServiceDraft,
    slices::{Pods, slices},
};
use crate::{
    model::{
        EndpointSlice, Family, Kind, Labels, Namespace, Node, Object, ObjectName, Pod, Problem,
        Service, ServiceKind,
    },
    source::convert,
};

/// Namespaces that every cluster has.
const NAMESPACES: [&str; 2] = ["default", "kube-system"];

/// The objects of a cluster.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub(super) objects: BTreeMap<(Kind, ObjectName), (Known, Vec<Problem>)>,
    /// What is wrong with other things: files, Pods, objects that cannot be used.
    pub(super) problems: BTreeMap<(String, ObjectName), Vec<Problem>>,
}

/// An object.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Known {
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Namespace(Namespace),
    Node(Arc<Node>),
    Pod(Arc<Pod>),
}

impl Known {
    /// The object as sources emit it.
    pub(super) fn object(&self) -> Object {
        match self {
            Self::Service(service) => Object::Service(service.clone()),
            Self::EndpointSlice(slice) => Object::EndpointSlice(slice.clone()),
            Self::Namespace(namespace) => Object::Namespace(namespace.clone()),
            Self::Node(node) => Object::Node(Node::clone(node)),
            Self::Pod(pod) => Object::Pod(pod.clone()),
        }
    }
}

/// Makes the objects. `node` is the Node that is wanted.
pub(super) fn cluster(
    folder: &Folder,
    allocator: &mut Allocator,
    node_ports: &mut NodePorts,
    node: Option<&str>,
) -> Cluster {
    let mut cluster = Cluster::default();
    let manifests = cluster.manifests(folder);
    cluster.add_namespaces(&manifests);
    for manifest in &manifests {
        cluster.add_as_it_is(manifest, node);
    }
    let families = cluster.add_services(&manifests, allocator, folder.is_partly_unreadable());
    cluster.add_node_ports(&manifests, node_ports, folder.is_partly_unreadable());
    cluster.add_slices(&manifests, &families);
    cluster.add_pods(&manifests);
    cluster
}

type Families = BTreeMap<ObjectName, Vec<Family>>;

impl Cluster {
    /// All manifests, each object once: the first file that has it wins.
    fn manifests<'a>(&mut self, folder: &'a Folder) -> Vec<&'a Manifest> {
        let mut manifests = Vec::new();
        let mut first: BTreeMap<(&str, &ObjectName), (&Path, usize)> = BTreeMap::new();
        for (path, file) in folder.files() {
            for unreadable in &file.unreadable {
                self.add_file_problem(path, unreadable.line, unreadable.reason.clone());
            }
            for manifest in &file.manifests {
                if matches!(manifest.content, Content::Nothing) && manifest.problems.is_empty() {
                    manifests.push(manifest);
                    continue;
                }
                let key = (&*manifest.kind, &manifest.name);
                if let Some((other, line)) = first.get(&key) {
                    let reason = format!(
                        "{} {} is already in {} line {line}; this one is left out",
                        manifest.kind,
                        manifest.name,
                        other.display()
                    );
                    self.add_file_problem(path, manifest.line, reason);
                    continue;
                }
                first.insert(key, (path, manifest.line));
                manifests.push(manifest);
            }
        }
        manifests
    }

    fn add_file_problem(&mut self, path: &Path, line: usize, reason: String) {
        let object = ObjectName::new("", path.display().to_string());
        let key = ("File".to_owned(), object.clone());
        let field = if line == 0 {
            "file".to_owned()
        } else {
            format!("line {line}")
        };
        self.problems.entry(key).or_default().push(Problem {
            kind: "File".to_owned(),
            object,
            field,
            reason,
        });
    }

    /// Namespaces exist by themselves, for they need no manifest where objects are in them.
    fn add_namespaces(&mut self, manifests: &[&Manifest]) {
        let lived_in = manifests.iter().map(|manifest| &*manifest.name.namespace);
        for namespace in lived_in.chain(NAMESPACES) {
            if convert::is_dns_label(namespace) {
                let name = ObjectName::new("", namespace);
                let known = Known::Namespace(name.clone().into());
                self.insert(Kind::Namespace, name, known, Vec::new());
            }
        }
    }

    fn add_as_it_is(&mut self, manifest: &Manifest, wanted: Option<&str>) {
        let name = manifest.name.clone();
        let problems = manifest.problems.clone();
        match &manifest.content {
            Content::Namespace(namespace) => {
                let known = Known::Namespace(namespace.clone());
                self.insert(Kind::Namespace, name, known, problems);
            }
            Content::EndpointSlice(slice) => {
                let known = Known::EndpointSlice(slice.clone());
                self.insert(Kind::EndpointSlice, name, known, problems);
            }
            Content::Node(node) => {
                if wanted == Some(&*name.name) {
                    self.insert(Kind::Node, name, Known::Node(node.clone()), problems);
                }
            }
            Content::Service(_) => {}
            Content::Endpoints(_) | Content::Pod(_) | Content::Nothing => {
                if !problems.is_empty() {
                    self.problems
                        .insert((manifest.kind.clone(), name), problems);
                }
            }
        }
    }

    fn add_services(
        &mut self,
        manifests: &[&Manifest],
        allocator: &mut Allocator,
        keep: bool,
    ) -> Families {
        let ranges = allocator.families();
        let mut fixed = BTreeSet::new();
        let mut wishes = BTreeMap::new();
        let mut families = Families::new();
        for (manifest, draft) in services(manifests) {
            let (all, problem) = draft.resolve_families(&ranges);
            let mut problems = manifest.problems.clone();
            problems
                .extend(problem.map(|(field, reason)| problem_of(&manifest.name, field, reason)));
            if let ServiceKind::ClusterIp(addresses) = &draft.service.kind {
                fixed.extend(addresses);
                let has = |family: &Family| addresses.iter().any(|a| Family::of(*a) == *family);
                let wanted: Vec<_> = all.iter().copied().filter(|family| !has(family)).collect();
                if !wanted.is_empty() {
                    wishes.insert(manifest.name.clone(), Wish { families: wanted });
                }
            }
            families.insert(manifest.name.clone(), all);
            let known = Known::Service(draft.service.clone());
            self.insert(Kind::Service, manifest.name.clone(), known, problems);
        }
        let short = allocator
            .assign(&wishes, &fixed, keep)
            .unwrap_or_else(|error| {
                self.add_state_problem("cluster-ips.json", "ClusterIPs", &error);
                BTreeSet::new()
            });
        for name in wishes.keys() {
            let Some((Known::Service(service), problems)) =
                self.objects.get_mut(&(Kind::Service, name.clone()))
            else {
                continue;
            };
            if let ServiceKind::ClusterIp(addresses) = &mut Arc::make_mut(service).kind {
                addresses.extend(allocator.given(name));
            }
            if short.contains(name) {
                let reason = "the service range is used up; widen it or fix an address elsewhere";
                problems.push(problem_of(name, "spec.clusterIP", reason.to_owned()));
            }
        }
        families
    }

    /// Gives NodePorts to the ports that lack them. One number of several protocols gets one NodePort.
    fn add_node_ports(&mut self, manifests: &[&Manifest], node_ports: &mut NodePorts, keep: bool) {
        let mut fixed = BTreeSet::new();
        let mut wishes: BTreeMap<ObjectName, BTreeSet<Purpose>> = BTreeMap::new();
        for (manifest, draft) in services(manifests) {
            let service = &draft.service;
            let has_address = matches!(service.kind, ServiceKind::ClusterIp(_));
            fixed.extend(service.ports.iter().map(|p| p.node_port));
            fixed.insert(service.ways_in.health_check_node_port);
            let lacking = service.ports.iter().filter(|p| p.node_port == 0);
            let ports = lacking
                .filter(|_| draft.wants_node_ports)
                .map(|p| p.port.to_string());
            let health_check = draft.wants_health_check.then(|| HEALTH_CHECK.to_owned());
            let wish: BTreeSet<Purpose> = ports.chain(health_check).collect();
            if has_address && !wish.is_empty() {
                wishes.insert(manifest.name.clone(), wish);
            }
        }
        let short = node_ports
            .assign(&wishes, &fixed, keep)
            .unwrap_or_else(|error| {
                self.add_state_problem("node-ports.json", "NodePorts", &error);
                BTreeSet::new()
            });
        for (name, wish) in &wishes {
            let Some((Known::Service(service), problems)) =
                self.objects.get_mut(&(Kind::Service, name.clone()))
            else {
                continue;
            };
            let service = Arc::make_mut(service);
            for port in service.ports.iter_mut().filter(|p| p.node_port == 0) {
                port.node_port = node_ports.given(name, &port.port.to_string());
            }
            if wish.contains(HEALTH_CHECK) {
                service.ways_in.health_check_node_port = node_ports.given(name, HEALTH_CHECK);
            }
            if short.contains(name) {
                let reason = "all NodePorts are given out; remove Services of type NodePort";
                problems.push(problem_of(name, "spec.ports.nodePort", reason.to_owned()));
            }
        }
    }

    fn add_state_problem(&mut self, file: &str, what: &str, error: &io::Error) {
        let object = ObjectName::new("", file);
        let problem = Problem {
            kind: "File".to_owned(),
            object: object.clone(),
            field: "file".to_owned(),
            reason: format!("cannot be written, so {what} may change at the next start: {error}"),
        };
        self.problems
            .insert(("File".to_owned(), object), vec![problem]);
    }

    fn add_slices(&mut self, manifests: &[&Manifest], families: &Families) {
        let pods = Pods::new(
            manifests
                .iter()
                .filter_map(|manifest| match &manifest.content {
                    Content::Pod(pod) => Some(&**pod),
                    _ => None,
                }),
        );
        let mut without_selector = BTreeSet::new();
        for (manifest, draft) in services(manifests) {
            if draft.selector.is_empty() {
                without_selector.insert(&manifest.name);
                continue;
            }
            let families = families.get(&manifest.name).map_or(&[][..], Vec::as_slice);
            let taken = |name: &ObjectName| {
                self.objects
                    .contains_key(&(Kind::EndpointSlice, name.clone()))
            };
            for slice in slices(draft, families, &pods, taken) {
                let name = slice.name.clone();
                let known = Known::EndpointSlice(Arc::new(slice));
                self.insert(Kind::EndpointSlice, name, known, Vec::new());
            }
        }
        for manifest in manifests {
            let Content::Endpoints(mirrored) = &manifest.content else {
                continue;
            };
            if !without_selector.contains(&manifest.name) {
                continue;
            }
            for slice in mirrored {
                let known = Known::EndpointSlice(slice.clone());
                let key = (Kind::EndpointSlice, slice.name.clone());
                self.objects.entry(key).or_insert((known, Vec::new()));
            }
        }
    }

    /// The Pods that have names of their own.
    fn add_pods(&mut self, manifests: &[&Manifest]) {
        for manifest in manifests {
            let Content::Pod(draft) = &manifest.content else {
                continue;
            };
            if draft.terminating || draft.addresses.is_empty() {
                continue;
            }
            let pod = Pod {
                name: draft.name.clone(),
                addresses: draft.addresses.clone().into(),
                labels: Labels::new(Some(&draft.labels)),
            };
            let known = Known::Pod(Arc::new(pod));
            self.insert(Kind::Pod, draft.name.clone(), known, Vec::new());
        }
    }

    fn insert(&mut self, kind: Kind, name: ObjectName, known: Known, problems: Vec<Problem>) {
        self.objects.insert((kind, name), (known, problems));
    }
}

fn services<'a>(
    manifests: &[&'a Manifest],
) -> impl Iterator<Item = (&'a Manifest, &'a ServiceDraft)> {
    manifests
        .iter()
        .filter_map(|manifest| match &manifest.content {
            Content::Service(draft) => Some((*manifest, &**draft)),
            _ => None,
        })
}

fn problem_of(service: &ObjectName, field: &str, reason: String) -> Problem {
    Problem {
        kind: "Service".to_owned(),
        object: service.clone(),
        field: field.to_owned(),
        reason,
    }
}
