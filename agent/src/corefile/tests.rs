//! Corefiles as they are found, and what becomes of them.

use std::{path::Path, time::Duration};

use super::*;
use crate::config::dns::{file::parse as parse_yaml, *};

fn imported(text: &str) -> Imported {
    let variable = |name: &str| (name == "UPSTREAM").then(|| "192.0.2.9".to_owned());
    let imported = import(text, variable).unwrap();
    // What is written is what is read.
    let yaml = serde_saphyr::to_string(&imported.config).unwrap();
    let read = parse_yaml(Path::new("dns.yaml"), &yaml).unwrap_or_else(|e| panic!("{e}: {yaml}"));
    assert_eq!(read, imported.config, "{yaml}");
    imported
}

fn yaml(text: &str) -> DnsConfig {
    parse_yaml(Path::new("dns.yaml"), text).unwrap()
}

fn lines(imported: &Imported) -> Vec<usize> {
    imported
        .left_out
        .iter()
        .map(|left_out| left_out.line)
        .collect()
}

const KUBEADM: &str = ".:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
";

#[test]
fn the_corefile_of_kubeadm_is_converted_whole() {
    let imported = imported(KUBEADM);
    assert_eq!(imported.left_out, []);
    let wanted = yaml(
        "
cluster:
  domain: cluster.local
  reverseZones: [in-addr.arpa, ip6.arpa]
  ttl: 30
  pods: insecure
  fallthrough: [in-addr.arpa, ip6.arpa]
forward: {upstreams: [/etc/resolv.conf], maxConcurrent: 1000}
cache:
  success: {ttl: 30, except: [cluster.local]}
  denial: {ttl: 30, except: [cluster.local]}
  prefetch: {hits: 0}
  serveStale: 0s
errors: true
loop: true
lameduck: 5s
",
    );
    assert_eq!(imported.config, wanted);
    let options = imported.config.zone_options();
    assert_eq!(options, crate::zone::Options::default());
}

#[test]
fn a_corefile_of_nodelocal_leaves_the_cluster_to_signpost() {
    let imported = imported(
        "cluster.local:53 {
    errors
    cache { success 9984 30
            denial 9984 5 }
    reload
    loop
    bind 169.254.20.10 10.96.0.10
    forward . __PILLAR__CLUSTER__DNS__ { force_tcp }
    prometheus :9253
    health 169.254.20.10:8080
}
in-addr.arpa:53 {
    forward . 10.96.0.11 { force_tcp }
}
corp.example:53 {
    errors
    cache 30
    forward . 192.0.2.10 { force_tcp }
}
.:53 {
    errors
    cache 30
    loop
    bind 169.254.20.10
    forward . 192.0.2.53
    prometheus :9253
}
",
    );
    assert_eq!(lines(&imported), [1, 12, 24, 26]);
    let domains: Vec<String> = imported
        .config
        .stub_domains
        .iter()
        .flat_map(|s| &s.domains)
        .map(ToString::to_string)
        .collect();
    assert_eq!(domains, ["corp.example"]);
    assert!(imported.config.stub_domains[0].forward.force_tcp);
    assert_eq!(
        imported.config.forward.upstreams,
        ["192.0.2.53".parse().unwrap()]
    );
    assert_eq!(imported.config.cluster, Cluster::default());
}

#[test]
fn stub_domains_hosts_and_rewrites_of_clouds_are_converted() {
    let imported = imported(
        r#"
(logged) {
    log . {
        class denial error
    }
}
# The cluster.
.:53 {
    import logged
    errors
    rewrite name suffix .internal.example .default.svc.cluster.local answer auto
    rewrite stop {
        name regex (.*)\.west\.example\. {1}.east.example.
        answer name (.*)\.east\.example\. {1}.west.example.
    }
    rewrite continue name exact "old.example" new.example
    hosts {
        192.0.2.1 a.example b.example
        2001:db8::1 a.example
        ttl 60
        no_reverse
        fallthrough
    }
    kubernetes cluster.local 10.96.0.0/16 {
        namespaces dev prod
        labels environment in (staging, qa),application=nginx
        endpoint_pod_names
        ignore empty_service
        fallthrough
    }
    forward . tls://192.0.2.53 tls://192.0.2.54 {
        tls_servername dns.example
        except corp.example
        policy sequential
        health_check 5s domain example.com
        max_fails 3
        expire 20s
        failover SERVFAIL REFUSED
    }
    forward consul {$UPSTREAM}:8600
    cache {
        success 5000 600 10
        denial 1000 30
        prefetch 5 2m 20%
        serve_stale 2h
        servfail 1s
    }
}
corp.example:53 other.example {
    errors
    cache 10
    forward . 192.0.2.10 192.0.2.11:5353
}
"#,
    );
    assert_eq!(imported.left_out, []);
    let wanted = yaml(
        r#"
cluster:
  domain: cluster.local
  reverseZones: [10.96.0.0/16]
  ttl: 5
  pods: disabled
  namespaces: [dev, prod]
  labels: environment in (staging, qa),application=nginx
  endpointPodNames: true
  ignoreEmptyServices: true
  fallthrough: ["."]
hosts:
  entries:
    - {address: 192.0.2.1, names: [a.example, b.example]}
    - {address: "2001:db8::1", names: [a.example]}
  ttl: 60
  noReverse: true
  fallthrough: ["."]
rewrite:
  - {match: suffix, from: .internal.example, to: .default.svc.cluster.local, answer: auto}
  - match: regex
    from: (.*)\.west\.example\.
    to: "{1}.east.example."
    answerNames: [{from: '(.*)\.east\.example\.', to: '{1}.west.example.'}]
  - {from: old.example, to: new.example, continue: true}
forward:
  upstreams: [tls://192.0.2.53, tls://192.0.2.54]
  tls: {serverName: dns.example}
  except: [corp.example]
  policy: sequential
  healthCheck: {interval: 5s, domain: example.com}
  maxFails: 3
  expire: 20s
  failover: [SERVFAIL, REFUSED]
  maxConcurrent: 0
stubDomains:
  - {domains: [consul], forward: {upstreams: ["192.0.2.9:8600"], maxConcurrent: 0}}
  - domains: [corp.example, other.example]
    forward: {upstreams: [192.0.2.10, "192.0.2.11:5353"], maxConcurrent: 0}
    cache: {success: {ttl: 10}, denial: {ttl: 10}, prefetch: {hits: 0}, serveStale: 0s}
cache:
  success: {capacity: 5000, ttl: 600, minTtl: 10}
  denial: {capacity: 1000, ttl: 30}
  prefetch: {hits: 5, within: 2m, percentage: 20}
  serveStale: 2h
  failureTtl: 1
log: {classes: [denial, error]}
errors: true
loop: false
"#,
    );
    assert_eq!(imported.config, wanted);
}

