//! Which node a Pod goes to. The laboratory has no scheduler: Pods go round the nodes, but for those that name one.

use k8s_openapi::api::core::v1::{NodeSelectorTerm, Pod};

/// The node for a Pod that has none yet: the one that a DaemonSet made it for, the one that its `nodeSelector`
/// names, else the one whose `turn` it is.
///
/// Nothing where the Pod asks for a node that is not there.
pub fn node_for<'a>(pod: &Pod, nodes: &[&'a str], turn: usize) -> Option<&'a str> {
    let spec = pod.spec.as_ref()?;
    let wanted = spec
        .node_selector
        .as_ref()
        .and_then(|selector| selector.get("kubernetes.io/hostname").cloned())
        .or_else(|| {
            spec.affinity
                .as_ref()?
                .node_affinity
                .as_ref()?
                .required_during_scheduling_ignored_during_execution
                .as_ref()?
                .node_selector_terms
                .iter()
                .find_map(node_of_term)
        });
    match wanted {
        Some(wanted) => nodes.iter().find(|name| **name == wanted).copied(),
        None => nodes.get(turn % nodes.len().max(1)).copied(),
    }
}

/// The DaemonSet controller asks for a node by `matchFields: metadata.name`.
fn node_of_term(term: &NodeSelectorTerm) -> Option<String> {
    term.match_fields
        .iter()
        .flatten()
        .find(|field| field.key == "metadata.name")?
        .values
        .as_ref()?
        .first()
        .cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NODES: [&str; 2] = ["n1", "n2"];

    #[test]
    fn pods_without_wishes_go_round_the_nodes() {
        let pod = serde_json::from_value(json!({"spec": {"containers": []}})).unwrap();
        let nodes: Vec<_> = (0..4).map(|turn| node_for(&pod, &NODES, turn)).collect();
        assert_eq!(nodes, [Some("n1"), Some("n2"), Some("n1"), Some("n2")]);
        assert_eq!(node_for(&pod, &[], 0), None);
    }

    #[test]
    fn a_pod_of_a_daemon_set_goes_to_its_node() {
        let pod = serde_json::from_value(json!({"spec": {"containers": [], "affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["n1"]}
            ]}]}
        }}}}))
        .unwrap();
        assert_eq!(node_for(&pod, &NODES, 1), Some("n1"));
    }

    #[test]
    fn a_pod_for_a_node_that_is_not_there_waits() {
        let pod = serde_json::from_value(json!({"spec": {
            "containers": [], "nodeSelector": {"kubernetes.io/hostname": "n9"}
        }}))
        .unwrap();
        assert_eq!(node_for(&pod, &NODES, 0), None);
    }
}
