use std::{fs, time::Duration};

use tokio::time::timeout;

use super::*;
use crate::{
    model::{Kind, Object, ObjectName, Service, ServiceKind},
    registry::Registry,
};

/// A source that follows a folder, and a registry that takes in what it says.
struct Followed {
    root: tempfile::TempDir,
    events: mpsc::Receiver<Event>,
    in_sync: watch::Receiver<bool>,
    registry: Registry,
}

const ENT: &str = "
apiVersion: v1
kind: Service
metadata: {name: ent, namespace: prod}
spec:
  selector: {app: enterprise}
  ports: [{port: 8080}]
";

fn pod(name: &str, address: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: prod, labels: {{app: enterprise}}}}
spec: {{containers: [{{name: c}}]}}
status: {{podIP: {address}, conditions: [{{type: Ready, status: 'True'}}]}}
"
    )
}

fn ent() -> ObjectName {
    ObjectName::new("prod", "ent")
}

impl Followed {
    async fn start(files: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("manifests")).unwrap();
        let (sender, events) = mpsc::channel(16);
        let (healthy, in_sync) = watch::channel(false);
        let options = FilesOptions {
            folder: root.path().join("manifests"),
            state: root.path().join("state"),
            service_ranges: vec!["10.96.0.0/16".parse().unwrap()],
            node: Some("one".to_owned()),
        };
        let mut followed = Self {
            root,
            events,
            in_sync,
            registry: Registry::default(),
        };
        for (path, text) in files {
            followed.write(path, text);
        }
        tokio::spawn(run(options, sender, healthy));
        followed
            .until(|registry| registry.is_complete(&Kind::ALL))
            .await;
        followed
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join("manifests").join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let new = self.root.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path(path)).unwrap();
    }

    /// Takes events in until something holds. Returns them.
    async fn until(&mut self, holds: impl Fn(&Registry) -> bool) -> Vec<Event> {
        let mut taken = Vec::new();
        while !holds(&self.registry) {
            let event = timeout(Duration::from_secs(20), self.events.recv()).await;
            let event = event
                .expect("an event within time")
                .expect("a source that runs");
            taken.push(event.clone());
            self.registry.apply(event);
        }
        taken
    }

    fn service(&self) -> &Service {
        self.registry.service(&ent()).unwrap()
    }

    fn endpoints(&self) -> Vec<String> {
        let service = ent();
        let slices = self.registry.slices(&service);
        slices
            .flat_map(|s| &s.endpoints)
            .map(|e| e.addresses[0].to_string())
            .collect()
    }
}

#[tokio::test]
async fn a_service_gets_an_address_and_endpoints() {
    let followed =
        Followed::start(&[("ent.yaml", ENT), ("pods.yaml", &pod("a", "10.1.0.1"))]).await;
    let ServiceKind::ClusterIp(addresses) = &followed.service().kind else {
        panic!("no ClusterIP");
    };
    assert!(addresses[0].to_string().starts_with("10.96."));
    assert_eq!(followed.endpoints(), ["10.1.0.1"]);
    let namespaces: Vec<_> = followed.registry.namespaces().map(|n| &**n).collect();
    assert_eq!(namespaces, ["default", "kube-system", "prod"]);
    assert!(followed.registry.problems().is_empty());
}

#[tokio::test]
async fn an_empty_folder_is_a_cluster_with_its_own_namespaces() {
    let followed = Followed::start(&[]).await;
    let namespaces: Vec<_> = followed.registry.namespaces().map(|n| &**n).collect();
    assert_eq!(namespaces, ["default", "kube-system"]);
}

#[tokio::test]
async fn only_what_changed_is_said() {
    let mut followed =
        Followed::start(&[("ent.yaml", ENT), ("a.yaml", &pod("a", "10.1.0.1"))]).await;
    let slices = |n| move |r: &Registry| r.slices(&ent()).flat_map(|s| &s.endpoints).count() == n;
    followed.until(slices(1)).await;
    followed.write("b.yaml", &pod("b", "10.1.0.2"));
    let events = followed.until(slices(2)).await;
    assert!(
        matches!(&events[..], [Event::Apply(Object::EndpointSlice(_), _)]),
        "{events:?}"
    );
    fs::remove_file(followed.path("a.yaml")).unwrap();
    fs::remove_file(followed.path("b.yaml")).unwrap();
    followed.until(slices(0)).await;
    assert!(followed.registry.service(&ent()).is_some());
}

