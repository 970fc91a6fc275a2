//! How a container of a Pod becomes a process of this machine.
//!
//! A process gets what its manifest asks of a container and what signpost's own containers use of one: the network
//! namespace, mounts of the node's folders, the user, the capabilities, the environment, the service account's
//! credentials. Everything else it shares with the machine.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::{
    cluster::node::ClusterNode,
    lab::{self, Command},
};

/// Where a container mounts the credentials of its Pod's service account.
pub const CREDENTIALS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What a container finds where it runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its node.
    pub node: ClusterNode,
    /// The program that is put at `/usr/local/bin/signpost` for the image `signpost`.
    pub signpost: PathBuf,
    /// The program that every other image stands for.
    pub stand_in: PathBuf,
    /// The folder with the service account's credentials, where the Pod has some.
    pub credentials: Option<PathBuf>,
    /// Values of the ConfigMaps that the Pod names, by map and key.
    pub settings: BTreeMap<(String, String), String>,
}

/// The command that runs a container in the place of its Pod.
///
/// # Errors
/// Where the manifest asks for something that the laboratory does not know.
pub fn command(
    sandbox: &lab::Pod,
    pod: &Pod,
    container: &Container,
    place: &Place,
) -> Result<Command> {
    if image(container) != "signpost" {
        return stand_in(sandbox, container, place);
    }
    let spec = pod.spec.as_ref().context("a Pod without a spec")?;
    let mut command = sandbox.command("unshare")?;
    command
        .args(["--mount", "--propagation=private", "--", "sh", "-euc"])
        .arg(script(spec, container, place)?)
        .args(["sh", "/usr/local/bin/signpost"])
        .args(container.args.iter().flatten())
        .env("KUBERNETES_SERVICE_HOST", "10.96.0.1")
        .env("KUBERNETES_SERVICE_PORT", "443");
    for (name, value) in environment(pod, container, place)? {
        command.env(name, value);
    }
    Ok(command)
}

/// The ConfigMaps that containers take variables or files from.
pub fn maps_of(spec: &PodSpec) -> Vec<String> {
    let volumes = spec.volumes.iter().flatten();
    let files = volumes.filter_map(|volume| volume.config_map.as_ref());
    let files = files.map(|map| map.name.clone());
    spec.containers
        .iter()
        .flat_map(|container| container.env.iter().flatten())
        .filter_map(|variable| variable.value_from.as_ref()?.config_map_key_ref.as_ref())
        .map(|key| key.name.clone())
        .chain(files)
        .collect()
}

/// The name of a container's image, without registry and tag.
fn image(container: &Container) -> &str {
    let image = container.image.as_deref().unwrap_or_default();
    let name = image.rsplit('/').next().unwrap_or_default();
    name.split([':', '@']).next().unwrap_or_default()
}

/// What runs in the place of any other program: a server on the container's ports that answers with the Pod's name.
fn stand_in(sandbox: &lab::Pod, container: &Container, place: &Place) -> Result<Command> {
    let ports: Vec<_> = container
        .ports
        .iter()
        .flatten()
        .map(|port| port.container_port.to_string())
        .collect();
    let mut command = sandbox.command(&place.stand_in)?;
    if ports.is_empty() {
        command.arg("pause");
    } else {
        command
            .args(["serve", "--name", sandbox.name(), "--ports"])
            .arg(ports.join(","));
    }
    Ok(command)
}

/// The environment that the manifest asks for.
fn environment(pod: &Pod, container: &Container, place: &Place) -> Result<Vec<(String, String)>> {
    let mut variables = Vec::new();
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => Some(value.clone()),
            (None, None) => Some(String::new()),
            (None, Some(source)) => {
                if let Some(field) = &source.field_ref {
                    Some(field_of(pod, &field.field_path, place)?)
                } else if let Some(key) = &source.config_map_key_ref {
                    let value = place.settings.get(&(key.name.clone(), key.key.clone()));
                    if value.is_none() && key.optional != Some(true) {
                        bail!("ConfigMap {} has no key {}", key.name, key.key);
                    }
                    value.cloned()
                } else {
                    bail!(
                        "variable {}: the laboratory knows no such source",
                        variable.name
                    );
                }
            }
        };
        variables.extend(value.map(|value| (variable.name.clone(), value)));
    }
    Ok(variables)
}

