//! The one table of causes: verdict of a program, label of a metric, text of `signpost counters`.

macro_rules! causes {
    ($($(#[doc = $help:literal])+ $name:ident = $label:literal,)+) => {
        /// What a program did with a packet, and why. Its number is an index into the `counters` map.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Cause {
            $($(#[doc = $help])+ $name,)+
        }

        impl Cause {
            /// Every cause, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The metric's label.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// A sentence for people.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$name => concat!($($help,)+).trim_ascii(),)+ }
            }
        }
    };
}

causes! {
    /// The first packet of a flow was sent to a backend.
    FlowCreated = "flow_created",
    /// A packet of a known flow was sent to its backend.
    Translated = "translated",
    /// A packet of a backend got the Service's address as its source again.
    Reversed = "reversed",
    /// A packet left with this node's address as its source, as kube-proxy masquerades.
    Masqueraded = "masqueraded",
    /// A later fragment followed its first one, or where the last packet in fragments between these two went.
    FragmentTranslated = "fragment_translated",
    /// An ICMP error about a translated packet was translated with it.
    IcmpTranslated = "icmp_translated",
    /// A pod reached itself through its own Service.
    Hairpin = "hairpin",
    /// A DNS question was answered with records.
    DnsAnswered = "dns_answered",
    /// A DNS question was answered with NODATA: the name exists, the type does not.
    DnsNodata = "dns_nodata",
    /// A DNS question was answered with NXDOMAIN: the name does not exist.
    DnsNxdomain = "dns_nxdomain",
    /// A DNS question for a name outside the cluster's zone was answered with what the DNS server's cache has of it.
    DnsCached = "dns_cached",
    /// The Service has no endpoint: the client was told so by ICMP port unreachable.
    NoEndpointsRejected = "no_endpoints_rejected",
    /// The Service has endpoints, but its traffic policy allows none of them here: the packet was dropped.
    NoEndpointsDropped = "no_endpoints_dropped",
    /// No Service answers at this port of a ClusterIP, or to this protocol: the client was told so by ICMP port
    /// unreachable.
    PortRejected = "port_rejected",
    /// The address is in a Service range and belongs to no Service: the packet was dropped.
    AddressUnallocated = "address_unallocated",
    /// An SCTP association would need another port, and its checksum (CRC32c over the whole packet) cannot be changed
    /// with the port: the client was told so by ICMP port unreachable.
    SctpPortRejected = "sctp_port_rejected",
    /// The client is not in the Service's source ranges: the packet was dropped.
    SourceRefused = "source_refused",
    /// A flow left a backend that no longer serves.
    BackendGone = "backend_gone",
    /// A flow left this node's DNS pod because it stopped saying that it is alive.
    DnsPodSilent = "dns_pod_silent",
    /// A flow of another Service already used the same backend and client port, so this one got another backend or source port.
    FlowClash = "flow_clash",
    /// A DNS question for a name outside the cluster's zone went on to the DNS pods.
    DnsOutside = "dns_outside",
    /// A DNS question for a name or type that only user space answers went on to the DNS pods.
    DnsUser = "dns_user",
    /// A DNS question that no answer is proven for went on to the DNS pods.
    DnsUnproven = "dns_unproven",
    /// A DNS answer that would not fit went on to the DNS pods.
    DnsTooLarge = "dns_too_large",
    /// A DNS packet that is not one plain question went on to the DNS pods.
    DnsUnusual = "dns_unusual",
    /// A negative DNS answer was not given because the agent is not in sync with its source.
    DnsNotInSync = "dns_not_in_sync",
    /// A packet to a Service address has a port at which no Service answers; left to the stack.
    NoFrontend = "no_frontend",
    /// A packet to a Service address is of a protocol that is not translated; left to the stack.
    Protocol = "protocol",
    /// A packet has IP options or IPv6 extension headers; left to the stack.
    IpOptions = "ip_options",
    /// A later fragment came before its first one, and nothing says where that will go; left to the stack.
    FragmentUnknown = "fragment_unknown",
    /// An ICMP error about a packet that is not translated; left to the stack.
    IcmpUnknown = "icmp_unknown",
    /// A TCP segment of an unknown connection passed to the stack while another proxy is being replaced.
    Takeover = "takeover",
    /// A packet of an unknown flow passed to the stack while this node is left to another proxy.
    Draining = "draining",
    /// A packet ends inside a header; left to the stack.
    TooShort = "too_short",
    /// The slots changed twice under one packet; left to the stack.
    SlotsChanging = "slots_changing",
    /// No free source port was found: a clashing flow was left to the stack, a masqueraded one's packet dropped.
    PortsExhausted = "ports_exhausted",
    /// The interface that a masqueraded packet leaves by has no address for it: the packet was dropped.
    NoMasqueradeAddress = "no_masquerade_address",
    /// A packet to a NodePort or another Service address of this node is not the first of a connection, or answers what
    /// left this node from that port: it is no client's. Left to the stack.
    NotOpening = "not_opening",
    /// The flow could not be recorded; left to the stack.
    FlowNotRecorded = "flow_not_recorded",
    /// A socket of the host, or of a pod that is served there, was connected to a backend.
    SocketConnected = "socket_connected",
    /// A datagram of such a socket was sent to a backend.
    SocketSent = "socket_sent",
    /// A datagram that such a socket got from a backend has the Service's address as its source again.
    SocketReceived = "socket_received",
    /// A process was told at its socket that its connection is refused: the Service has no endpoint or no such port.
    SocketRefused = "socket_refused",
    /// A process was kept from an address at its socket: a policy or the source ranges of the Service keep it out, or there is no Service.
    SocketDenied = "socket_denied",
    /// A helper of the kernel refused to change the packet: the packet was dropped.
    HelperFailed = "helper_failed",
    /// The maps are not filled yet; left to the stack.
    NotConfigured = "not_configured",
}

impl Cause {
    /// How many causes there are.
    pub const COUNT: u32 = Self::ALL.len() as u32;

    /// The cause of a number; [`Cause::HelperFailed`] for a number that is none.
    #[inline(always)]
    pub const fn from_index(index: u32) -> Self {
        if index >= Self::COUNT {
            return Self::HelperFailed;
        }
        // SAFETY: the enum is `repr(u8)`, its numbers follow each other from 0, and this is one of them.
        unsafe { core::mem::transmute::<u8, Self>(index as u8) }
    }

    /// Where the cause's counter is.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn numbers_follow_the_order_and_labels_are_unique() {
        for (number, cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(cause.index() as usize, number);
            assert_eq!(Cause::from_index(cause.index()), *cause);
            assert!(cause.help().ends_with('.'), "{}", cause.help());
        }
        assert_eq!(
            Cause::ALL
                .iter()
                .map(|c| c.label())
                .collect::<BTreeSet<_>>()
                .len(),
            Cause::ALL.len()
        );
    }
}
