//! The API server as the scenarios write to it.

use std::path::Path;

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::{Value, json};
use signpost_tests::cluster::client::client;

use crate::objects::{NAMESPACE, Objects, Resource};

/// Where the objects of scenarios are written to.
pub(crate) trait Store {
    /// Makes what is there into what is wanted. Objects that are the same in both are not touched.
    fn change(&self, there: &Objects, wanted: &Objects) -> Result<()>;
}

/// How many requests are under way at a time.
const SIDE_BY_SIDE: usize = 8;

/// A client with the administrator's rights.
pub(crate) struct Server {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Server {
    pub(crate) fn new(kubeconfig: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let client = runtime.block_on(client(kubeconfig))?;
        Ok(Self { client, runtime })
    }

    /// Makes the namespace of the scenarios.
    pub(crate) fn make_namespace(&self) -> Result<()> {
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE},
        });
        self.runtime
            .block_on(apply(&self.cluster_wide("Namespace"), NAMESPACE, &object))
    }

    /// Writes a Node, with its status.
    pub(crate) fn write_node(&self, object: &Value, status: &Value) -> Result<()> {
        let nodes = self.cluster_wide("Node");
        let name = object["metadata"]["name"].as_str().context("no name")?;
        self.runtime.block_on(async {
            apply(&nodes, name, object).await?;
            let patch = Patch::Merge(status);
            nodes
                .patch_status(name, &PatchParams::default(), &patch)
                .await?;
            Ok(())
        })
    }

    async fn write(&self, resource: Resource, name: &str, object: &Value) -> Result<()> {
        let api = self.scenarios(resource);
        if resource != Resource::Status {
            return apply(&api, name, object).await;
        }
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(object))
            .await
            .with_context(|| format!("status of {name}"))?;
        Ok(())
    }

    async fn delete(&self, resource: Resource, name: &str) -> Result<()> {
        let api = self.scenarios(resource);
        api.delete(name, &DeleteParams::default())
            .await
            .with_context(|| format!("deleting {resource:?} {name}"))?;
        Ok(())
    }

    fn scenarios(&self, resource: Resource) -> Api<DynamicObject> {
        let kind = match resource {
            Resource::Service | Resource::Status => GroupVersionKind::gvk("", "v1", "Service"),
            Resource::Slice => GroupVersionKind::gvk("discovery.k8s.io", "v1", "EndpointSlice"),
        };
        Api::namespaced_with(
            self.client.clone(),
            NAMESPACE,
            &ApiResource::from_gvk(&kind),
        )
    }

    fn cluster_wide(&self, kind: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("", "v1", kind);
        Api::all_with(self.client.clone(), &ApiResource::from_gvk(&kind))
    }
}

impl Store for Server {
    fn change(&self, there: &Objects, wanted: &Objects) -> Result<()> {
        let gone = there
            .keys()
            .filter(|key| !wanted.contains_key(key) && key.0 != Resource::Status);
        let new = wanted
            .iter()
            .filter(|(key, object)| there.get(key) != Some(object));
        // A status is written when its Service is there, and a Service once its predecessor's ports are free.
        let (statuses, objects): (Vec<_>, Vec<_>) =
            new.partition(|((resource, _), _)| *resource == Resource::Status);
        self.runtime.block_on(async {
            stream::iter(gone)
                .map(|(resource, name)| self.delete(*resource, name))
                .buffer_unordered(SIDE_BY_SIDE)
                .try_collect::<Vec<_>>()
                .await?;
            for round in [objects, statuses] {
                stream::iter(round)
                    .map(|((resource, name), object)| self.write(*resource, name, object))
                    .buffer_unordered(SIDE_BY_SIDE)
                    .try_collect::<Vec<_>>()
                    .await?;
            }
            Ok(())
        })
    }
}

/// Applies an object, so that a field which it no longer has goes.
async fn apply(api: &Api<DynamicObject>, name: &str, object: &Value) -> Result<()> {
    let parameters = PatchParams::apply("differential").force();
    api.patch(name, &parameters, &Patch::Apply(object))
        .await
        .with_context(|| format!("{object}"))?;
    Ok(())
}
