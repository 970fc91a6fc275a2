//! A node of the cluster: one of the laboratory's nodes, with a Node object.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use serde_json::{Value, json};

use crate::lab::Node;

/// Where a node is on this machine, and what the API server is told of it. Clones stand for the same one.
#[derive(Clone, Debug)]
pub struct ClusterNode {
    /// Its namespace, cgroup and folders.
    pub place: Node,
    /// Its zone, the value of the label `topology.kubernetes.io/zone`.
    pub zone: String,
}

impl ClusterNode {
    /// Makes the folders that stand for those of the node's own file system.
    ///
    /// # Errors
    /// Where they cannot be made.
    pub fn new(place: Node, zone: &str) -> Result<Self> {
        let it = Self {
            place,
            zone: zone.to_owned(),
        };
        fs::create_dir_all(it.on_machine("/run/signpost"))?;
        fs::create_dir_all(it.on_machine("/sys/fs/bpf"))?;
        Ok(it)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.place.name()
    }

    /// What of this machine stands for a path of the node.
    pub fn on_machine(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        if let Ok(rest) = path.strip_prefix("/sys/fs/bpf") {
            self.place.bpffs().join(rest)
        } else if let Ok(rest) = path.strip_prefix("/sys/fs/cgroup") {
            self.place.cgroup().path().join(rest)
        } else {
            let root = self.place.folder().join("root");
            root.join(path.strip_prefix("/").unwrap_or(path))
        }
    }

    /// The Node object.
    pub fn object(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": self.name(),
                "labels": {
                    "kubernetes.io/hostname": self.name(),
                    "kubernetes.io/os": "linux",
                    "topology.kubernetes.io/region": "laboratory",
                    "topology.kubernetes.io/zone": self.zone,
                },
            },
        })
    }

    /// The merge patch of the object's status that says that the node is ready, and where.
    pub fn status(&self) -> Value {
        let mut addresses = vec![json!({"type": "Hostname", "address": self.name()})];
        for address in self.place.addresses() {
            addresses.push(json!({"type": "InternalIP", "address": address}));
        }
        json!({"status": {
            "addresses": addresses,
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "Laboratory",
            }],
        }})
    }
}
