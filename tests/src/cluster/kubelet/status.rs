//! What the kubelet of the laboratory says about its Pods.

use std::net::IpAddr;

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use serde_json::{Value, json};

/// What there is to say about a Pod that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The Pod's addresses; the first is the main one.
    pub addresses: Vec<IpAddr>,
    /// Address of its node.
    pub host: IpAddr,
    /// Whether it takes connections.
    pub ready: bool,
    /// How often its containers were started again.
    pub restarts: u32,
    /// The process of each container, in their order.
    pub processes: Vec<u32>,
}

impl Status {
    /// The merge patch that writes this into the Pod's `status`.
    pub fn patch(&self, pod: &Pod) -> Value {
        let now = Timestamp::now().to_string();
        let truth = if self.ready { "True" } else { "False" };
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": now});
        let containers: Vec<_> = pod
            .spec
            .iter()
            .flat_map(|spec| &spec.containers)
            .zip(&self.processes)
            .map(|(container, process)| {
                json!({
                    "containerID": format!("process://{process}"),
                    "name": container.name,
                    "image": container.image,
                    "imageID": container.image,
                    "ready": self.ready,
                    "started": true,
                    "restartCount": self.restarts,
                    "state": {"running": {"startedAt": now}},
                })
            })
            .collect();
        let addresses: Vec<_> = self.addresses.iter().map(|ip| json!({"ip": ip})).collect();
        json!({"status": {
            "phase": "Running",
            "conditions": [
                condition("PodScheduled", "True"),
                condition("Initialized", "True"),
                condition("ContainersReady", truth),
                condition("Ready", truth),
            ],
            "hostIP": self.host,
            "hostIPs": [{"ip": self.host}],
            "podIP": self.addresses.first(),
            "podIPs": addresses,
            "containerStatuses": containers,
        }})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_is_not_ready_says_so_and_keeps_its_address() {
        let pod: Pod = serde_json::from_value(json!({
            "spec": {"containers": [{"name": "c", "image": "i"}]}
        }))
        .unwrap();
        let status = Status {
            addresses: vec!["10.88.1.2".parse().unwrap()],
            host: "10.89.0.11".parse().unwrap(),
            ready: false,
            restarts: 3,
            processes: vec![1234],
        };
        let written: Pod = serde_json::from_value(status.patch(&pod)).unwrap();
        let written = written.status.unwrap();
        assert_eq!(written.pod_ip.as_deref(), Some("10.88.1.2"));
        let ready = written.conditions.unwrap();
        let ready = ready.iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!(ready.status, "False");
        let containers = written.container_statuses.unwrap();
        assert_eq!(containers[0].restart_count, 3);
        assert_eq!(
            containers[0].container_id.as_deref(),
            Some("process://1234")
        );
    }
}
