//! The API server where its lists are all that there is of it: what the real one would have stored.

use anyhow::Result;
use serde_json::{Value, json};
use signpost_tests::{
    cluster::{control_plane::SERVICE_RANGES, lists::Lists, node::ClusterNode},
    lab::Lab,
};

use crate::{
    api::Store,
    objects::{NAMESPACE, Objects, Resource},
    place::Node,
};

/// The lists, with what every cluster has.
pub(crate) fn lists(lab: &Lab) -> Result<Lists> {
    let mut nodes = Vec::new();
    for node in Node::ALL {
        let node = ClusterNode::new(lab.node(node.name())?.clone(), node.zone())?;
        let mut object = node.object();
        object["status"] = node.status()["status"].clone();
        nodes.push(object);
    }
    let ranges: Vec<&str> = SERVICE_RANGES.split(',').collect();
    let namespaces = ["default", NAMESPACE]
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    Lists::new(vec![
        ("nodes", nodes),
        ("namespaces", namespaces.to_vec()),
        (
            "servicecidrs",
            vec![json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ranges},
            })],
        ),
        (
            "services",
            vec![json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"namespace": "default", "name": "kubernetes"},
                "spec": {
                    "type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
                    "ipFamilies": ["IPv4"], "ports": [{"name": "https", "port": 443, "targetPort": 6443}],
                },
            })],
        ),
        (
            "endpointslices",
            vec![json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "namespace": "default", "name": "kubernetes",
                    "labels": {"kubernetes.io/service-name": "kubernetes"},
                },
                "addressType": "IPv4", "ports": [{"name": "https", "port": 6443}], "endpoints": [],
            })],
        ),
    ])
}

impl Store for Lists {
    fn change(&self, there: &Objects, wanted: &Objects) -> Result<()> {
        for (resource, name) in there.keys().filter(|key| !wanted.contains_key(key)) {
            if let Some(plural) = plural(*resource) {
                self.delete(plural, NAMESPACE, name);
            }
        }
        for (resource, name) in wanted.keys() {
            let Some(plural) = plural(*resource) else {
                continue;
            };
            let object = stored(wanted, *resource, name);
            if object != stored(there, *resource, name) {
                self.put(plural, object.unwrap_or_default())?;
            }
        }
        Ok(())
    }
}

/// The list that it is in; a status is in that of Services.
const fn plural(resource: Resource) -> Option<&'static str> {
    match resource {
        Resource::Service => Some("services"),
        Resource::Slice => Some("endpointslices"),
        Resource::Status => None,
    }
}

/// An object with its status.
fn stored(objects: &Objects, resource: Resource, name: &str) -> Option<Value> {
    let mut object = objects.get(&(resource, name.to_owned()))?.clone();
    if resource == Resource::Service
        && let Some(status) = objects.get(&(Resource::Status, name.to_owned()))
    {
        object["status"] = status["status"].clone();
    }
    Some(object)
}
