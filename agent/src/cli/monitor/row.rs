//! How an answer is shown.

use std::net::IpAddr;

use hickory_proto::{op::ResponseCode, rr::RecordType};
use jiff::{Timestamp, ToSpan as _};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::{
    dns::code_name,
    feed::logged::{By, Logged},
    model::ObjectName,
};

/// Heading of the lines for people.
pub(super) const HEADING: &str = "TIME           WHO                              NAME                                               TYPE    CODE       RECORDS  BY            MICROSECONDS";

/// An answer; its JSON form has fields only ever added to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    /// When the question came, UTC.
    time: String,
    /// Who asked: `NAMESPACE/NAME` of the Pod, `null` where no Service has it as a ready endpoint.
    pod: Option<String>,
    client: IpAddr,
    port: u16,
    protocol: &'static str,
    name: String,
    #[serde(rename = "type")]
    kind: String,
    rcode: String,
    /// In the answer section.
    records: u16,
    by: By,
    microseconds: f64,
}

/// When it is, for what the kernel's clock says.
#[derive(Clone, Copy, Debug)]
pub(super) struct WallClock {
    booted: Timestamp,
}

impl WallClock {
    /// As both clocks stand now.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub(super) fn new() -> anyhow::Result<Self> {
        let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        let up = (monotonic.tv_sec().seconds()).nanoseconds(monotonic.tv_nsec());
        Ok(Self {
            booted: Timestamp::now().checked_sub(up)?,
        })
    }

    fn at(&self, nanoseconds: u64) -> String {
        let since = i64::try_from(nanoseconds).unwrap_or(i64::MAX).nanoseconds();
        let at = self.booted.checked_add(since).unwrap_or(self.booted);
        format!("{at:.6}")
    }
}

impl Row {
    pub(super) fn new(logged: &Logged, pod: Option<&ObjectName>, clock: &WallClock) -> Self {
        let code = ResponseCode::from((logged.code >> 4) as u8, (logged.code & 0xf) as u8);
        Self {
            time: clock.at(logged.at),
            pod: pod.map(ToString::to_string),
            client: logged.client,
            port: logged.port,
            protocol: if logged.tcp { "tcp" } else { "udp" },
            name: logged.name.to_string(),
            kind: RecordType::from(logged.qtype).to_string(),
            rcode: code_name(code),
            records: logged.records,
            by: logged.by,
            microseconds: logged.took as f64 / 1000.0,
        }
    }

    /// The line for people, in the columns of [`HEADING`] where it fits into them.
    pub(super) fn text(&self) -> String {
        let Self {
            time,
            pod,
            client,
            port: _,
            protocol: _,
            name,
            kind,
            rcode,
            records,
            by,
            microseconds,
        } = self;
        let time = time.get(11..23).unwrap_or(time);
        let who = pod.clone().unwrap_or_else(|| client.to_string());
        format!(
            "{time:<13}  {who:<31}  {name:<49}  {kind:<6}  {rcode:<9}  {records:>7}  {by:<12}  {microseconds:>12.1}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let logged = Logged {
            at: 61_500_000_000,
            took: 640,
            client: [10, 1, 0, 5].into(),
            port: 40_000,
            tcp: false,
            name: "ent.prod.svc.cluster.local".parse().unwrap(),
            qtype: 28,
            code: 3,
            records: 0,
            by: By::KernelCache,
            lost: 0,
        };
        let clock = WallClock {
            booted: "2026-11-22T10:00:00Z".parse().unwrap(),
        };
        Row::new(&logged, Some(&ObjectName::new("dev", "jump")), &clock)
    }

    #[test]
    fn people_get_a_line_below_its_heading() {
        let expected = "\
TIME           WHO                              NAME                                               TYPE    CODE       RECORDS  BY            MICROSECONDS
10:01:01.500   dev/jump                         ent.prod.svc.cluster.local                         AAAA    NXDOMAIN         0  kernel-cache           0.6";
        assert_eq!(format!("{HEADING}\n{}", row().text()), expected);
    }

    #[test]
    fn programs_get_every_field() {
        assert_eq!(
            serde_json::to_value(row()).unwrap(),
            serde_json::json!({
                "time": "2026-11-22T10:01:01.500000Z", "pod": "dev/jump", "client": "10.1.0.5", "port": 40000,
                "protocol": "udp", "name": "ent.prod.svc.cluster.local", "type": "AAAA", "rcode": "NXDOMAIN",
                "records": 0, "by": "kernel-cache", "microseconds": 0.64,
            })
        );
    }
}