#[tokio::test]
async fn a_broken_file_is_a_problem_and_its_objects_stay() {
    let mut followed = Followed::start(&[("ent.yaml", ENT)]).await;
    followed.write("ent.yaml", "apiVersion: v1\nkind: Service\nmetadata: [\n");
    followed.until(|r| !r.problems().is_empty()).await;
    let problem = followed.registry.problems().pop_first().unwrap();
    assert_eq!(
        (&*problem.kind, &*problem.object.name),
        ("File", "ent.yaml")
    );
    assert!(problem.field.starts_with("line "));
    assert_eq!(followed.service().ports.len(), 1);
    followed.write("ent.yaml", ENT);
    followed.until(|r| r.problems().is_empty()).await;
}

#[tokio::test]
async fn a_service_that_becomes_unusable_is_gone_and_named() {
    let mut followed = Followed::start(&[("ent.yaml", ENT)]).await;
    let alias = "apiVersion: v1\nkind: Service\nmetadata: {name: ent, namespace: prod}\nspec: {type: ExternalName, externalName: 'a b'}\n";
    followed.write("ent.yaml", alias);
    followed.until(|r| !r.problems().is_empty()).await;
    assert!(followed.registry.service(&ent()).is_none());
    let problem = followed.registry.problems().pop_first().unwrap();
    assert_eq!(
        (problem.object, &*problem.field),
        (ent(), "spec.externalName")
    );
    followed.write("ent.yaml", &ENT.replace("port: 8080", "port: 0"));
    followed.until(|r| r.service(&ent()).is_some()).await;
    let problem = followed.registry.problems().pop_first().unwrap();
    assert_eq!(problem.field, "spec.ports[0].port");
}

#[tokio::test]
async fn an_object_in_two_files_is_taken_from_the_first() {
    let other = ENT.replace("8080", "9090");
    let followed = Followed::start(&[("a.yaml", ENT), ("b.yaml", &other)]).await;
    let mut followed = followed;
    followed.until(|r| !r.problems().is_empty()).await;
    assert_eq!(followed.service().ports[0].port, 8080);
    let problem = followed.registry.problems().pop_first().unwrap();
    assert_eq!(&*problem.object.name, "b.yaml");
    assert!(problem.reason.contains("a.yaml"), "{problem}");
}

#[tokio::test]
async fn a_folder_that_goes_and_comes_back_is_followed_again() {
    let mut followed = Followed::start(&[("ent.yaml", ENT)]).await;
    followed.in_sync.wait_for(|in_sync| *in_sync).await.unwrap();
    let (here, aside) = (followed.path(""), followed.root.path().join("aside"));
    fs::rename(&here, &aside).unwrap();
    let out = followed.in_sync.wait_for(|in_sync| !*in_sync);
    timeout(Duration::from_secs(20), out)
        .await
        .unwrap()
        .unwrap();
    fs::rename(&aside, &here).unwrap();
    let back = followed.in_sync.wait_for(|in_sync| *in_sync);
    timeout(Duration::from_secs(20), back)
        .await
        .unwrap()
        .unwrap();
    followed.write("pods.yaml", &pod("a", "10.1.0.1"));
    followed.until(|r| r.slices(&ent()).count() == 1).await;
}

#[tokio::test]
async fn only_the_wanted_node_is_emitted() {
    let node =
        |name: &str| format!("---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n");
    let followed = Followed::start(&[("n.yaml", &(node("one") + &node("two")))]).await;
    assert_eq!(&*followed.registry.node().unwrap().name.name, "one");
}

