//! What operators write into Corefiles: CoreDNS takes it as it is, signpost as `import-corefile` converts it, while it runs.

use anyhow::{Result, ensure};
use rand::{SeedableRng as _, rngs::StdRng};
use signpost_common::dns::qtype::PTR;

use crate::{
    cluster::Cluster, question::Question, questions::Questions, site::Site, verdict::Verdict,
};

/// Questions for each Corefile, beside those about what it says.
const QUESTIONS: usize = 3_000;

/// A Corefile.
struct File {
    text: &'static str,
    /// Exists with this one only.
    marker: &'static str,
    /// Names that it says something about.
    names: &'static [&'static str],
}

/// What CoreDNS keeps is not asked for: its cache is before its hosts, and cuts their TTL.
const FILES: [File; 3] = [
    File {
        text: ".:53 {
    errors
    ready
    rewrite name suffix .internal.example .dev.svc.cluster.local answer auto
    rewrite name alias.example ent.dev.svc.cluster.local
    rewrite name regex (.*)\\.west\\.cluster\\.local\\.$ {1}.prod.svc.cluster.local answer auto
    hosts {
        192.0.2.1 first.marker.cluster.local
        192.0.2.80 db.example.com web.dev.svc.cluster.local new.prod.svc.cluster.local a.b.new.com.svc.cluster.local
        192.0.2.81 db.example.com
        2001:db8::80 db.example.com six.cluster.local
        10.96.0.10 own.cluster.local
        ttl 60
        fallthrough
    }
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        kubeconfig KUBECONFIG laboratory
        pods insecure
        ttl 30
        fallthrough in-addr.arpa ip6.arpa
    }
    forward . UPSTREAM
    loadbalance
}
",
        marker: "first.marker.cluster.local.",
        names: &[
            "ent.internal.example",
            "_http._tcp.web.internal.example",
            "none.internal.example",
            "internal.example",
            "alias.example",
            "x.alias.example",
            "ent.west.cluster.local",
            "web-0.ent.west.cluster.local",
            "west.cluster.local",
            "db.example.com",
            "web.dev.svc.cluster.local",
            "x.web.dev.svc.cluster.local",
            "new.prod.svc.cluster.local",
            "x.new.prod.svc.cluster.local",
            "a.b.new.com.svc.cluster.local",
            "b.new.com.svc.cluster.local",
            "c.b.new.com.svc.cluster.local",
            "new.com.svc.cluster.local",
            "six.cluster.local",
            "own.cluster.local",
            "x.own.cluster.local",
            "80.2.0.192.in-addr.arpa",
            "10.0.96.10.in-addr.arpa",
        ],
    },
    File {
        text: ".:53 {
    errors
    ready
    hosts {
        192.0.2.2 second.marker.example
        fallthrough
    }
    kubernetes cluster.local 10.96.0.0/12 {
        kubeconfig KUBECONFIG laboratory
        namespaces dev com default kube-system marker-2
        ignore empty_service
        ttl 5
    }
    forward . UPSTREAM
    loadbalance
}
second.example:53 {
    forward . UPSTREAM
}
",
        marker: "second.marker.example.",
        names: &[
            "ent.prod.svc.cluster.local",
            "prod.svc.cluster.local",
            "dev.svc.cluster.local",
            "dev.pod.cluster.local",
            "10-0-0-1.dev.pod.cluster.local",
            "pod.cluster.local",
            "x.second.example",
            "1.0.107.10.in-addr.arpa",
            "9.9.96.10.in-addr.arpa",
            "1.99.97.10.in-addr.arpa",
            "1.0.0.192.in-addr.arpa",
        ],
    },
    File {
        text: ".:53 {
    errors
    ready
    hosts {
        192.0.2.3 third.marker.example
        fallthrough
    }
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        kubeconfig KUBECONFIG laboratory
        labels tier notin (back),!hidden
        namespace_labels team notin (b)
        pods insecure
        ttl 30
        fallthrough in-addr.arpa ip6.arpa
    }
    cache 30 {
        disable success cluster.local
        disable denial cluster.local
    }
    forward . UPSTREAM
    loadbalance
}
",
        marker: "third.marker.example.",
        names: &[
            "dev.svc.cluster.local",
            "prod.svc.cluster.local",
            "com.svc.cluster.local",
            "default.svc.cluster.local",
            "ent.dev.svc.cluster.local",
            "ent.prod.svc.cluster.local",
            "twenty.dev.svc.cluster.local",
            "forty.dev.svc.cluster.local",
            "10-0-0-1.dev.pod.cluster.local",
            "10-0-0-1.prod.pod.cluster.local",
            "kube-dns.kube-system.svc.cluster.local",
            "10.0.96.10.in-addr.arpa",
            "1.98.96.10.in-addr.arpa",
            "1.99.96.10.in-addr.arpa",
        ],
    },
];

#[test]
#[ignore = "needs root: cargo xtask test"]
fn corefiles_of_operators_are_answered_as_the_real_coredns_does() -> Result<()> {
    let mut random = StdRng::seed_from_u64(7);
    let mut site = Site::up()?;
    for (round, file) in FILES.iter().enumerate() {
        site.configure(file.text, file.marker)?;
        let cluster = Cluster::generate(&mut random, round);
        site.become_cluster(&cluster)?;
        let mut questions = Questions::about(&cluster, &mut random, QUESTIONS);
        for name in file.names {
            let kinds = [1, 28, 33, 16, 5, PTR];
            let own = kinds.map(|kind| Question::new(name, kind));
            questions.over_udp.extend(own.iter().cloned());
            questions.over_tcp.extend(own);
        }
        // What CoreDNS makes of its own zones of reverse names is the other test's; the TTL of the version is 28800 where
        // no cache cuts it.
        let asked = |question: &Question| {
            (question.kind == PTR || !question.text().ends_with("arpa"))
                && !question.text().starts_with("dns-version.")
        };
        questions.over_udp.retain(asked);
        questions.over_tcp.retain(asked);
        let mut verdict = Verdict::default();
        site.put(&questions.over_udp, &questions.over_tcp, &mut verdict)?;
        println!("Corefile {}: {}", round + 1, verdict.summary());
        verdict.check_answers()?;
        ensure!(
            verdict.pairs() >= QUESTIONS / 2,
            "{} pairs",
            verdict.pairs()
        );
    }
    Ok(())
}
