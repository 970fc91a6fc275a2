//! The commands that read, of a node in IPVS mode.

use std::time::{Duration, SystemTime};

use crate::{
    agent::report::{self, Report},
    cli::{
        ReadArgs,
        backend::BackendRow,
        service::{FrontendRow, Kind, ServiceRow},
        status::Status,
    },
    dataplane::ipvs::{
        self,
        view::{Port, View, Way},
    },
};

/// Whether the node's agent is in IPVS mode, or was when it last ran.
pub(in crate::cli) fn is_on(read: &ReadArgs) -> bool {
    matches!(Report::read(&read.instance.state_folder), Ok(Some(report))
        if report.mode == "ipvs" && report.instance == read.instance.bpffs_root)
}

/// What is not there in this mode.
///
/// # Errors
/// Always, with where to look instead.
pub(super) fn nothing<T>(what: &str) -> anyhow::Result<T> {
    anyhow::bail!("this node is in IPVS mode, in which the kernel has no {what}; see docs/ipvs.md")
}

pub(super) fn services(view: &View) -> Vec<ServiceRow> {
    let mut rows: Vec<ServiceRow> = view.ports.iter().map(service).collect();
    rows.sort_by(|a, b| {
        let key = |r: &ServiceRow| (r.namespace.clone(), r.name.clone(), r.port_name.clone());
        (key(a), &a.protocol, &a.frontends).cmp(&(key(b), &b.protocol, &b.frontends))
    });
    rows
}

pub(super) fn backends(view: &View) -> Vec<BackendRow> {
    let of_port = |(number, port): (usize, &Port)| -> Vec<BackendRow> {
        let members = port.members.iter();
        members
            .map(|member| BackendRow {
                namespace: port.namespace.clone(),
                name: port.name.clone(),
                port_name: port.port.clone(),
                protocol: port.protocol.to_string(),
                backend: member.address,
                chosen: member.chosen,
                serving: member.serving,
                local: member.local,
                flows: view.connections(number, member.address),
            })
            .collect()
    };
    let mut rows: Vec<BackendRow> = view.ports.iter().enumerate().flat_map(of_port).collect();
    rows.sort();
    rows
}

pub(super) fn status(read: &ReadArgs, view: &View) -> anyhow::Result<Status> {
    let synced = ipvs::synced(&read.instance.state_folder);
    let age = |at: SystemTime| at.elapsed().unwrap_or(Duration::ZERO).as_secs_f64();
    let members = view.ports.iter().map(|port| port.members.len() as u64);
    let mut status = Status {
        instance: read.instance.bpffs_root.clone(),
        agent_alive: report::is_alive(&read.instance),
        agent: Report::read(&read.instance.state_folder)?,
        in_sync_age: synced.map(age),
        // No name is denied by the kernel; the agent says every few seconds that it is in sync.
        negative_grace: 60,
        dns_alive_age: None,
        services: view.ports.len() as u64,
        backends: members.sum(),
        names: 0,
        flows: view.all_connections(),
        maps: Vec::new(),
        interfaces: vec![ipvs::INTERFACE.to_owned()],
        attention: Vec::new(),
    };
    status.judge();
    Ok(status)
}

fn service(port: &Port) -> ServiceRow {
    let mut frontends: Vec<FrontendRow> = port
        .frontends
        .iter()
        .map(|way| {
            let (kind, address) = match way {
                Way::ClusterIp(at) => (Kind::ClusterIP, *at),
                Way::NodePort(at) => (Kind::NodePort, *at),
                Way::External(at) => (Kind::External, *at),
            };
            FrontendRow { kind, address }
        })
        .collect();
    frontends.sort();
    ServiceRow {
        namespace: port.namespace.clone(),
        name: port.name.clone(),
        port_name: port.port.clone(),
        protocol: port.protocol.to_string(),
        frontends,
        backends: port.cluster as u32,
        local_backends: port.local as u32,
        internal_local: port.internal_local,
        external_local: port.external_local,
        affinity_timeout: port.affinity_timeout.unwrap_or(0),
        dns: port.dns,
        id: 0,
        generation: 0,
    }
}
