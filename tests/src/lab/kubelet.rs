//! The laboratory's kubelet and controllers, as far as a folder of manifests needs them: it makes the pods of
//! Deployments and Pods real, and writes their status into the folder that the agents watch.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{
    Lab,
    node::Node,
    pod::{DnsPolicy, Pod, PodSpec},
    serve_as,
};

/// Namespace and name.
type Key = (String, String);

/// Runs what manifests ask for.
#[derive(Debug)]
pub struct Kubelet {
    nodes: Vec<Node>,
    manifests: PathBuf,
    deployments: BTreeMap<Key, Value>,
    pods: BTreeMap<Key, Running>,
    started: usize,
}

/// A pod that runs, and the manifest that tells of it.
#[derive(Debug)]
struct Running {
    pod: Pod,
    manifest: Value,
    /// The Deployment that it belongs to.
    owner: Option<Key>,
    /// How many were started before it.
    number: usize,
}

impl Kubelet {
    /// One for all nodes of a laboratory. Pods without `spec.nodeName` go to the nodes in turn.
    pub fn new(lab: &Lab) -> Self {
        Self {
            nodes: lab.nodes().to_vec(),
            manifests: lab.manifests(),
            deployments: BTreeMap::new(),
            pods: BTreeMap::new(),
            started: 0,
        }
    }

    /// Applies every manifest of a folder.
    ///
    /// # Errors
    /// Where one cannot be read or carried out.
    pub fn apply_folder(&mut self, folder: &Path) -> anyhow::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            files.push(entry?.path());
        }
        files.sort();
        for file in files {
            let text = fs::read_to_string(&file)?;
            self.apply(&text)
                .with_context(|| file.display().to_string())?;
        }
        Ok(())
    }

    /// Applies the manifests of a text.
    ///
    /// # Errors
    /// Where one cannot be read or carried out.
    pub fn apply(&mut self, manifests: &str) -> anyhow::Result<()> {
        for manifest in parse(manifests)? {
            match kind(&manifest) {
                "Pod" => {
                    self.run(manifest, None)?;
                }
                "Deployment" => self.deploy(manifest)?,
                _ => self.write(&manifest)?,
            }
        }
        Ok(())
    }

    /// Changes the number of a Deployment's replicas. Those that are too many go at once, the youngest first.
    ///
    /// # Errors
    /// Where there is no such Deployment.
    pub fn scale(&mut self, namespace: &str, name: &str, replicas: usize) -> anyhow::Result<()> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut deployment = self
            .deployments
            .get(&key)
            .with_context(|| format!("no Deployment {namespace}/{name}"))?
            .clone();
        deployment["spec"]["replicas"] = replicas.into();
        self.deploy(deployment)
    }

    /// The pod of this name.
    ///
    /// # Errors
    /// Where there is none.
    pub fn pod(&self, namespace: &str, name: &str) -> anyhow::Result<&Pod> {
        let running = self.running(namespace, name)?;
        Ok(&running.pod)
    }

    /// The pods of a Deployment, the oldest first.
    pub fn replicas(&self, namespace: &str, name: &str) -> Vec<&Pod> {
        let owner = (namespace.to_owned(), name.to_owned());
        let mut pods: Vec<_> = self
            .pods
            .values()
            .filter(|running| running.owner.as_ref() == Some(&owner))
            .collect();
        pods.sort_by_key(|running| running.number);
        pods.into_iter().map(|running| &running.pod).collect()
    }

    /// Says in a pod's status that it is ready, or not.
    ///
    /// # Errors
    /// Where there is no such pod.
    pub fn set_ready(&mut self, namespace: &str, name: &str, ready: bool) -> anyhow::Result<()> {
        let manifest = self.manifest(namespace, name)?;
        manifest["status"]["conditions"] = conditions(ready);
        let manifest = manifest.clone();
        self.write(&manifest)
    }

    /// Begins to delete a pod: it is told to end, but its programs go on and it may still be ready.
    ///
    /// # Errors
    /// Where there is no such pod.
    pub fn terminate(&mut self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let manifest = self.manifest(namespace, name)?;
        manifest["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let manifest = manifest.clone();
        self.write(&manifest)
    }

    /// Deletes a pod: its programs, its interface, its object.
    ///
    /// # Errors
    /// Where there is no such pod.
    pub fn delete(&mut self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let key = (namespace.to_owned(), name.to_owned());
        let running = self
            .pods
            .remove(&key)
            .with_context(|| format!("no Pod {namespace}/{name}"))?;
        // As on a node: the object's endpoint goes first, then the process is told to end.
        self.forget(&running.manifest)?;
        running.pod.remove()
    }

    /// Runs a Pod and gives a handle to it.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn run_pod(&mut self, manifest: Value) -> anyhow::Result<Pod> {
        self.run(manifest, None)
    }

    /// Writes an object into the folder as it is, in the place of its former version.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn write(&self, manifest: &Value) -> anyhow::Result<()> {
        let path = self.path(manifest);
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec_pretty(manifest)?)?;
        Ok(fs::rename(new, path)?)
    }

    /// Removes an object from the folder.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn forget(&self, manifest: &Value) -> anyhow::Result<()> {
        let path = self.path(manifest);
        fs::remove_file(&path).with_context(|| path.display().to_string())
    }

    fn deploy(&mut self, deployment: Value) -> anyhow::Result<()> {
        let key = key(&deployment);
        let replicas = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
        let replicas = usize::try_from(replicas)?;
        let template = deployment["spec"]["template"].clone();
        self.deployments.insert(key.clone(), deployment);
        let names = |kubelet: &Self| -> Vec<String> {
            let pods = kubelet.replicas(&key.0, &key.1);
            pods.iter().map(|pod| pod.name().to_owned()).collect()
        };
        for surplus in names(self).iter().skip(replicas) {
            self.delete(&key.0, surplus)?;
        }
        for _ in names(self).len()..replicas {
            let mut pod = template.clone();
            pod["apiVersion"] = "v1".into();
            pod["kind"] = "Pod".into();
            pod["metadata"]["namespace"] = key.0.as_str().into();
            pod["metadata"]["name"] = format!("{}-{}", key.1, suffix()).into();
            self.run(pod, Some(key.clone()))?;
        }
        Ok(())
    }

    fn run(&mut self, mut manifest: Value, owner: Option<Key>) -> anyhow::Result<Pod> {
        let (namespace, name) = key(&manifest);
        let node = self.place(&manifest)?;
        self.started += 1;
        let pod = node.add(PodSpec {
            host_network: manifest["spec"]["hostNetwork"] == true,
            dns: match manifest["spec"]["dnsPolicy"].as_str() {
                Some("Default") => DnsPolicy::Default(super::WORLD.map(super::address).to_vec()),
                _ => DnsPolicy::ClusterFirst,
            },
            ..PodSpec::new(&namespace, &name)
        })?;
        let ports = ports(&manifest);
        if !ports.is_empty() {
            serve_as(&pod, &format!("{namespace}/{name}"), &ports)?;
        }
        manifest["metadata"]["namespace"] = namespace.as_str().into();
        manifest["spec"]["nodeName"] = node.name().into();
        manifest["status"] = json!({
            "phase": "Running",
            "podIP": pod.v4(),
            "podIPs": [{"ip": pod.v4()}, {"ip": pod.v6()}],
            "conditions": conditions(true),
        });
        self.write(&manifest)?;
        let running = Running {
            pod: pod.clone(),
            manifest,
            owner,
            number: self.started,
        };
        self.pods.insert((namespace, name), running);
        Ok(pod)
    }

    fn place(&self, manifest: &Value) -> anyhow::Result<Node> {
        ensure!(!self.nodes.is_empty(), "a laboratory without nodes");
        let Some(name) = manifest["spec"]["nodeName"].as_str() else {
            return Ok(self.nodes[self.started % self.nodes.len()].clone());
        };
        let node = self.nodes.iter().find(|node| node.name() == name);
        node.cloned().with_context(|| format!("no node {name}"))
    }

    fn running(&self, namespace: &str, name: &str) -> anyhow::Result<&Running> {
        let key = (namespace.to_owned(), name.to_owned());
        let running = self.pods.get(&key);
        running.with_context(|| format!("no Pod {namespace}/{name}"))
    }

    fn manifest(&mut self, namespace: &str, name: &str) -> anyhow::Result<&mut Value> {
        let key = (namespace.to_owned(), name.to_owned());
        let running = self.pods.get_mut(&key);
        let running = running.with_context(|| format!("no Pod {namespace}/{name}"))?;
        Ok(&mut running.manifest)
    }

    fn path(&self, manifest: &Value) -> PathBuf {
        let (namespace, name) = key(manifest);
        let kind = kind(manifest).to_lowercase();
        self.manifests
            .join(format!("{kind}_{namespace}_{name}.yaml"))
    }
}