#[tokio::test]
async fn written_endpoints_are_mirrored_for_a_service_without_selector() {
    let endpoints = "---\napiVersion: v1\nkind: Endpoints\nmetadata: {name: ent, namespace: prod}\nsubsets: [{addresses: [{ip: 10.9.0.1}], ports: [{port: 1}]}]\n";
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, namespace: prod, labels: {kubernetes.io/service-name: ent}}\naddressType: IPv4\nports: [{port: 1}]\nendpoints: [{addresses: [10.9.0.2]}]\n";
    let without = ENT.replace("  selector: {app: enterprise}\n", "");
    let all = [&*without, endpoints, slice].concat();
    let followed = Followed::start(&[("a.yaml", &all)]).await;
    assert_eq!(followed.endpoints(), ["10.9.0.1", "10.9.0.2"]);
    let with = [ENT, endpoints].concat();
    let followed = Followed::start(&[("a.yaml", &with)]).await;
    assert_eq!(followed.endpoints(), Vec::<String>::new());
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let options = FilesOptions {
        folder: root.path().join("nowhere"),
        state: root.path().to_owned(),
        service_ranges: Vec::new(),
        node: None,
    };
    let error = run(options, mpsc::channel(1).0, watch::channel(false).0)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("nowhere"));
}

#[tokio::test]
async fn ten_thousand_services_with_ten_endpoints_are_all_read() {
    use std::fmt::Write as _;

    let mut text = String::new();
    for n in 0..10_000 {
        write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: s{n}\n  namespace: n{}\nspec:\n  type: ClusterIP\n  ports:\n    - name: http\n      port: 80\n      protocol: TCP\n      targetPort: 8080\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: s{n}-1\n  namespace: n{}\n  labels:\n    kubernetes.io/service-name: s{n}\naddressType: IPv4\nports:\n  - name: http\n    port: 8080\n    protocol: TCP\nendpoints:\n",
            n % 100,
            n % 100
        )
        .unwrap();
        for e in 0..10 {
            writeln!(
                text,
                "  - addresses:\n      - 10.{}.{}.{e}\n    conditions:\n      ready: true\n      serving: true\n      terminating: false\n    nodeName: node-{e}",
                128 + n / 256,
                n % 256
            )
            .unwrap();
        }
    }
    let followed = Followed::start(&[("all.yaml", &text)]).await;
    assert_eq!(followed.registry.services().count(), 10_000);
    let slices = followed
        .registry
        .services()
        .map(|s| followed.registry.slices(&s.name));
    assert_eq!(
        slices.flatten().map(|s| s.endpoints.len()).sum::<usize>(),
        100_000
    );
}

/// A Service of type LoadBalancer whose load balancer has an address.
const BALANCED: &str = "
apiVersion: v1
kind: Service
metadata: {name: ent, namespace: prod}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  ports: [{name: a, port: 53}, {name: b, port: 53, protocol: UDP}, {name: c, port: 80, nodePort: 30080}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.80}]}}
";

#[tokio::test]
async fn a_load_balancer_gets_node_ports_and_a_health_check_and_keeps_its_addresses() {
    let followed = Followed::start(&[("ent.yaml", BALANCED)]).await;
    let service = followed.service();
    let ports: Vec<u16> = service.ports.iter().map(|p| p.node_port).collect();
    let health_check = service.ways_in.health_check_node_port;
    for port in [ports[0], health_check] {
        assert!((30_000..=32_767).contains(&port), "{port}");
    }
    assert_eq!(
        ports[0], ports[1],
        "one number of two protocols is one NodePort"
    );
    assert_eq!(ports[2], 30_080, "the manifest fixes it");
    assert_ne!(health_check, ports[0]);
    let balancer: std::net::IpAddr = "198.51.100.80".parse().unwrap();
    assert_eq!(service.ways_in.load_balancer_ips, [balancer]);
    assert!(followed.registry.problems().is_empty());
}

#[tokio::test]
async fn a_service_of_type_cluster_ip_gets_no_node_port() {
    let mut followed = Followed::start(&[("ent.yaml", ENT)]).await;
    assert_eq!(followed.service().ports[0].node_port, 0);
    followed.write(
        "ent.yaml",
        &ENT.replace("  selector", "  type: NodePort\n  selector"),
    );
    let open = |r: &Registry| r.service(&ent()).is_some_and(|s| s.ports[0].node_port != 0);
    followed.until(open).await;
    followed.write("ent.yaml", ENT);
    followed.until(|r| !open(r)).await;
}
