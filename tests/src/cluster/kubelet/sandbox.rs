//! A Pod that runs: its namespaces and the programs in them.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::Client;

use super::{
    api,
    container::{self, Place},
    probe,
    status::Status,
};
use crate::{
    cluster::node::ClusterNode,
    lab::{self, PodSpec, Process, pod::DnsPolicy},
};

/// How long a program that ended is left alone before it is started again.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// What all Pods have in common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The `signpost` program, which the image `signpost` stands for.
    pub signpost: PathBuf,
    /// The program that every other image stands for.
    pub stand_in: PathBuf,
    /// The certificate of the API server.
    pub authority: PathBuf,
    /// The nodes' own name servers.
    pub nameservers: Vec<IpAddr>,
    /// Folder for the programs' output.
    pub logs: PathBuf,
}

/// The Pod. It goes when this is dropped.
#[derive(Debug)]
pub struct Sandbox {
    /// Its place in the laboratory.
    pub pod: lab::Pod,
    object: Pod,
    place: Place,
    programs: Vec<Program>,
    restarts: u32,
}

#[derive(Debug)]
struct Program {
    container: Container,
    log: PathBuf,
    process: Process,
    ended: Option<Instant>,
    ready: bool,
}

impl Sandbox {
    /// Makes the Pod's place and starts its containers.
    ///
    /// # Errors
    /// Where one of them cannot be made.
    pub async fn start(
        client: &Client,
        node: &ClusterNode,
        object: &Pod,
        settings: &Settings,
    ) -> Result<Self> {
        let (namespace, name) = api::name_of(object)?;
        let spec = object.spec.as_ref().context("a Pod without a spec")?;
        let mut values = BTreeMap::new();
        for map in container::maps_of(spec) {
            for (key, value) in api::settings(client, namespace, &map).await? {
                values.insert((map.clone(), key), value);
            }
        }
        let token = match spec.automount_service_account_token {
            Some(false) => None,
            _ => {
                let account = spec.service_account_name.as_deref().unwrap_or("default");
                Some(api::token(client, namespace, account).await?)
            }
        };

        let pod = node.place.add(PodSpec {
            host_network: spec.host_network == Some(true),
            dns: match spec.dns_policy.as_deref() {
                Some("Default") => DnsPolicy::Default(settings.nameservers.clone()),
                _ => DnsPolicy::ClusterFirst,
            },
            ..PodSpec::new(namespace, name)
        })?;
        let credentials = token
            .map(|token| credentials(&pod.folder(), namespace, &token, &settings.authority))
            .transpose()?;
        let place = Place {
            node: node.clone(),
            signpost: settings.signpost.clone(),
            stand_in: settings.stand_in.clone(),
            credentials,
            settings: values,
        };
        let mut it = Self {
            pod,
            object: object.clone(),
            place,
            programs: Vec::new(),
            restarts: 0,
        };
        for container in &spec.containers {
            let log = settings
                .logs
                .join(format!("{namespace}_{name}_{}.log", container.name));
            it.programs.push(Program {
                container: container.clone(),
                process: it.run(container, &log)?,
                log,
                ended: None,
                ready: false,
            });
        }
        Ok(it)
    }

    /// Starts programs again that have ended, and says how the Pod is.
    ///
    /// # Errors
    /// Where a program cannot be started again.
    pub fn look(&mut self) -> Result<Status> {
        let mut ready = true;
        let mut programs = std::mem::take(&mut self.programs);
        for program in &mut programs {
            if program.process.is_running() {
                // What has listened once goes on to, but a probe may change its mind.
                if !program.ready || program.container.readiness_probe.is_some() {
                    program.ready = probe::ready(&self.pod, &program.container);
                }
                ready &= program.ready;
                continue;
            }
            ready = false;
            let ended = *program.ended.get_or_insert_with(Instant::now);
            if ended.elapsed() >= RESTART_AFTER {
                program.process = self.run(&program.container, &program.log)?;
                program.ended = None;
                program.ready = false;
                self.restarts += 1;
            }
        }
        self.programs = programs;
        Ok(Status {
            addresses: vec![self.pod.v4(), self.pod.v6()],
            host: self.place.node.place.addresses()[0],
            ready,
            restarts: self.restarts,
            processes: self
                .programs
                .iter()
                .map(|program| program.process.id())
                .collect(),
        })
    }

    fn run(&self, container: &Container, log: &Path) -> Result<Process> {
        container::command(&self.pod, &self.object, container, &self.place)?.background(log)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.programs.clear();
        if let Err(e) = self.pod.remove() {
            eprintln!("Pod {} leaves something behind: {e:#}", self.pod.name());
        }
    }
}

/// Writes the credentials of the Pod's service account, and says where.
fn credentials(folder: &Path, namespace: &str, token: &str, authority: &Path) -> Result<PathBuf> {
    let folder = folder.join("credentials");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("token"), token)?;
    fs::write(folder.join("namespace"), namespace)?;
    fs::copy(authority, folder.join("ca.crt"))?;
    Ok(folder)
}
