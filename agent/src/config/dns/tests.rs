//! What the file may say, and how it is refused.

use std::path::Path;

use rstest::rstest;

use super::{file::parse, *};
use crate::zone::Options;

fn read(text: &str) -> Result<DnsConfig, String> {
    parse(Path::new("dns.yaml"), text).map_err(|error| error.to_string())
}

const WHOLE: &str = r#"
cluster:
  domain: cluster.local
  otherDomains: [cluster.example]
  reverseZones: [10.96.0.0/12, ip6.arpa]
  ttl: 5
  pods: disabled
  namespaces: [dev, prod]
  labels: app in (a, b), !old
  endpointPodNames: true
  ignoreEmptyServices: true
  startupTimeout: 2s
  fallthrough: [in-addr.arpa, ip6.arpa]
hosts:
  entries:
    - address: 192.0.2.1
      names: [db.cluster.local, db.example.com]
  ttl: 60
  noReverse: true
  fallthrough: ["."]
rewrite:
  - match: suffix
    from: .example.internal
    to: .default.svc.cluster.local
    answer: auto
  - from: a.example.com
    to: b.example.com
    continue: true
  - match: regex
    from: (.*)\.west\.example\.com\.$
    to: "{1}.east.example.com"
    answerNames:
      - from: (.*)\.east\.example\.com\.
        to: "{1}.west.example.com"
forward:
  upstreams: [/etc/resolv.conf, 192.0.2.53, "[2001:db8::53]:5353", tls://192.0.2.54, "tls://192.0.2.55%dns.example.com:8853"]
  except: [example.net]
  policy: round_robin
  maxFails: 3
  healthCheck: {interval: 1s, domain: example.com, noRecursion: true}
  maxConcurrent: 500
  expire: 10s
  readTimeout: 500ms
  tls: {serverName: dns.example.com, ca: /etc/ssl/ca.pem}
  failover: [SERVFAIL, REFUSED]
stubDomains:
  - domains: [corp.example]
    forward:
      upstreams: [192.0.2.10]
      forceTcp: true
    cache: {success: {ttl: 10}}
cache:
  success: {capacity: 5000, ttl: 3600, minTtl: 5, except: [example.org]}
  denial: {capacity: 2000, ttl: 30}
  failureTtl: 5
  prefetch: {hits: 10, within: 1m, percentage: 20}
  serveStale: 1h30m
log: {classes: [denial, error], zones: [example.com]}
errors: true
loop: false
limits: {responsesPerSecond: 1000, tcpConnections: 500, tcpConnectionsPerClient: 20}
lameduck: 5s
"#;

#[test]
fn every_option_is_read_and_written_again() {
    let config = read(WHOLE).unwrap();
    let text = serde_saphyr::to_string(&config).unwrap();
    assert_eq!(read(&text).unwrap(), config, "{text}");
    let options = config.zone_options();
    assert_eq!(options.reverse.len(), 17, "a /12 is 16 zones");
    assert_eq!(options.reverse[0].to_string(), "96.10.in-addr.arpa");
    assert_eq!(options.rewrites.len(), 3);
    assert_eq!(options.elsewhere.len(), 1);
    assert_eq!(options.hosts.len(), 2);
    assert_eq!(config.forward.upstreams.len(), 5);
    assert_eq!(config.cache.serve_stale.unwrap().get().as_secs(), 5400);
}

#[test]
fn what_says_nothing_is_the_default() {
    for text in ["", "# nothing\n", "---\n", "cluster: {}\n"] {
        assert_eq!(read(text).unwrap(), DnsConfig::default(), "{text:?}");
    }
    assert_eq!(DnsConfig::default().zone_options(), Options::default());
}

#[rstest]
#[case::key("cluster:\n  podz: disabled\n", "dns.yaml:2:3: ", "podz")]
#[case::key_at_the_top("clusters: {}\n", "dns.yaml:1:1: ", "clusters")]
#[case::value("cluster:\n  pods: sure\n", "dns.yaml:2:9: cluster.pods: ", "sure")]
#[case::number(
    "cluster:\n  ttl: 4000\n",
    "dns.yaml:2:8: cluster.ttl: ",
    "4000 is not between 0 and 3600"
)]
#[case::negative(
    "cluster:\n  ttl: -1\n",
    "dns.yaml:2:8: cluster.ttl: ",
    "-1 is not between"
)]
#[case::time("lameduck: five\n", "dns.yaml:1:11: lameduck: ", "\"five\" is no time")]
#[case::upstream(
    "forward:\n  upstreams: [192.0.2.1, nobody]\n",
    "dns.yaml:2:26: forward.upstreams[1]: ",
    "\"nobody\" is no upstream"
)]
#[case::name(
    "cluster:\n  domain: a..b\n",
    "dns.yaml:2:11: cluster.domain: ",
    "\"a..b\" is not a DNS name"
)]
#[case::reverse(
    "cluster:\n  reverseZones: [example.com]\n",
    "dns.yaml:2:18: cluster.reverseZones[0]: ",
    "\"example.com\" is neither"
)]
#[case::type_of("hosts:\n  entries: yes\n", "dns.yaml:2:12: hosts.entries: ", "")]
#[case::twice("cluster:\n  ttl: 1\n  ttl: 2\n", "dns.yaml:3:3: ", "ttl")]
#[case::expression(
    "rewrite:\n  - {match: regex, from: '(', to: a}\n",
    "dns.yaml: rewrite[0].from: ",
    "\"(\" is no regular expression"
)]
#[case::group(
    "rewrite:\n  - {match: regex, from: '(a)', to: '{2}'}\n",
    "dns.yaml: rewrite[0].to: ",
    "uses group 2"
)]
#[case::stub(
    "stubDomains:\n  - {domains: [a], forward: {}}\n",
    "dns.yaml: stubDomains[0].forward.upstreams: ",
    ""
)]
#[case::stub_of_all(
    "stubDomains:\n  - {domains: [.], forward: {upstreams: [192.0.2.1]}}\n",
    "dns.yaml: stubDomains[0].domains: ",
    ""
)]
#[case::namespace(
    "cluster:\n  namespaces: [De.v]\n",
    "dns.yaml: cluster.namespaces[0]: ",
    "De.v"
)]
#[case::selector(
    "cluster:\n  labels: a in b\n",
    "dns.yaml:2:11: cluster.labels: ",
    "\"a in b\" is no label selector"
)]
#[case::selectors(
    "cluster: {namespaces: [dev], namespaceLabels: a}\n",
    "dns.yaml: cluster.namespaceLabels: ",
    "cannot go with namespaces"
)]
fn what_is_wrong_is_named_with_its_place(
    #[case] text: &str,
    #[case] begins: &str,
    #[case] has: &str,
) {
    let error = read(text).unwrap_err();
    assert!(error.starts_with(begins) && error.contains(has), "{error}");
}

