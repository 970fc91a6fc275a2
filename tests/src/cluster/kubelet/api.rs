//! The calls that the kubelet of the laboratory makes to the API server.

use anyhow::{Context as _, Result};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Pod, ServiceAccount},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::status::Status;

/// Binds a Pod to a node, as the scheduler would.
///
/// # Errors
/// Where the API server cannot be reached or refuses.
pub async fn bind(client: &Client, namespace: &str, name: &str, node: &str) -> Result<()> {
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, "namespace": namespace},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let request = kube::core::Request::new(format!("/api/v1/namespaces/{namespace}/pods"))
        .create_subresource(
            "binding",
            name,
            &PostParams::default(),
            serde_json::to_vec(&binding)?,
        )?;
    client.request::<serde_json::Value>(request).await?;
    Ok(())
}

/// Writes what is known of a Pod into its status.
///
/// # Errors
/// Where the API server cannot be reached or refuses.
pub async fn write_status(client: &Client, pod: &Pod, status: &Status) -> Result<()> {
    let (namespace, name) = name_of(pod)?;
    Api::<Pod>::namespaced(client.clone(), namespace)
        .patch_status(
            name,
            &PatchParams::default(),
            &Patch::Strategic(status.patch(pod)),
        )
        .await?;
    Ok(())
}

/// Says that nothing of a Pod runs any more, which ends the object.
///
/// # Errors
/// Where the API server cannot be reached or refuses.
pub async fn finish(client: &Client, pod: &Pod) -> Result<()> {
    let (namespace, name) = name_of(pod)?;
    let parameters = DeleteParams::default().grace_period(0);
    match Api::<Pod>::namespaced(client.clone(), namespace)
        .delete(name, &parameters)
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

/// A token of the Pod's service account.
///
/// # Errors
/// Where the API server cannot be reached or refuses, as it does until the account is there.
pub async fn token(client: &Client, namespace: &str, account: &str) -> Result<String> {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(24 * 3600),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let answer = Api::<ServiceAccount>::namespaced(client.clone(), namespace)
        .create_token_request(account, &PostParams::default(), &request)
        .await?;
    let status = answer.status.context("the API server gave no token")?;
    Ok(status.token)
}

/// The values of a ConfigMap; none where it is not there.
///
/// # Errors
/// Where the API server cannot be reached or refuses.
pub async fn settings(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Vec<(String, String)>> {
    let map = Api::<ConfigMap>::namespaced(client.clone(), namespace)
        .get_opt(name)
        .await?;
    Ok(map.and_then(|map| map.data).into_iter().flatten().collect())
}

/// Namespace and name of a Pod.
///
/// # Errors
/// Where it has none, which no Pod of an API server does.
pub fn name_of(pod: &Pod) -> Result<(&str, &str)> {
    let namespace = pod.metadata.namespace.as_deref();
    let name = pod.metadata.name.as_deref();
    namespace.zip(name).context("a Pod without a name")
}
