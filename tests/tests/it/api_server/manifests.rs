//! The manifests of `deploy/` and `examples/`.

use anyhow::Result;
use signpost_tests::cluster::Cluster;

use super::story::apply_example;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_api_server_accepts_every_manifest_and_gives_the_agent_no_more_rights_than_it_needs()
-> Result<()> {
    let cluster = Cluster::up(&[])?;

    let rendered = cluster.kubectl("kustomize deploy/base")?;
    let objects = rendered.matches("\nkind: ").count();
    let accepted = cluster.kubectl("apply --kustomize=deploy/base --dry-run=server")?;
    assert_eq!(
        accepted.matches("created (server dry run)").count(),
        objects,
        "{accepted}"
    );

    cluster.kubectl("apply --kustomize=deploy/base")?;
    let may = |account: &str, what: &str| {
        let answer = cluster.kubectl(&format!(
            "auth can-i {what} --all-namespaces --as=system:serviceaccount:kube-system:{account}"
        ));
        // kubectl says no with its exit status as well.
        answer.is_ok_and(|answer| answer.trim() == "yes")
    };
    for resource in [
        "services",
        "namespaces",
        "nodes",
        "endpointslices.discovery.k8s.io",
        "servicecidrs.networking.k8s.io",
    ] {
        for verb in ["get", "list", "watch"] {
            let what = format!("{verb} {resource}");
            assert!(may("signpost-agent", &what), "{what}");
            assert!(!may("signpost-dns", &what), "{what}");
        }
        let what = format!("update {resource}");
        assert!(!may("signpost-agent", &what), "{what}");
    }
    assert!(may("signpost-agent", "create events.events.k8s.io"));
    assert!(!may("signpost-dns", "create events.events.k8s.io"));
    for what in [
        "list secrets",
        "list configmaps",
        "list pods",
        "create pods",
    ] {
        assert!(!may("signpost-agent", what), "{what}");
    }
    let accepted =
        cluster.kubectl("apply --dry-run=server --kustomize=deploy/pod-sockets -o yaml")?;
    for added in [
        "- SYS_ADMIN",
        "mountPath: /run/netns",
        "mountPath: /sys/fs/bpf",
    ] {
        assert!(accepted.contains(added), "{accepted}");
    }
    cluster.kubectl("apply --kustomize=deploy/pods-verified")?;
    for what in ["list pods", "watch pods"] {
        assert!(may("signpost-agent", what), "{what}");
    }
    for what in ["get pods", "create pods", "list secrets"] {
        assert!(!may("signpost-agent", what), "{what}");
    }

    apply_example(&cluster)
}
