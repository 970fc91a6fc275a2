//! The real kube-proxy on a node of the laboratory, in nftables mode unless told otherwise.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::tools::Tools;
use crate::lab::{Node, Process, agent::fetch, wait::until};

/// The metric that says when rules were written last.
const WRITTEN: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";

/// How long it may take to come up on a busy machine: its IPVS mode took more than ten minutes for 5,000 Services where the
/// processor was emulated.
const PATIENCE: Duration = Duration::from_secs(240);

/// kube-proxy on one node; it ends when this is dropped, and leaves its rules behind, as it does everywhere.
#[derive(Debug)]
pub struct KubeProxy {
    process: Process,
}

impl KubeProxy {
    /// Starts it and waits until it says that it has written its rules.
    ///
    /// `settings` are fields of its configuration, which take the place of the laboratory's.
    ///
    /// # Errors
    /// Where it does not come up; the text ends with what it said.
    pub fn start(tools: &Tools, node: &Node, kubeconfig: &Path, settings: &Value) -> Result<Self> {
        fs::create_dir_all(node.folder())?;
        let file = node.folder().join("kube-proxy.json");
        let mut configuration = configuration(node, kubeconfig);
        if let (Some(all), Some(some)) = (configuration.as_object_mut(), settings.as_object()) {
            all.extend(some.clone());
        }
        fs::write(&file, configuration.to_string())?;
        let metrics = configuration["metricsBindAddress"].as_str();
        let metrics: SocketAddr = metrics.context("no metricsBindAddress")?.parse()?;
        let mut process = node
            .command(tools.path("kube-proxy"))?
            .arg("--config")
            .arg(&file)
            .background(&node.folder().join("kube-proxy.log"))?;
        let namespace = node.namespace();
        until("rules of kube-proxy", PATIENCE, || {
            if !process.is_running() {
                return Ok(Err(anyhow::anyhow!("kube-proxy has ended")));
            }
            let metrics = namespace.run(|| fetch(metrics.port(), "/metrics"))??;
            // Healthy it is during the start as well.
            for family in ["IPv4", "IPv6"] {
                let written = format!("{WRITTEN}{{ip_family=\"{family}\"}}");
                ensure!(metrics.contains(&written), "no rules of {family} yet");
            }
            Ok(Ok(()))
        })
        .and_then(|started| started)
        .with_context(|| format!("kube-proxy said:\n{}", process.log()))?;
        Ok(Self { process })
    }

    /// Asks it to end. Its rules stay.
    pub fn terminate(&mut self) {
        self.process.terminate();
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// Its configuration: everything as usual but what cannot be had in a namespace, and no wait between two writes.
fn configuration(node: &Node, kubeconfig: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node.name(),
        "clientConnection": {"kubeconfig": kubeconfig, "qps": 1000, "burst": 1000},
        "clusterCIDR": "10.244.0.0/16,fd00:244::/32",
        "detectLocalMode": "ClusterCIDR",
        "healthzBindAddress": "0.0.0.0:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        // The machine's own settings of connection tracking are not a namespace's to change.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        "nftables": {"minSyncPeriod": "10ms", "syncPeriod": "30s"},
        "iptables": {"minSyncPeriod": "10ms", "syncPeriod": "30s"},
    })
}
