//! Which answers are shown.

use std::{net::IpAddr, str::FromStr};

use clap::Args;
use hickory_proto::op::ResponseCode;

use crate::{dns::code_name, feed::logged::Logged, model::ObjectName, pattern};

/// Flags that say which answers are shown: those that all of them allow.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Filter {
    /// Only what this Pod asks, as NAMESPACE/NAME or by its address; `*` stands for any characters
    #[arg(long, value_name = "NS/NAME|IP")]
    pod: Option<Pattern>,

    /// Only questions for this name; `*` stands for any characters, as in `*.example.com`
    #[arg(long, value_name = "NAME")]
    name: Option<Pattern>,

    /// Only answers with this code, such as NXDOMAIN, or its number
    #[arg(long, value_name = "CODE")]
    rcode: Option<Code>,
}

/// A text in which `*` stands for any characters. Letter case does not matter.
#[derive(Clone, Debug)]
struct Pattern(String);

/// A response code.
#[derive(Clone, Copy, Debug)]
struct Code(u16);

impl Filter {
    /// Whether an answer is shown. `pod` is who asked, where that is known.
    pub(super) fn wants(&self, logged: &Logged, pod: Option<&ObjectName>) -> bool {
        let from_pod = |pattern: &Pattern| {
            let by_address = pattern.0.parse() == Ok::<IpAddr, _>(logged.client);
            by_address || pod.is_some_and(|pod| pattern.matches(&pod.to_string()))
        };
        self.rcode.is_none_or(|code| code.0 == logged.code)
            && self.pod.as_ref().is_none_or(from_pod)
            && (self.name.as_ref()).is_none_or(|pattern| pattern.matches(&logged.name.to_string()))
    }
}

impl Pattern {
    fn matches(&self, text: &str) -> bool {
        pattern::matches(&self.0, &text.to_ascii_lowercase())
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = if text.len() > 1 {
            text.trim_end_matches('.')
        } else {
            text
        };
        if text.is_empty() {
            return Err("it is empty".to_owned());
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl FromStr for Code {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(number) = text.parse() {
            return Ok(Self(number));
        }
        let wanted = text.to_ascii_uppercase();
        let named = |code: &u16| code_name(ResponseCode::from(0, *code as u8)) == wanted;
        let found = (0..16).find(named).map(Self);
        found.ok_or_else(|| {
            "give NOERROR, NXDOMAIN, SERVFAIL, REFUSED, FORMERR, NOTIMP or a number".to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::feed::logged::By;

    fn logged() -> Logged {
        Logged {
            at: 0,
            took: 0,
            client: [10, 0, 0, 1].into(),
            port: 1,
            tcp: false,
            name: "www.example.com".parse().unwrap(),
            qtype: 1,
            code: 3,
            records: 0,
            by: By::Upstream,
            lost: 0,
        }
    }

    #[rstest]
    #[case("www.example.com.", true)]
    #[case("WWW.example.com", true)]
    #[case("example.com", false)]
    #[case("*.example.com", true)]
    #[case("*example.com", true)]
    #[case("www.*", true)]
    #[case("w*e.*om", true)]
    #[case("w*x*m", true)]
    #[case("w*x*x*m", false)]
    #[case("*", true)]
    #[case("www.example.com*www.example.com", false)]
    fn a_name_is_matched_as_a_whole(#[case] pattern: &str, #[case] matches: bool) {
        let filter = Filter {
            name: Some(pattern.parse().unwrap()),
            ..Filter::default()
        };
        assert_eq!(filter.wants(&logged(), None), matches);
    }

    #[rstest]
    #[case("dev/jump", true)]
    #[case("dev/*", true)]
    #[case("10.0.0.1", true)]
    #[case("10.0.0.2", false)]
    #[case("jump", false)]
    fn a_pod_is_named_or_has_an_address(#[case] pattern: &str, #[case] matches: bool) {
        let filter = Filter {
            pod: Some(pattern.parse().unwrap()),
            ..Filter::default()
        };
        let pod = ObjectName::new("dev", "jump");
        assert_eq!(filter.wants(&logged(), Some(&pod)), matches);
        let by_address = pattern == "10.0.0.1";
        assert_eq!(filter.wants(&logged(), None), by_address);
    }

    #[rstest]
    #[case("NXDOMAIN", true)]
    #[case("nxdomain", true)]
    #[case("3", true)]
    #[case("NOERROR", false)]
    fn a_code_is_named_or_numbered(#[case] code: &str, #[case] matches: bool) {
        let filter = Filter {
            rcode: Some(code.parse().unwrap()),
            ..Filter::default()
        };
        assert_eq!(filter.wants(&logged(), None), matches);
        assert!("NODOMAIN".parse::<Code>().is_err());
    }
}
