//! The real CoreDNS in a pod of the laboratory, with the Corefile that kubeadm writes.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hickory_proto::rr::RecordType;

use super::tools::Tools;
use crate::lab::{Pod, Process, dns, wait::until};

/// How long it may take to come up on a busy machine: it waits for its caches.
const PATIENCE: Duration = Duration::from_secs(60);

/// CoreDNS in a pod; it ends when this is dropped.
#[derive(Debug)]
pub struct CoreDns {
    process: Process,
}

impl CoreDns {
    /// Starts it in a pod, which gets port 53, and waits until it answers for the cluster.
    ///
    /// # Errors
    /// Where it cannot be built or does not come up; the text ends with what it said.
    pub fn start(tools: &Tools, pod: &Pod, kubeconfig: &Path, upstream: &[IpAddr]) -> Result<Self> {
        Self::start_with(tools, pod, &corefile(kubeconfig, upstream))
    }

    /// Likewise, with another Corefile.
    ///
    /// # Errors
    /// As above.
    pub fn start_with(tools: &Tools, pod: &Pod, corefile: &str) -> Result<Self> {
        let file = pod.folder().join("Corefile");
        fs::write(&file, corefile)?;
        let mut process = pod
            .command(tools.core_dns()?)?
            .arg("-conf")
            .arg(&file)
            .background(&pod.folder().join("coredns.log"))?;
        let server = SocketAddr::new(pod.v4(), 53);
        until("an answer of CoreDNS", PATIENCE, || {
            if !process.is_running() {
                return Ok(Err(anyhow::anyhow!("CoreDNS has ended")));
            }
            let answer = pod.run(|| {
                dns::ask(
                    server,
                    "kubernetes.default.svc.cluster.local.",
                    RecordType::A,
                )
            })??;
            ensure!(answer.answers.len() == 1, "it is not in sync yet");
            Ok(Ok(()))
        })
        .and_then(|started| started)
        .with_context(|| format!("CoreDNS said:\n{}", process.log()))?;
        Ok(Self { process })
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// kubeadm 1.36's, without `loop` (the laboratory's upstream answers no such question) and `reload`, and with the way to
/// the API server and the upstream given.
fn corefile(kubeconfig: &Path, upstream: &[IpAddr]) -> String {
    let upstream: Vec<_> = upstream.iter().map(IpAddr::to_string).collect();
    format!(
        ".:53 {{
    errors
    health {{
       lameduck 5s
    }}
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
       kubeconfig {kubeconfig} laboratory
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }}
    prometheus :9153
    forward . {upstream} {{
       max_concurrent 1000
    }}
    cache 30 {{
       disable success cluster.local
       disable denial cluster.local
    }}
    loadbalance
}}
",
        kubeconfig = kubeconfig.display(),
        upstream = upstream.join(" ")
    )
}
