//! A real Kubernetes control plane whose nodes are network namespaces.
//!
//! etcd, kube-apiserver and kube-controller-manager are the real ones, built from `tests/cluster/go.mod`. Nodes are
//! those of the laboratory with a Node object each; Pods are the laboratory's, and a small [`kubelet`] starts their
//! programs and writes their status. So Deployments, DaemonSets and EndpointSlices are what the real controllers make
//! of them, and signpost comes into the cluster as it does anywhere: by `kubectl apply -k deploy/base`.

pub mod client;
pub mod control_plane;
pub mod core_dns;
pub mod kube_proxy;
pub mod kubelet;
pub mod lists;
pub mod node;
pub mod relay;
pub mod tools;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::lab::{Cni, Lab, Pod, WORLD, programs, upstream::Upstream};
use control_plane::ControlPlane;
use kubelet::{Kubelet, sandbox::Settings};
use node::ClusterNode;
use relay::Relay;
use tools::Tools;

/// The cluster. It goes away with this.
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they end.
    kubelet: Kubelet,
    _relay: Relay,
    control_plane: ControlPlane,
    nodes: Vec<ClusterNode>,
    kubeconfig: PathBuf,
    upstream: Upstream,
    lab: Lab,
}

impl Cluster {
    /// Raises the control plane and as many nodes as there are `zones`, one in each.
    ///
    /// Every second node joins its pods with a bridge, the others route. Nothing provides Services and names yet:
    /// [`Self::install`] does.
    ///
    /// # Errors
    /// Without root or Go, or where a program does not come up; says what.
    pub fn up(zones: &[&str]) -> Result<Self> {
        let tools = Tools::build()?;
        let mut lab = Lab::builder().start()?;
        let folder = lab.folder().to_owned();
        let control_node = lab.add_node("control-plane", Cni::Routed)?.clone();
        let control_plane = ControlPlane::start(&tools, &folder, &control_node)?;
        let (relay, url) = control_plane.relay()?;
        let admin = folder.join("kubeconfig");
        control_plane.write_kubeconfig(&admin, &url)?;
        let mut nodes = Vec::new();
        for (index, zone) in zones.iter().enumerate() {
            let cni = [Cni::Routed, Cni::Bridged][index % 2];
            let place = lab.add_node(&format!("node-{}", index + 1), cni)?.clone();
            nodes.push(ClusterNode::new(place, zone)?);
        }
        let settings = Settings {
            signpost: programs::signpost()?,
            stand_in: programs::lab_pod()?,
            authority: control_plane.authority(),
            nameservers: WORLD.iter().filter_map(|ip| ip.parse().ok()).collect(),
            logs: control_plane.logs(),
        };
        let kubelet = Kubelet::start(nodes.clone(), settings, admin.clone())?;
        let it = Self {
            kubelet,
            _relay: relay,
            control_plane,
            nodes,
            kubeconfig: admin,
            upstream: Upstream::start(&lab)?,
            lab,
        };
        for node in &it.nodes {
            it.apply(&node.object())?;
            it.kubectl(&format!(
                "patch node {} --subresource=status --type=merge --patch={}",
                node.name(),
                node.status()
            ))?;
        }
        Ok(it)
    }

    /// Puts signpost into the cluster as its manifests say, and waits until all of it is ready.
    ///
    /// # Errors
    /// Where the API server refuses something, or a Pod is not ready in time.
    pub fn install(&self) -> Result<()> {
        self.apply(&json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "signpost", "namespace": "kube-system"},
            "data": {"api-server": self.control_plane.url()},
        }))?;
        let base = project().join("deploy/base");
        self.kubectl(&format!("apply --kustomize={}", base.display()))?;
        for set in ["signpost-agent", "signpost-dns"] {
            self.kubectl(&format!(
                "--namespace=kube-system rollout status daemonset/{set} --timeout=60s"
            ))
            .with_context(|| format!("the logs are in {}", self.control_plane.logs().display()))?;
        }
        Ok(())
    }

    /// Runs kubectl as the administrator, with the words of `line` as arguments, and gives what it prints.
    ///
    /// # Errors
    /// Where it fails, with what it says.
    pub fn kubectl(&self, line: &str) -> Result<String> {
        self.run_kubectl(line, "")
    }

    /// Applies one object.
    ///
    /// # Errors
    /// Where the API server refuses it.
    pub fn apply(&self, object: &Value) -> Result<()> {
        self.run_kubectl("apply --filename=-", &object.to_string())?;
        Ok(())
    }

    /// The place of a Pod that runs.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Pod> {
        self.kubelet.pod(namespace, name)
    }

    /// The control plane, to stop parts of it.
    pub const fn control_plane(&mut self) -> &mut ControlPlane {
        &mut self.control_plane
    }

    /// The nodes.
    pub fn nodes(&self) -> &[ClusterNode] {
        &self.nodes
    }

    /// The administrator's kubeconfig. It works from anywhere on this machine.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The name server in the world beyond the cluster, which the nodes know.
    pub const fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// The kubectl of the control plane's version.
    pub fn kubectl_path(&self) -> PathBuf {
        self.control_plane.tools().path("kubectl")
    }

    /// The laboratory that the cluster lives in.
    pub const fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The folder with the logs of everything.
    pub fn logs(&self) -> PathBuf {
        self.control_plane.logs()
    }

    fn run_kubectl(&self, line: &str, input: &str) -> Result<String> {
        let mut child = Command::new(self.kubectl_path())
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(line.split_whitespace())
            .current_dir(project())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("kubectl cannot be run")?;
        let stdin = child.stdin.take();
        stdin
            .context("kubectl has no standard input")?
            .write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "kubectl {line}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// The project's folder.
fn project() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}
