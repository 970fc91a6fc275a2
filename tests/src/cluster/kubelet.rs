//! The kubelet of the laboratory: what a kubelet and a scheduler do for Pods, for all of the cluster's nodes at once.
//!
//! Every tenth of a second, and whenever a Pod changes, it compares the Pods that the API server has with those that
//! run, and makes the difference go away. Nothing depends on having seen a particular change, so an API server that
//! is away for a while leaves nothing behind.

pub mod api;
pub mod container;
pub mod probe;
pub mod sandbox;
pub mod schedule;
pub mod status;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, reflector, watcher},
};
use tokio::{sync::oneshot, time::MissedTickBehavior};

use super::{client::client, node::ClusterNode};
use crate::lab;
use sandbox::Sandbox;

/// How often Pods are looked at when nothing changes.
const PERIOD: Duration = Duration::from_millis(100);

/// How long a Pod that is to go still serves, as a `preStop` sleep makes it: about as long as its absence needs to
/// get round.
const LINGER: Duration = Duration::from_secs(2);

/// The running kubelet; all its Pods end with it.
#[derive(Debug)]
pub struct Kubelet {
    running: Arc<Mutex<Running>>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// The Pods that run, by the unique number of their objects.
type Running = BTreeMap<String, RunningPod>;

#[derive(Debug)]
struct RunningPod {
    sandbox: Sandbox,
    written: Option<status::Status>,
    ends_at: Option<Instant>,
}

impl Kubelet {
    /// Starts it, for those nodes, with the credentials of that kubeconfig.
    ///
    /// # Errors
    /// Where the kubeconfig cannot be read.
    pub fn start(
        nodes: Vec<ClusterNode>,
        settings: sandbox::Settings,
        kubeconfig: PathBuf,
    ) -> Result<Self> {
        let running = Arc::new(Mutex::new(Running::new()));
        let (end, ended) = oneshot::channel();
        let shared = Arc::clone(&running);
        // Processes of Pods end with the thread that starts them, so this thread does all of it.
        let thread = thread::Builder::new()
            .name("kubelet".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime needs nothing but memory");
                let work = async {
                    let client = client(&kubeconfig).await?;
                    Worker {
                        nodes,
                        settings,
                        client,
                        running: shared,
                        bound: BTreeSet::new(),
                    }
                    .run()
                    .await
                };
                runtime.block_on(async {
                    tokio::select! {
                        result = work => if let Err(e) = result {
                            eprintln!("the kubelet of the laboratory ended: {e:#}");
                        },
                        _ = ended => {}
                    }
                });
            })?;
        Ok(Self {
            running,
            end: Some(end),
            thread: Some(thread),
        })
    }
}

impl Kubelet {
    /// The place of a Pod that runs.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<lab::Pod> {
        locked(&self.running)
            .values()
            .find(|it| {
                it.sandbox.pod.kubernetes_namespace() == namespace && it.sandbox.pod.name() == name
            })
            .map(|it| it.sandbox.pod.clone())
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            let _ = end.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        locked(&self.running).clear();
    }
}

struct Worker {
    nodes: Vec<ClusterNode>,
    settings: sandbox::Settings,
    client: Client,
    running: Arc<Mutex<Running>>,
    bound: BTreeSet<String>,
}

impl Worker {
    async fn run(mut self) -> Result<()> {
        let (pods, writer) = reflector::store::<Pod>();
        let changes = watcher(Api::all(self.client.clone()), watcher::Config::default())
            .backoff(Patience)
            .reflect(writer);
        let mut changes = std::pin::pin!(changes);
        let mut clock = tokio::time::interval(PERIOD);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // An error means that the watch is made again; what it missed comes with the new list.
                Some(_) = changes.next() => {}
                _ = clock.tick() => {}
            }
            let pods = pods.state();
            self.forget(&pods);
            for pod in &pods {
                if let Err(e) = self.attend(pod).await {
                    let name = pod.metadata.name.as_deref().unwrap_or_default();
                    eprintln!("Pod {name}: {e:#}");
                }
            }
        }
    }

    /// Ends what has no object any more.
    fn forget(&self, pods: &[Arc<Pod>]) {
        let mut running = locked(&self.running);
        running.retain(|uid, _| {
            pods.iter()
                .any(|pod| pod.metadata.uid.as_ref() == Some(uid))
        });
    }

    /// Takes one Pod a step nearer to what its object says.
    async fn attend(&mut self, pod: &Pod) -> Result<()> {
        let (namespace, name) = api::name_of(pod)?;
        let uid = pod.metadata.uid.clone().context("a Pod without a uid")?;
        let spec = pod.spec.as_ref().context("a Pod without a spec")?;
        let going = pod.metadata.deletion_timestamp.is_some();
        let Some(node) = &spec.node_name else {
            let names: Vec<_> = self.nodes.iter().map(ClusterNode::name).collect();
            let node = schedule::node_for(pod, &names, self.bound.len());
            // The Pod may be seen once more before its new node is.
            if let Some(node) = node
                && self.bound.insert(uid)
            {
                api::bind(&self.client, namespace, name, node).await?;
            }
            return Ok(());
        };
        let Some(node) = self.nodes.iter().find(|n| n.name() == node) else {
            return Ok(());
        };
        let runs = locked(&self.running).contains_key(&uid);
        if !runs && going {
            return api::finish(&self.client, pod).await;
        }
        if !runs {
            let sandbox = Sandbox::start(&self.client, node, pod, &self.settings).await?;
            locked(&self.running).insert(
                uid.clone(),
                RunningPod {
                    sandbox,
                    written: None,
                    ends_at: None,
                },
            );
        }
        let status = {
            let mut running = locked(&self.running);
            let Some(it) = running.get_mut(&uid) else {
                return Ok(());
            };
            if going {
                let end = *it.ends_at.get_or_insert_with(|| Instant::now() + LINGER);
                if Instant::now() >= end {
                    running.remove(&uid);
                }
                return Ok(());
            }
            let status = it.sandbox.look()?;
            if it.written.as_ref() == Some(&status) {
                return Ok(());
            }
            status
        };
        api::write_status(&self.client, pod, &status).await?;
        if let Some(it) = locked(&self.running).get_mut(&uid) {
            it.written = Some(status);
        }
        Ok(())
    }
}

/// Half a second between attempts: a laboratory that restarts its API server waits for nobody else.
struct Patience;

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(500))
    }
}

impl kube::runtime::utils::Backoff for Patience {
    fn reset(&mut self) {}
}

fn locked(running: &Mutex<Running>) -> std::sync::MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}
