//! The API server as the suite writes to it.

use std::path::Path;

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams},
};
use serde_json::{Value, json};
use signpost_tests::cluster::client::client;

use crate::objects::{Key, Kind, Objects};

/// How many requests are under way at a time.
const SIDE_BY_SIDE: usize = 16;

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

    /// Makes a namespace that the API server makes itself sooner or later.
    pub(crate) fn make_namespace(&self, name: &str) -> Result<()> {
        let (key, object) = crate::objects::namespace(name);
        let object: DynamicObject = serde_json::from_value(object)?;
        let api = self.api(&key);
        match self
            .runtime
            .block_on(api.create(&PostParams::default(), &object))
        {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            made => Ok(made.map(|_| ())?),
        }
    }

    /// Makes what is there into what is wanted. What differs is deleted first: addresses of Services do not change.
    pub(crate) fn change(&self, there: &Objects, wanted: &Objects) -> Result<()> {
        let gone: Vec<&Key> = there
            .iter()
            .filter(|(key, object)| wanted.get(*key) != Some(object))
            .map(|(key, _)| key)
            .collect();
        let new: Vec<(&Key, &Value)> = wanted
            .iter()
            .filter(|(key, object)| there.get(*key) != Some(object))
            .collect();
        self.runtime.block_on(async {
            stream::iter(gone)
                .map(|key| self.delete(key))
                .buffer_unordered(SIDE_BY_SIDE)
                .try_collect::<Vec<_>>()
                .await?;
            for kind in [Kind::Namespace, Kind::Service, Kind::Slice] {
                stream::iter(new.iter().filter(|(key, _)| key.kind == kind))
                    .map(|(key, object)| self.create(key, object))
                    .buffer_unordered(SIDE_BY_SIDE)
                    .try_collect::<Vec<_>>()
                    .await?;
            }
            Ok(())
        })
    }

    async fn create(&self, key: &Key, object: &Value) -> Result<()> {
        let object: DynamicObject = serde_json::from_value(object.clone())?;
        let made = self.api(key).create(&PostParams::default(), &object).await;
        made.with_context(|| format!("{key:?}: {object:?}"))?;
        Ok(())
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let api = self.api(key);
        api.delete(&key.name, &DeleteParams::default())
            .await
            .with_context(|| format!("deleting {key:?}"))?;
        if key.kind == Kind::Namespace {
            // No controller empties it: what was in it stays.
            let object = json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": key.name}, "spec": {"finalizers": []},
            });
            let object: DynamicObject = serde_json::from_value(object)?;
            api.replace_subresource("finalize", &key.name, &PostParams::default(), &object)
                .await?;
        }
        Ok(())
    }

    fn api(&self, key: &Key) -> Api<DynamicObject> {
        let (group, version, kind) = match key.kind {
            Kind::Namespace => ("", "v1", "Namespace"),
            Kind::Service => ("", "v1", "Service"),
            Kind::Slice => ("discovery.k8s.io", "v1", "EndpointSlice"),
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        match key.kind {
            Kind::Namespace => Api::all_with(self.client.clone(), &resource),
            Kind::Service | Kind::Slice => {
                Api::namespaced_with(self.client.clone(), &key.namespace, &resource)
            }
        }
    }
}
