//! What is told by the API server beside peers.

use std::{net::IpAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{Namespace, Node, Service},
        discovery::v1::EndpointSlice,
    },
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
    core::Resource,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    bench::{scale, site::ANSWERS},
    cluster::{client::client, node::ClusterNode},
    lab::Lab,
};

/// How many requests are under way at a time.
const SIDE_BY_SIDE: usize = 16;

/// A client of the API server with the administrator's rights.
pub(super) struct Objects {
    pub(super) client: Client,
    runtime: Runtime,
}

impl Objects {
    pub(super) fn new(kubeconfig: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let client = runtime.block_on(client(kubeconfig))?;
        Ok(Self { client, runtime })
    }

    /// Where requests run.
    pub(super) const fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Writes the Nodes `one` and `two`.
    pub(super) fn write_nodes(&self, lab: &Lab) -> Result<()> {
        let api: Api<Node> = Api::all(self.client.clone());
        for name in ["one", "two"] {
            let node = ClusterNode::new(lab.node(name)?.clone(), "zone")?;
            self.runtime.block_on(async {
                api.create(
                    &PostParams::default(),
                    &serde_json::from_value(node.object())?,
                )
                .await?;
                let patch = Patch::Merge(node.status());
                api.patch_status(name, &PatchParams::default(), &patch)
                    .await?;
                anyhow::Ok(())
            })?;
        }
        Ok(())
    }

    /// Makes the namespaces of the Services that are only there to be many.
    pub(super) fn write_namespaces(&self) -> Result<()> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        self.runtime.block_on(async {
            for service in 0..50 {
                let object = json!({
                    "apiVersion": "v1",
                    "kind": "Namespace",
                    "metadata": {"name": scale::namespace(service)},
                });
                api.create(&PostParams::default(), &serde_json::from_value(object)?)
                    .await?;
            }
            Ok(())
        })
    }

    /// Makes a Service with its endpoint.
    pub(super) fn create(&self, service: Value, slice: Value) -> Result<()> {
        self.runtime.block_on(async {
            self.create_one::<Service>(service).await?;
            self.create_one::<EndpointSlice>(slice).await
        })
    }

    /// Makes a namespace that the API server makes itself sooner or later.
    pub(super) fn create_namespace(&self, name: &str) -> Result<()> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
        });
        let object = serde_json::from_value(object)?;
        match self
            .runtime
            .block_on(api.create(&PostParams::default(), &object))
        {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            made => Ok(made.map(|_| ())?),
        }
    }

    /// Makes EndpointSlices.
    pub(super) fn create_slices(&self, slices: Vec<Value>) -> Result<()> {
        self.runtime.block_on(async {
            for slice in slices {
                self.create_one::<EndpointSlice>(slice).await?;
            }
            Ok(())
        })
    }

    /// Makes Services, all else of which is the API server's to say.
    pub(super) fn create_services(&self, services: Vec<Value>) -> Result<()> {
        self.runtime.block_on(async {
            stream::iter(services)
                .map(|service| self.create_one::<Service>(service))
                .buffer_unordered(SIDE_BY_SIDE)
                .try_collect::<Vec<()>>()
                .await?;
            Ok(())
        })
    }

    /// Makes Services of this range that are only there to be many; all lead to one endpoint.
    pub(super) fn create_many(&self, range: std::ops::Range<u32>, endpoint: IpAddr) -> Result<()> {
        self.runtime.block_on(async {
            stream::iter(range)
                .map(|number| async move {
                    self.create_one::<Service>(service(number)).await?;
                    self.create_one::<EndpointSlice>(slice(number, &[endpoint]))
                        .await
                })
                .buffer_unordered(SIDE_BY_SIDE)
                .try_collect::<Vec<()>>()
                .await?;
            Ok(())
        })
    }

    /// Gives all of so many Services the endpoints that they have in the suite `scale`.
    pub(super) fn give_many_endpoints(&self, services: u32) -> Result<()> {
        self.runtime.block_on(async {
            stream::iter(0..services)
                .map(|number| async move {
                    let endpoints: Vec<_> = (0..scale::ENDPOINTS)
                        .map(|endpoint| scale::pod_ip(number, endpoint).into())
                        .collect();
                    self.replace_slice(slice(number, &endpoints)).await
                })
                .buffer_unordered(SIDE_BY_SIDE)
                .try_collect::<Vec<()>>()
                .await?;
            Ok(())
        })
    }

    /// Writes a slice that is there anew.
    pub(super) async fn replace_slice(&self, object: Value) -> Result<()> {
        let (namespace, name) = named(&object)?;
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &namespace);
        api.patch(&name, &PatchParams::default(), &Patch::Merge(object))
            .await
            .with_context(|| format!("EndpointSlice {namespace}/{name}"))?;
        Ok(())
    }

    /// Lists all Services and EndpointSlices at once, as an agent does when it starts. Returns how long it took.
    pub(super) fn list(&self) -> Result<Duration> {
        let begin = std::time::Instant::now();
        self.runtime.block_on(async {
            let services: Api<Service> = Api::all(self.client.clone());
            let slices: Api<EndpointSlice> = Api::all(self.client.clone());
            let parameters = ListParams::default().match_any();
            tokio::try_join!(services.list(&parameters), slices.list(&parameters))
        })?;
        Ok(begin.elapsed())
    }

    async fn create_one<K>(&self, object: Value) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + Serialize
            + DeserializeOwned,
    {
        let (namespace, name) = named(&object)?;
        let api: Api<K> = Api::namespaced(self.client.clone(), &namespace);
        api.create(&PostParams::default(), &serde_json::from_value(object)?)
            .await
            .with_context(|| format!("{namespace}/{name}"))?;
        Ok(())
    }
}

/// A Service that is only there to be one of many.
pub(super) fn service(number: u32) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": scale::namespace(number), "name": format!("service-{number}")},
        "spec": {
            "clusterIP": scale::service_ip(number),
            "ports": [{"name": "answers", "port": 80, "targetPort": ANSWERS, "protocol": "TCP"}],
        },
    })
}

/// Its EndpointSlice.
pub(super) fn slice(number: u32, endpoints: &[IpAddr]) -> Value {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": scale::namespace(number),
            "name": format!("service-{number}-abcde"),
            "labels": {"kubernetes.io/service-name": format!("service-{number}")},
        },
        "addressType": "IPv4",
        "ports": [{"name": "answers", "port": ANSWERS, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

/// A Service whose ports are also open at the nodes.
pub(super) fn with_node_port(mut service: Value, port: u16) -> Value {
    service["spec"]["type"] = json!("NodePort");
    service["spec"]["ports"][0]["nodePort"] = json!(port);
    service
}

fn named(object: &Value) -> Result<(String, String)> {
    let text = |field: &str| {
        let value = object["metadata"][field].as_str();
        value.map(str::to_owned).context("an object without a name")
    };
    Ok((text("namespace")?, text("name")?))
}