#[test]
fn every_mode_of_pods_is_converted() {
    for (mode, pods) in [
        ("disabled", Pods::Disabled),
        ("insecure", Pods::Insecure),
        ("verified", Pods::Verified),
    ] {
        let text = format!(
            ".:53 {{\n kubernetes cluster.local {{\n pods {mode}\n }}\n forward . 192.0.2.1\n}}\n"
        );
        let imported = imported(&text);
        assert_eq!(imported.config.cluster.pods, Some(pods));
        assert_eq!(lines(&imported), Vec::<usize>::new());
    }
}

#[test]
fn the_time_for_the_first_lists_is_converted() {
    let imported = imported("cluster.local {\n kubernetes {\n startup_timeout 1m30s\n }\n}\n");
    let timeout = imported.config.cluster.startup_timeout;
    assert_eq!(timeout.map(Period::get), Some(Duration::from_secs(90)));
    assert_eq!(imported.left_out, []);
}

#[test]
fn what_cannot_be_converted_is_named_with_its_line() {
    let imported = imported(
        ".:53 {
    kubernetes cluster.local {
        multicluster
        kubeconfig /etc/kubeconfig
        ttl 9999
    }
    template IN ANY example.com {
        rcode NXDOMAIN
    }
    rewrite type ANY HINFO
    hosts hosts.txt example.com
    import /etc/coredns/*.override
    bind 10.0.0.1
    autopath @kubernetes
    forward . 192.0.2.1 {
        next NXDOMAIN
    }
    cache 30 {
        keepttl
    }
}
tls://example.com {
    forward . 192.0.2.2
}
example.net:5353 {
    forward . 192.0.2.2
}
",
    );
    assert_eq!(
        lines(&imported),
        [3, 4, 5, 7, 10, 11, 12, 13, 14, 16, 19, 22, 25]
    );
    let text = imported.left_out[3].to_string();
    assert_eq!(
        text,
        "7: \"template IN ANY example.com\" is not converted: signpost has no such plugin"
    );
}

#[test]
fn what_is_no_corefile_is_refused_with_its_line() {
    let refused = |text: &str| import(text, |_| None).unwrap_err().to_string();
    assert_eq!(refused(".:53 {\n  errors\n"), "1: the brace does not close");
    assert_eq!(refused(".:53\n"), "1: a server block without braces");
    assert_eq!(refused("\n}\n"), "2: a brace closes that was not opened");
    assert_eq!(refused("{\n}\n"), "1: a server block without a zone");
    assert_eq!(
        refused(".:53 {\n  log \"x\n}\n"),
        "2: the quote does not end"
    );
}

#[test]
fn names_that_are_none_and_what_would_be_refused_are_told() {
    let text = ".:53 {
    kubernetes cluster.local {
        labels app in web
        namespace_labels team=a b
    }
    hosts {
        192.0.2.1 good.example bad..example
    }
    log bad..zone
    forward . 192.0.2.53
}
stub.example {
    forward . 192.0.2.54
}
stub.example:53 {
    forward . 192.0.2.55
}
";
    let imported = import(text, |_| None).unwrap();
    let told: Vec<&str> = imported.left_out.iter().map(|l| l.text.as_str()).collect();
    let has = |line: usize, part: &str| {
        let mut all = imported.left_out.iter();
        all.any(|left_out| left_out.line == line && left_out.text.contains(part))
    };
    assert!(has(3, "\"app in web\" is no label selector"), "{told:?}");
    assert!(has(4, "\"team=a b\" is no label selector"), "{told:?}");
    assert!(has(7, "bad..example"), "{told:?}");
    assert!(has(9, "bad..zone"), "{told:?}");
    assert!(has(1, "stubDomains[1].domains"), "{told:?}");
    let names = &imported.config.hosts.as_ref().unwrap().entries[0].names;
    assert_eq!(names.len(), 1);
}
