//! Connections through each contestant, beside direct ones.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};

use super::contest::{Contest, Contestant, NODE_PORT, Way};
use crate::bench::{
    Options,
    connector::Connector,
    figure::{Figure, Reach},
    progress::Progress,
    rounds::{Comparison, Of, Sample, Subject, take},
    site::{ANSWERS, FAR, NEAR},
};

/// Connections in one slice.
const CONNECTIONS: u32 = 1000;

/// Who connects.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Pod,
    Host,
    Outside,
}

/// What is measured: who connects, to which backend, and what signpost is to reach against whom.
struct Course {
    what: &'static str,
    from: From,
    local: bool,
    against: Way,
    reach: Reach,
}

const COURSES: [Course; 5] = [
    Course {
        what: "pod → ClusterIP, local backend",
        from: From::Pod,
        local: true,
        against: Way::Direct,
        reach: Reach::AtLeast(0.96),
    },
    Course {
        what: "pod → ClusterIP, remote backend",
        from: From::Pod,
        local: false,
        against: Way::Direct,
        reach: Reach::AtLeast(0.96),
    },
    Course {
        what: "host → ClusterIP, local backend",
        from: From::Host,
        local: true,
        against: Way::Direct,
        reach: Reach::AtLeast(0.98),
    },
    Course {
        what: "host → ClusterIP, remote backend",
        from: From::Host,
        local: false,
        against: Way::Direct,
        reach: Reach::AtLeast(0.98),
    },
    Course {
        what: "outside → NodePort, remote backend",
        from: From::Outside,
        local: false,
        against: Way::Nftables,
        reach: Reach::AtLeast(1.2),
    },
];

/// Measures all of them, with so many Services.
pub(super) fn run(
    options: &Options,
    contest: &mut Contest,
    services: u32,
    masquerading: bool,
) -> Result<Vec<Figure>> {
    let progress = Progress::new("connections", COURSES.len() * (options.pairs + 1));
    let mut figures = Vec::new();
    for course in &COURSES {
        let mut subjects = Vec::new();
        for contestant in &mut contest.contestants {
            let to = course.target(contestant);
            let name = contestant.way.name();
            let client = course.client(contestant);
            let what = course.what;
            subjects.push(Subject::new(name, move || {
                connect(client, to).with_context(|| format!("{what}: {name}"))
            }));
        }
        take(&mut subjects, options.pairs, &progress)?;
        let with = if masquerading { ", masquerading" } else { "" };
        for way in Way::ALL {
            // Peers are shown as far as they are not what signpost is measured against. For the host nothing is faster.
            if way == course.against || (way == Way::Faster && course.from == From::Host) {
                continue;
            }
            let comparison = Comparison {
                suite: "peers",
                what: &format!("{services} Services{with}: {}: {}", course.what, way.name()),
                unit: "1/s",
                of: Of::Value,
                subject: way.name(),
                against: course.against.name(),
                reach: matches!(way, Way::Signpost | Way::Faster).then_some(course.reach),
            };
            figures.push(comparison.figure(&subjects));
        }
    }
    Ok(figures)
}

impl Course {
    fn target(&self, contestant: &Contestant) -> SocketAddr {
        let site = &contestant.site;
        let (service, pod): (IpAddr, _) = if self.local {
            (NEAR.into(), &site.near)
        } else {
            (FAR.into(), &site.far)
        };
        match (contestant.way, self.from) {
            (Way::Direct, _) => (pod.v4(), ANSWERS).into(),
            (_, From::Outside) => (contestant.node_address(), NODE_PORT).into(),
            _ => (service, 80).into(),
        }
    }

    const fn client<'a>(&self, contestant: &'a mut Contestant) -> &'a mut Connector {
        match self.from {
            From::Pod => &mut contestant.pod,
            From::Host => &mut contestant.host,
            From::Outside => &mut contestant.outside,
        }
    }
}

fn connect(client: &mut Connector, to: SocketAddr) -> Result<Sample> {
    client.slice(to, CONNECTIONS)
}
