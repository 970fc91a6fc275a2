//! The story of the example, and what changes while it runs.

use std::{io::Read as _, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use signpost_tests::lab::programs;

use super::story::{Story, eventually};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn names_and_connections_follow_what_the_api_server_says() -> Result<()> {
    let mut story = Story::begin()?;
    names_lead_to_services_and_services_to_their_pods(&story).context("the example")?;
    pods_come_and_go(&story).context("scaling")?;
    the_service_goes_and_comes_back(&story).context("deleting the Service")?;
    its_ports_change(&story).context("changing ports")?;
    the_api_server_is_away(&mut story).context("without the API server")?;
    Ok(())
}

fn names_lead_to_services_and_services_to_their_pods(story: &Story) -> Result<()> {
    for (name, namespace, service) in [
        ("ent", "dev", "ent"),
        ("ent.prod", "prod", "ent"),
        ("ent.prod.svc.cluster.local", "prod", "ent"),
        ("kubernetes.default", "default", "kubernetes"),
    ] {
        let address = story.cluster_ip(namespace, service)?;
        eventually(&format!("{name} resolves"), || {
            let found = story.resolve(name)?;
            ensure!(
                found == [address.clone()],
                "{name}: {found:?} instead of {address}"
            );
            Ok(())
        })?;
    }
    ensure!(
        story.resolve("ent.nowhere").is_err(),
        "a namespace that is not there resolves"
    );
    story.only_pods_of("dev", "ent:8080")?;
    story.only_pods_of("prod", "ent.prod:8080")?;

    // The same from a pod of the other node, which joins its pods in another way.
    let nodes = story.cluster.nodes();
    ensure!(nodes.len() == 2, "the cluster has two nodes");
    let pods = story.pods("dev")?;
    let other = pods
        .iter()
        .filter_map(|name| story.cluster.pod("dev", name))
        .find(|pod| pod.node().name() != story.jump.node().name())
        .context("all pods are on one node")?;
    let expected = story.pods("prod")?;
    let seen = Story::answers_to(&other, "ent.prod:8080")?;
    ensure!(seen == expected, "{seen:?} instead of {expected:?}");
    // And to itself through its own Service: all pods of the Service answer, this one too.
    let seen = Story::answers_to(&other, "ent:8080")?;
    ensure!(seen == pods, "{seen:?} instead of {pods:?}");
    Ok(())
}

fn pods_come_and_go(story: &Story) -> Result<()> {
    for replicas in [4, 1, 2] {
        story.cluster.kubectl(&format!(
            "--namespace=dev scale deployment/enterprise --replicas={replicas}"
        ))?;
        eventually(&format!("{replicas} pods answer"), || {
            let pods = story.pods("dev")?;
            ensure!(pods.len() == replicas, "{pods:?}");
            story.only_pods_of("dev", "ent:8080")
        })?;
    }
    Ok(())
}

fn the_service_goes_and_comes_back(story: &Story) -> Result<()> {
    let old = story.cluster_ip("dev", "ent")?;
    story
        .cluster
        .kubectl("--namespace=dev delete service ent")?;
    eventually("a deleted Service does not resolve", || {
        ensure!(story.resolve("ent").is_err(), "ent resolves");
        Ok(())
    })?;
    ensure!(
        Story::answers_to(&story.jump, &format!("{old}:8080")).is_err(),
        "somebody answers at the address of a Service that is gone"
    );

    story
        .cluster
        .kubectl("apply --filename=examples/enterprise/dev.yaml")?;
    eventually("a new Service resolves and connects", || {
        let mut command = story.jump.command(programs::lab_pod()?)?;
        command.args(["get", "ent:8080"]).text()?;
        Ok(())
    })?;
    story.only_pods_of("dev", "ent:8080")?;
    story.only_pods_of("prod", "ent.prod:8080")
}

fn its_ports_change(story: &Story) -> Result<()> {
    let ports =
        r#"[{"op":"replace","path":"/spec/ports/0","value":{"port":9090,"targetPort":8080}}]"#;
    story.cluster.kubectl(&format!(
        "--namespace=dev patch service ent --type=json --patch={ports}"
    ))?;
    eventually("the new port takes connections", || {
        story.only_pods_of("dev", "ent:9090")
    })?;
    ensure!(
        Story::answers_to(&story.jump, "ent:8080").is_err(),
        "the old port takes connections"
    );
    Ok(())
}

fn the_api_server_is_away(story: &mut Story) -> Result<()> {
    let load = Load::start(story, "ent:9090")?;
    story.cluster.control_plane().stop_api_server();
    thread::sleep(Duration::from_secs(5));
    story.resolve("ent.prod.svc.cluster.local")?;
    ensure!(
        story.resolve("ent.nowhere").is_err(),
        "a namespace that is not there resolves"
    );
    story.cluster.control_plane().start_api_server()?;
    load.end_without_a_failure()?;

    story
        .cluster
        .kubectl("create service clusterip late --tcp=8080 --namespace=prod")?;
    story
        .cluster
        .kubectl("--namespace=prod set selector service late app=enterprise")?;
    eventually(
        "what changed after the API server came back is there",
        || story.only_pods_of("prod", "late.prod:8080"),
    )
}

/// A program in `jump` that resolves and connects over and over.
struct Load(std::process::Child);

impl Load {
    fn start(story: &Story, target: &str) -> Result<Self> {
        let mut command = story.jump.command(programs::lab_pod()?)?;
        Ok(Self(command.args(["load", target]).piped()?))
    }

    fn end_without_a_failure(mut self) -> Result<()> {
        // It ends when its input does.
        drop(self.0.stdin.take());
        let mut text = String::new();
        let output = self.0.stdout.as_mut();
        output.context("no output")?.read_to_string(&mut text)?;
        self.0.wait()?;
        let counts: Value = serde_json::from_str(&text)?;
        let counts = &counts["tcp"];
        let answered: u64 = counts["answered"]
            .as_object()
            .context("no counts")?
            .values()
            .filter_map(Value::as_u64)
            .sum();
        println!("{answered} connections while the API server was away");
        ensure!(answered > 0, "nobody answered");
        ensure!(counts["failed"] == serde_json::json!({}), "{text}");
        Ok(())
    }
}