#[tokio::test]
async fn a_new_file_is_taken_over_and_a_bad_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    // As the kubelet mounts a ConfigMap: a link to a link, which is exchanged.
    let write = |version: &str, text: &str| {
        let path = folder.path();
        std::fs::create_dir(path.join(version)).unwrap();
        std::fs::write(path.join(version).join("dns.yaml"), text).unwrap();
        std::os::unix::fs::symlink(version, path.join("new")).unwrap();
        std::fs::rename(path.join("new"), path.join("..data")).unwrap();
    };
    write("1", "lameduck: 1s\n");
    let path = folder.path().join("dns.yaml");
    std::os::unix::fs::symlink("..data/dns.yaml", &path).unwrap();
    let (file, config) = file::DnsConfigFile::open(Some(&path)).unwrap();
    assert_eq!(config.lameduck, Some(Period::from_secs(1)));
    let counts = file.counts();
    let (sender, mut configs) = tokio::sync::watch::channel(std::sync::Arc::new(config));
    tokio::spawn(file.follow(sender));
    write("2", "lameduk: 2s\n");
    while counts.failures.load(std::sync::atomic::Ordering::Relaxed) == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(!configs.has_changed().unwrap());
    write("3", "lameduck: 3s\n");
    configs.changed().await.unwrap();
    assert_eq!(configs.borrow().lameduck, Some(Period::from_secs(3)));
    assert_eq!(
        counts.failures.load(std::sync::atomic::Ordering::Relaxed),
        1
    );
    // Whoever takes it over says so.
    let reloads = || counts.reloads.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(reloads(), 0);
    counts.taken_over();
    assert_eq!(reloads(), 1);
}

#[test]
fn the_example_of_the_documentation_is_a_file() {
    let text = include_str!("../../../../docs/dns.md");
    let example = text
        .split("```yaml\n")
        .find(|part| part.starts_with("cluster:"))
        .unwrap();
    let config = read(example.split("```").next().unwrap()).unwrap();
    let written = serde_json::to_value(&config).unwrap();
    // Every key that there is is explained.
    let every = serde_json::to_value(read(WHOLE).unwrap()).unwrap();
    for (key, value) in every.as_object().unwrap() {
        assert!(written.get(key).is_some(), "{key}");
        for inner in value
            .as_object()
            .into_iter()
            .flatten()
            .map(|(inner, _)| inner)
        {
            assert!(written[key].get(inner).is_some(), "{key}.{inner}");
        }
    }
}

#[test]
fn what_the_file_says_of_the_zone_has_a_number_however_it_is_written() {
    let digest = |text: &str| read(text).unwrap().zone_options().digest;
    assert_eq!(digest(""), 0);
    assert_eq!(
        digest("cache: {success: {ttl: 7}}\nlog: {classes: [all]}"),
        0
    );
    assert_eq!(digest("cluster: {ttl: 30, pods: insecure}"), 0);
    let dev = digest("cluster: {namespaces: [dev]}");
    assert_eq!(
        digest("# the same\ncluster:\n  namespaces:\n    - dev\ncache: {failureTtl: 1}"),
        dev
    );
    let others = [
        "cluster: {namespaces: [prod]}",
        "cluster: {namespaces: [dev], ttl: 5}",
        "cluster: {namespaces: [dev]}\nhosts: {entries: [{address: 192.0.2.1, names: [a.b]}]}",
        "cluster: {namespaces: [dev]}\nrewrite: [{from: a.b, to: c.d}]",
        "cluster: {namespaces: [dev]}\nstubDomains: [{domains: [a.b], forward: {upstreams: [192.0.2.1]}}]",
    ];
    let mut numbers: Vec<u64> = others.map(digest).to_vec();
    numbers.extend([0, dev]);
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), others.len() + 2);
}
