//! An answer before it is fitted to its transport.

use hickory_proto::{
    op::{Edns, Header, HeaderCounts, Message, Metadata, ResponseCode},
    rr::{Name as WireName, RData, Record as WireRecord},
    serialize::binary::{BinDecoder, BinEncoder},
};
use hickory_server::{
    net::{NetError, xfer::Protocol},
    server::{Request, ResponseHandler, ResponseInfo},
    zone_handler::{MessageResponseBuilder, Queries},
};

use crate::{feed::logged::By, zone::rewrite::Rewritten};

/// The only version of EDNS; others get BADVERS (RFC 6891 §6.1.3).
pub(super) const EDNS_VERSION: u8 = 0;
/// No UDP payload may be smaller (RFC 1035 §4.2.1).
const MIN_PAYLOAD: u16 = 512;

/// An answer.
#[derive(Debug, Default)]
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    pub(super) authoritative: bool,
    pub(super) recursion_available: bool,
    pub(super) authentic_data: bool,
    pub(super) truncated: bool,
    /// The question is repeated.
    pub(super) question: bool,
    pub(super) by: By,
    pub(super) answers: Vec<WireRecord>,
    pub(super) authorities: Vec<WireRecord>,
    pub(super) additionals: Vec<WireRecord>,
}

impl Reply {
    pub(super) fn code(code: ResponseCode) -> Self {
        Self {
            code,
            question: true,
            ..Self::default()
        }
    }

    /// Nothing, and that there is more.
    pub(super) fn cut() -> Self {
        Self {
            truncated: true,
            ..Self::code(ResponseCode::NoError)
        }
    }

    /// As an upstream gave it.
    pub(super) fn forwarded(message: Message) -> Self {
        let metadata = message.metadata;
        Self {
            code: metadata.response_code,
            authoritative: metadata.authoritative,
            recursion_available: metadata.recursion_available,
            authentic_data: metadata.authentic_data,
            truncated: metadata.truncation,
            question: true,
            by: By::default(),
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
        }
    }

    /// What the library wants to be told of an answer that is not sent.
    pub(super) fn unsent(request: &Request) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = ResponseCode::ServFail;
        Header {
            metadata,
            counts: HeaderCounts::default(),
        }
        .into()
    }

    /// Gives names what they were before the question was rewritten. What was asked for keeps its letters.
    pub(super) fn undo(&mut self, rewritten: &Rewritten, asked: &WireName) {
        let back = |name: &WireName, value: bool| {
            let text = name.to_lowercase().to_ascii();
            let new = if value {
                rewritten.value(&text)
            } else {
                rewritten.owner(&text)
            };
            if new == text {
                return name.clone();
            }
            let new = WireName::from_ascii(&new).unwrap_or_else(|_| name.clone());
            if new == *asked { asked.clone() } else { new }
        };
        let sections = [
            &mut self.answers,
            &mut self.authorities,
            &mut self.additionals,
        ];
        for record in sections.into_iter().flatten() {
            record.name = back(&record.name, false);
            match &mut record.data {
                RData::CNAME(name) => name.0 = back(&name.0, true),
                RData::NS(name) => name.0 = back(&name.0, true),
                RData::PTR(name) => name.0 = back(&name.0, true),
                RData::SRV(srv) => srv.target = back(&srv.target, true),
                RData::MX(mx) => mx.exchange = back(&mx.exchange, true),
                RData::SOA(soa) => soa.mname = back(&soa.mname, true),
                _ => {}
            }
        }
    }

    /// Fits it to its transport and sends it. Returns its size too, in bytes.
    ///
    /// # Errors
    /// Where it cannot be written or sent.
    pub(super) async fn send(
        &self,
        request: &Request,
        max_payload: u16,
        handle: &mut impl ResponseHandler,
    ) -> Result<(ResponseInfo, usize), NetError> {
        let payload = request.max_payload().clamp(MIN_PAYLOAD, max_payload);
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            // The asker's own size comes back, as CoreDNS has it.
            edns.set_max_payload(asked.max_payload())
                .set_version(EDNS_VERSION);
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            edns
        });
        let limit = match (request.protocol(), &edns) {
            (Protocol::Udp, Some(_)) => payload,
            (Protocol::Udp, None) => MIN_PAYLOAD,
            _ => u16::MAX,
        };
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = self.code;
        metadata.authoritative = self.authoritative;
        metadata.recursion_available = self.recursion_available;
        metadata.authentic_data = self.authentic_data;
        metadata.truncation = self.truncated;
        let none = Queries::read(&mut BinDecoder::new(&[]), 0).map_err(NetError::from)?;
        let queries = if self.question {
            &request.queries
        } else {
            &none
        };
        let all = self.answers.len() + self.authorities.len() + self.additionals.len();
        let must = self.answers.len() + self.authorities.len();
        // The first so many records of all sections, in their order.
        let build = |count: usize, cut: bool| {
            let answers = count.min(self.answers.len());
            let authorities = (count - answers).min(self.authorities.len());
            let additionals = count - answers - authorities;
            let mut metadata = metadata;
            metadata.truncation |= cut;
            MessageResponseBuilder::new(queries, edns.as_ref()).build(
                metadata,
                &self.answers[..answers],
                &self.authorities[..authorities],
                [],
                &self.additionals[..additionals],
            )
        };
        // The size of these records' message, where it fits.
        let fits = |count: usize| {
            let mut bytes = Vec::with_capacity(512);
            let mut encoder = BinEncoder::new(&mut bytes);
            encoder.set_max_size(limit);
            // What the library leaves out it tells by the flag, and the OPT record is what it leaves out first.
            let info = build(count, false).destructive_emit(&mut encoder).ok()?;
            (info.truncation == metadata.truncation).then_some(bytes.len())
        };
        let (mut count, mut size) = (all, fits(all));
        if size.is_none() {
            // Room for the OPT record is kept this way, which must be in every answer to a question that has one.
            let (mut low, mut high) = (0, all);
            while low + 1 < high {
                let middle = usize::midpoint(low, high);
                match fits(middle) {
                    None => high = middle,
                    fitting => (low, size) = (middle, fitting),
                }
            }
            count = low;
            if low == 0 {
                size = fits(0);
            }
        }
        let info = handle.send_response(build(count, count < must)).await?;
        Ok((info, size.unwrap_or_default()))
    }
}