fn field_of(pod: &Pod, path: &str, place: &Place) -> Result<String> {
    let value = match path {
        "spec.nodeName" => Some(place.node.name().to_owned()),
        "metadata.name" => pod.metadata.name.clone(),
        "metadata.namespace" => pod.metadata.namespace.clone(),
        _ => None,
    };
    value.with_context(|| format!("the laboratory knows no field {path}"))
}

/// The shell script that makes the mounts, gives up rights, and becomes the program (its arguments).
fn script(spec: &PodSpec, container: &Container, place: &Place) -> Result<String> {
    let mut script = String::from(
        "bind() {
    mkdir -p \"$2\" 2>/dev/null || { mount -t tmpfs tmpfs \"${2%/*}\" && mkdir -p \"$2\"; }
    mount --bind \"$1\" \"$2\"
    mount -o \"remount,bind,$3\" \"$2\"
}
mount -o remount,bind,ro /
mount -t tmpfs tmpfs /run
",
    );
    writeln!(
        script,
        "mount -t tmpfs tmpfs /usr/local/bin\n\
         touch /usr/local/bin/signpost\n\
         mount --bind {} /usr/local/bin/signpost",
        quoted(&place.signpost)
    )?;
    if let Some(credentials) = &place.credentials {
        writeln!(script, "bind {} {CREDENTIALS} ro", quoted(credentials))?;
    }
    for mount in container.volume_mounts.iter().flatten() {
        if mount.mount_path == CREDENTIALS {
            continue;
        }
        let volume = spec
            .volumes
            .iter()
            .flatten()
            .find(|volume| volume.name == mount.name)
            .with_context(|| format!("there is no volume {}", mount.name))?;
        let path = if let Some(source) = &volume.host_path {
            place.node.on_machine(&source.path)
        } else if let Some(map) = &volume.config_map {
            place
                .node
                .on_machine(format!("/var/lib/kubelet/maps/{}", map.name))
        } else {
            bail!(
                "volume {} is neither a hostPath nor a ConfigMap",
                mount.name
            );
        };
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        if let Some(map) = &volume.config_map {
            let of_map = place
                .settings
                .iter()
                .filter(|((name, _), _)| *name == map.name);
            for ((_, key), value) in of_map {
                fs::write(path.join(key), value)?;
            }
        }
        let path = quoted(&path);
        let mode = if mount.read_only == Some(true) {
            "ro"
        } else {
            "rw"
        };
        writeln!(
            script,
            "bind {path} {} {mode}",
            quoted(Path::new(&mount.mount_path))
        )?;
    }
    for sysctl in spec
        .security_context
        .iter()
        .flat_map(|context| context.sysctls.iter().flatten())
    {
        writeln!(
            script,
            "printf %s {} >/proc/sys/{}",
            sysctl.value,
            sysctl.name.replace('.', "/")
        )?;
    }
    writeln!(
        script,
        "exec setpriv {} \"$@\"",
        privileges(spec, container).join(" ")
    )?;
    Ok(script)
}

/// The flags of setpriv(1) that leave a container the rights that its manifest gives it.
fn privileges(spec: &PodSpec, container: &Container) -> Vec<String> {
    let mut flags = Vec::new();
    let pod = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    if let Some(user) = own.run_as_user.or(pod.run_as_user) {
        let group = own.run_as_group.or(pod.run_as_group).unwrap_or(user);
        flags.extend([
            format!("--reuid={user}"),
            format!("--regid={group}"),
            "--clear-groups".to_owned(),
        ]);
    }
    if own.allow_privilege_escalation == Some(false) {
        flags.push("--no-new-privs".to_owned());
    }
    if own.privileged != Some(true) {
        let capabilities = own.capabilities.unwrap_or_default();
        let kept: Vec<_> = capabilities
            .add
            .iter()
            .flatten()
            .map(|name| format!(",+{}", name.to_lowercase()))
            .collect();
        let kept = kept.concat();
        flags.push(format!("--bounding-set=-all{kept}"));
        flags.push("--inh-caps=-all".to_owned());
    }
    flags
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
