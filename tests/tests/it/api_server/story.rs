//! What the tests of this folder have in common: a cluster with signpost and the example in it, seen from `jump`.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use signpost_tests::{
    cluster::Cluster,
    lab::{Pod, programs, wait::until},
};

/// How long the cluster may take to follow. What is measured is printed, and decides nothing: the machine is shared.
const PATIENCE: Duration = Duration::from_secs(60);

/// The cluster, and the pod that looks at it.
#[derive(Debug)]
pub(crate) struct Story {
    pub(crate) cluster: Cluster,
    pub(crate) jump: Pod,
}

impl Story {
    /// Raises a cluster of two nodes with signpost, and applies the example.
    pub(crate) fn begin() -> Result<Self> {
        let cluster = Cluster::up(&["zone-a", "zone-b"])?;
        cluster.install()?;
        apply_example(&cluster)?;
        for what in [
            "--namespace=dev deployment/enterprise --for=condition=Available",
            "--namespace=prod deployment/enterprise --for=condition=Available",
            "--namespace=dev pod/jump --for=condition=Ready",
        ] {
            cluster.kubectl(&format!("wait {what} --timeout=60s"))?;
        }
        let jump = cluster
            .pod("dev", "jump")
            .context("jump is ready and does not run")?;
        Ok(Self { cluster, jump })
    }

    /// The names of the pods of `enterprise` that run, as the API server has them.
    pub(crate) fn pods(&self, namespace: &str) -> Result<BTreeSet<String>> {
        let names = self.cluster.kubectl(&format!(
            "--namespace={namespace} get pods --selector=app=enterprise \
             --output=jsonpath={{range.items[*]}}{{.metadata.name}}{{\"\\n\"}}{{end}}"
        ))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// The ClusterIP of a Service.
    pub(crate) fn cluster_ip(&self, namespace: &str, name: &str) -> Result<String> {
        self.cluster.kubectl(&format!(
            "--namespace={namespace} get service {name} --output=jsonpath={{.spec.clusterIP}}"
        ))
    }

    /// What a name leads to in `jump`.
    pub(crate) fn resolve(&self, name: &str) -> Result<Vec<String>> {
        let mut command = self.jump.command(programs::lab_pod()?)?;
        let text = command.args(["resolve", name]).text()?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Who answers at a target, over many connections from a pod.
    pub(crate) fn answers_to(pod: &Pod, target: &str) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        // A pod of four is missed by chance in 40 connections once in 100,000 times.
        for _ in 0..40 {
            let mut command = pod.command(programs::lab_pod()?)?;
            let name = command.args(["get", target]).text()?;
            names.insert(name.trim().to_owned());
        }
        Ok(names)
    }

    /// Fails unless exactly the pods of that namespace answer at the target.
    pub(crate) fn only_pods_of(&self, namespace: &str, target: &str) -> Result<()> {
        let expected = self.pods(namespace)?;
        let seen = Self::answers_to(&self.jump, target)?;
        ensure!(
            seen == expected,
            "{target}: {seen:?} instead of {expected:?}"
        );
        Ok(())
    }
}

/// Applies the example. A Pod may be refused at first: the controllers give a new namespace its service account a moment
/// later.
pub(crate) fn apply_example(cluster: &Cluster) -> Result<()> {
    eventually("the example is accepted", || {
        cluster.kubectl("apply --filename=examples/enterprise")?;
        Ok(())
    })
}

/// Waits until something holds, and prints how long it took.
pub(crate) fn eventually(what: &str, holds: impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    until(what, PATIENCE, holds)?;
    println!("{what}: {} ms", start.elapsed().as_millis());
    Ok(())
}