/// The documents of a YAML text.
///
/// # Errors
/// Where one is not YAML.
pub fn parse(text: &str) -> anyhow::Result<Vec<Value>> {
    let mut manifests = Vec::new();
    for document in text.split("\n---\n") {
        let value: Value = serde_saphyr::from_str(document)?;
        if !value.is_null() {
            manifests.push(value);
        }
    }
    Ok(manifests)
}

fn kind(manifest: &Value) -> &str {
    manifest["kind"].as_str().unwrap_or_default()
}

fn key(manifest: &Value) -> Key {
    let metadata = &manifest["metadata"];
    let namespace = match kind(manifest) {
        "Namespace" | "Node" => "",
        _ => metadata["namespace"].as_str().unwrap_or("default"),
    };
    let name = metadata["name"].as_str().unwrap_or_default();
    (namespace.to_owned(), name.to_owned())
}

fn ports(pod: &Value) -> Vec<u16> {
    let containers = pod["spec"]["containers"].as_array();
    let ports = containers
        .into_iter()
        .flatten()
        .filter_map(|container| container["ports"].as_array())
        .flatten();
    let mut ports: Vec<_> = ports
        .filter_map(|port| port["containerPort"].as_u64()?.try_into().ok())
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn conditions(ready: bool) -> Value {
    let status = if ready { "True" } else { "False" };
    json!([{"type": "Ready", "status": status}, {"type": "ContainersReady", "status": status}])
}

/// Five letters and digits as the control plane's, without vowels.
fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5)
        .map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())]))
        .collect()
}
