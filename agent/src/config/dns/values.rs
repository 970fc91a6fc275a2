//! Values that are more than a number or a text.

use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::zone::Name;

/// A whole number within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Bounded<const LEAST: u32, const MOST: u32>(u32);

impl<const LEAST: u32, const MOST: u32> Bounded<LEAST, MOST> {
    /// A number; `None` where it is out of bounds.
    pub const fn new(number: u32) -> Option<Self> {
        if LEAST <= number && number <= MOST {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The least one.
    pub const fn least() -> Self {
        Self(LEAST)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<'de, const LEAST: u32, const MOST: u32> Deserialize<'de> for Bounded<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        let inside = u32::try_from(number).ok().and_then(Self::new);
        inside
            .ok_or_else(|| de::Error::custom(format!("{number} is not between {LEAST} and {MOST}")))
    }
}

/// A time as Go writes it: `5s`, `500ms`, `1h30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(Duration);

impl Period {
    /// So many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// So many milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// As a duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const REASON: &str = "is no time; write it like 5s, 500ms or 1h30m";
        let wrong = || format!("{text:?} {REASON}");
        if text == "0" {
            return Ok(Self::default());
        }
        let (mut sum, mut rest) = (Duration::ZERO, text);
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let end = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .ok_or_else(wrong)?;
            let (number, after) = rest.split_at(end);
            let unit_end = after
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_end);
            let number: f64 = number.parse().map_err(|_| wrong())?;
            let seconds = match unit {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(wrong()),
            };
            let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
            sum = sum.checked_add(part).ok_or_else(wrong)?;
            rest = after;
        }
        Ok(Self(sum))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanoseconds) = (self.0.as_secs(), self.0.subsec_nanos());
        match (seconds, nanoseconds) {
            (0, nanoseconds) if nanoseconds > 0 => write!(f, "{}ms", f64::from(nanoseconds) / 1e6),
            (seconds, 0) if seconds > 0 && seconds.is_multiple_of(3600) => {
                write!(f, "{}h", seconds / 3600)
            }
            (seconds, 0) if seconds > 0 && seconds.is_multiple_of(60) => {
                write!(f, "{}m", seconds / 60)
            }
            (seconds, 0) => write!(f, "{seconds}s"),
            _ => write!(f, "{}s", self.0.as_secs_f64()),
        }
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl Serialize for Period {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A zone of reverse names, or the network whose addresses it is for. A network's prefix is cut to whole labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ReverseZone(Written);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Written {
    Zone(Name),
    Network(IpNet),
}

impl ReverseZone {
    /// The zones: several where the prefix ends inside a label.
    pub fn zones(&self) -> Vec<Name> {
        match &self.0 {
            Written::Zone(name) => vec![name.clone()],
            Written::Network(network) => zones_of(*network),
        }
    }
}

impl FromStr for ReverseZone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self(Written::Network(network.trunc())));
        }
        let name = Name::from_text(text);
        let reverse = name.filter(|name| {
            let labels: Vec<&[u8]> = name.labels().collect();
            matches!(labels[..], [.., b"in-addr" | b"ip6", b"arpa"])
        });
        let zone = reverse.ok_or_else(|| {
            format!("{text:?} is neither a zone below in-addr.arpa or ip6.arpa nor a network")
        })?;
        Ok(Self(Written::Zone(zone)))
    }
}

impl TryFrom<String> for ReverseZone {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ReverseZone> for String {
    fn from(zone: ReverseZone) -> Self {
        match zone.0 {
            Written::Zone(name) => name.to_string(),
            Written::Network(network) => network.to_string(),
        }
    }
}

fn zones_of(network: IpNet) -> Vec<Name> {
    let (bits, top) = match network {
        IpNet::V4(_) => (8, "in-addr"),
        IpNet::V6(_) => (4, "ip6"),
    };
    let whole = network.prefix_len().div_ceil(bits) * bits;
    let Ok(parts) = network.subnets(whole) else {
        return Vec::new();
    };
    let zone = |part: IpNet| {
        let labels: Vec<String> = match part.addr() {
            IpAddr::V4(address) => address.octets().iter().map(u8::to_string).collect(),
            IpAddr::V6(address) => {
                let digits = format!("{:032x}", u128::from(address));
                digits.chars().map(String::from).collect()
            }
        };
        let top = Name::default().child("arpa")?.child(top)?;
        let mut labels = labels.iter().take(usize::from(whole / bits));
        labels.try_fold(top, |name, label| name.child(label))
    };
    parts.filter_map(zone).collect()
}
