//! Labels of metrics, as CoreDNS writes them.

use hickory_proto::{op::ResponseCode, rr::RecordType};

/// The one server that there is.
pub(crate) const SERVER: &str = "dns://:53";

/// The plugin that has the cluster's names.
pub(crate) const KUBERNETES: &str = "kubernetes";
/// The plugin that keeps answers.
pub(crate) const CACHE: &str = "cache";
/// The plugin that asks upstreams.
pub(crate) const FORWARD: &str = "forward";

/// The name of a type that CoreDNS counts apart: anybody can make up types, and their number must not make series.
pub(crate) fn kind(kind: Option<RecordType>) -> String {
    match kind {
        Some(
            known @ (RecordType::A
            | RecordType::AAAA
            | RecordType::ANY
            | RecordType::AXFR
            | RecordType::CNAME
            | RecordType::DNSKEY
            | RecordType::DS
            | RecordType::HTTPS
            | RecordType::IXFR
            | RecordType::MX
            | RecordType::NS
            | RecordType::NSEC
            | RecordType::NSEC3
            | RecordType::PTR
            | RecordType::RRSIG
            | RecordType::SOA
            | RecordType::SRV
            | RecordType::SVCB
            | RecordType::TXT),
        ) => known.to_string(),
        _ => "other".to_owned(),
    }
}

/// The family of an asker's address.
pub(crate) const fn family(v4: bool) -> &'static str {
    if v4 { "1" } else { "2" }
}

/// The name of a code.
pub(crate) fn code(code: ResponseCode) -> String {
    let name = match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::BADVERS => "BADVERS",
        other => return u16::from(other).to_string(),
    };
    name.to_owned()
}
