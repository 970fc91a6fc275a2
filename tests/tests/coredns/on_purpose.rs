//! Where signpost's answers differ from CoreDNS's on purpose. `docs/dns.md` has a row for each, with the reason.

use signpost_common::dns::qtype::{PTR, SOA, SRV, TXT};

use crate::{
    answer::{AA, Answer},
    question::Question,
    verdict::{Pair, Way},
};

const NXDOMAIN: u16 = 3;
const NOTIMP: u16 = 4;
const BADVERS: u16 = 16;

const NS: u16 = 2;

/// A difference.
pub(crate) struct Difference {
    /// As in the first column of the table in `docs/dns.md`.
    pub(crate) what: &'static str,
    /// What signpost says where CoreDNS says this; nothing where they say the same.
    pub(crate) instead: fn(&Pair<'_>, &Answer) -> Option<Answer>,
}

/// All of them, applied one after the other.
pub(crate) const ON_PURPOSE: &[Difference] = &[
    Difference {
        what: "SOA question for a name that does not exist",
        instead: |pair, core_dns| {
            let missing = pair.question.kind == SOA
                && pair.question.below_zone().is_some()
                && core_dns.code == 0
                && core_dns.answers.is_empty()
                && pair.signpost.code == NXDOMAIN;
            missing.then(|| core_dns.with_code(NXDOMAIN))
        },
    },
    Difference {
        what: "TXT of the apex, `svc`, `pod`, a namespace, `ns.dns`; PTR of `ns.dns`",
        instead: |pair, core_dns| {
            let below = pair.question.below_zone()?;
            let below: Vec<&str> = below.iter().map(String::as_str).collect();
            let is_there = match (pair.question.kind, &*below) {
                (TXT | PTR, ["dns", "ns"]) | (TXT, [] | ["svc" | "pod"]) => true,
                // Only where the namespace exists; one that does not is denied by both.
                (TXT, ["svc" | "pod", _]) => pair.signpost.code == 0,
                _ => false,
            };
            (is_there && core_dns.code == NXDOMAIN).then(|| core_dns.with_code(0))
        },
    },
    Difference {
        what: "`ns.dns.<zone>` and NS of the apex in another letter case",
        instead: |pair, _| {
            let below = pair.question.below_zone()?;
            let leads_there =
                |record: &String| record.to_lowercase().contains(" cname ns.dns.cluster");
            let is_one = below == ["dns", "ns"]
                || (below.is_empty() && pair.question.kind == NS)
                || pair.signpost.answers.iter().any(leads_there);
            let found = !pair.signpost.answers.is_empty() || pair.signpost.code == 0;
            (is_one && pair.question.has_capitals() && found).then(|| pair.signpost.clone())
        },
    },
    Difference {
        what: "NS, SOA and other types of `in-addr.arpa`, `ip6.arpa` and names below them",
        instead: |pair, core_dns| {
            let reverse = is_reverse(pair.question) && core_dns.flags & AA != 0;
            let of_upstream = pair.signpost.flags & AA == 0;
            let pointer = pair.question.kind == PTR && !core_dns.answers.is_empty();
            (reverse && of_upstream && !pointer).then(|| pair.signpost.clone())
        },
    },
    Difference {
        what: "UDP answers to an asker who offers more than 1232 bytes",
        instead: |pair, core_dns| {
            let offers = pair.question.edns.as_ref()?.size > 1232 && pair.way != Way::Tcp;
            let cut = Answer {
                truncated: true,
                answers: pair.signpost.answers.clone(),
                additionals: pair.signpost.additionals.clone(),
                ..core_dns.clone()
            };
            let part = pair.signpost.is_part_of(core_dns);
            (offers && pair.signpost.truncated && !core_dns.truncated && part).then_some(cut)
        },
    },
    Difference {
        what: "The additional section of SRV does not fit",
        instead: |pair, core_dns| {
            let less = pair.question.kind == SRV
                && pair.way != Way::Tcp
                && !pair.signpost.truncated
                && pair.signpost.additionals.len() < core_dns.additionals.len();
            let whole = Answer {
                additionals: pair.signpost.additionals.clone(),
                ..core_dns.clone()
            };
            if less && !core_dns.truncated && pair.signpost.is_part_of(core_dns) {
                return Some(whole);
            }
            let cut = pair.question.kind == SRV
                && core_dns.truncated
                && !pair.signpost.truncated
                && core_dns.answers_are_part_of(pair.signpost);
            cut.then(|| pair.signpost.clone())
        },
    },
    Difference {
        what: "The additional section of NS",
        instead: |pair, core_dns| {
            let mut once = core_dns.clone();
            once.additionals.dedup();
            (pair.question.kind == NS).then_some(once)
        },
    },
    Difference {
        what: "An offered size of less than 512 bytes",
        instead: |pair, core_dns| {
            let small = pair.question.edns.as_ref()?.size < 512;
            let (size, ..) = pair.signpost.opt?;
            let opt = core_dns.opt.map(|(_, d, o, v)| (512, d, o, v));
            (small && size == 512).then(|| Answer {
                opt,
                ..core_dns.clone()
            })
        },
    },
    Difference {
        what: "The size in BADVERS",
        instead: |pair, core_dns| {
            let size = pair.question.edns.as_ref()?.size;
            let opt = core_dns.opt.map(|(_, d, o, v)| (size, d, o, v));
            (core_dns.code == BADVERS).then(|| Answer {
                opt,
                ..core_dns.clone()
            })
        },
    },
    Difference {
        what: "NOTIFY",
        instead: |pair, core_dns| {
            let notify = pair.question.flags & 0x7800 == 4 << 11 && matches!(core_dns.code, 0 | 3);
            notify.then(|| Answer {
                code: NOTIMP,
                flags: core_dns.flags & !AA,
                question: Vec::new(),
                answers: Vec::new(),
                authorities: Vec::new(),
                ..core_dns.clone()
            })
        },
    },
];

fn is_reverse(question: &Question) -> bool {
    let name = question.text();
    ["in-addr.arpa", "ip6.arpa"]
        .iter()
        .any(|zone| name == *zone || name.ends_with(&format!(".{zone}")))
}

#[test]
fn every_difference_is_in_the_documentation() {
    let documentation = include_str!("../../../docs/dns.md");
    for difference in ON_PURPOSE {
        let row = format!("| {} |", difference.what);
        assert!(documentation.contains(&row), "{row}");
    }
}
