//! Flags of the IPVS mode, with kube-proxy's names and defaults.

use clap::{Args, ValueEnum};

use crate::probe::NetfilterWish;

/// What counts in IPVS mode.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct IpvsArgs {
    /// IPVS mode: how a backend is chosen for a new connection. Each node chooses on its own, by what it has sent itself
    #[arg(
        long,
        env = "SIGNPOST_IPVS_SCHEDULER",
        value_name = "NAME",
        default_value = "rr"
    )]
    pub ipvs_scheduler: Scheduler,

    /// IPVS mode: what filters and masquerades: nftables, or iptables with ipset, which come with programs of their own;
    /// `auto` takes these only where the kernel has no nftables
    #[arg(
        long,
        env = "SIGNPOST_NETFILTER",
        value_name = "KIND",
        default_value_t = NetfilterWish::Auto,
        value_enum
    )]
    pub netfilter: NetfilterWish,

    /// IPVS mode with iptables: the bit of packets' marks that says that one is to be masqueraded, 0 to 31
    #[arg(
        long,
        env = "SIGNPOST_IPTABLES_MASQUERADE_BIT",
        value_name = "NUMBER",
        default_value_t = 14,
        value_parser = clap::value_parser!(u8).range(0..=31)
    )]
    pub iptables_masquerade_bit: u8,

    /// IPVS mode: answer ARP for an address only at the interface that has it, so that this node does not answer for the
    /// Services' (some load balancers, MetalLB for one, need it)
    #[arg(long, env = "SIGNPOST_IPVS_STRICT_ARP")]
    pub ipvs_strict_arp: bool,

    /// IPVS mode: after how many seconds an idle TCP connection is forgotten; 0 leaves it as it is
    #[arg(
        long,
        env = "SIGNPOST_IPVS_TCP_TIMEOUT",
        value_name = "SECONDS",
        default_value_t = 0
    )]
    pub ipvs_tcp_timeout: u32,

    /// IPVS mode: after how many seconds a TCP connection that ends is forgotten; 0 leaves it as it is
    #[arg(
        long,
        env = "SIGNPOST_IPVS_TCP_FIN_TIMEOUT",
        value_name = "SECONDS",
        default_value_t = 0
    )]
    pub ipvs_tcp_fin_timeout: u32,

    /// IPVS mode: after how many seconds an idle flow of UDP is forgotten; 0 leaves it as it is
    #[arg(
        long,
        env = "SIGNPOST_IPVS_UDP_TIMEOUT",
        value_name = "SECONDS",
        default_value_t = 0
    )]
    pub ipvs_udp_timeout: u32,
}

/// The kernel's schedulers, by the names of their modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scheduler {
    /// In turn.
    Rr,
    /// In turn, by weight.
    Wrr,
    /// To whom has the fewest connections.
    Lc,
    /// Likewise, by weight.
    Wlc,
    /// By destination address, to whom has few connections.
    Lblc,
    /// Likewise, among several.
    Lblcr,
    /// By a hash of the destination address.
    Dh,
    /// By a hash of the source address.
    Sh,
    /// To whom will answer first.
    Sed,
    /// To whom has nothing to do.
    Nq,
    /// To the heaviest that is available.
    Fo,
    /// To the heaviest until it has too many.
    Ovf,
    /// By a hash of source address and port that changes little with the backends (Maglev).
    Mh,
}

impl IpvsArgs {
    /// Name of the scheduler.
    pub fn scheduler(&self) -> String {
        let value = self.ipvs_scheduler.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: IpvsArgs,
    }

    #[test]
    fn schedulers_have_the_names_of_their_modules() {
        for name in ["rr", "lc", "wrr", "sh", "mh", "lblcr"] {
            let line = Line::try_parse_from(["agent", "--ipvs-scheduler", name]).unwrap();
            assert_eq!(line.args.scheduler(), name);
        }
        assert!(Line::try_parse_from(["agent", "--ipvs-scheduler", "random"]).is_err());
        let line = Line::try_parse_from(["agent"]).unwrap();
        assert_eq!(line.args.scheduler(), "rr");
    }

    #[test]
    fn the_mark_of_masquerade_is_kube_proxy_s_and_has_32_bits() {
        let line = Line::try_parse_from(["agent"]).unwrap();
        assert_eq!(line.args.iptables_masquerade_bit, 14);
        assert_eq!(line.args.netfilter, NetfilterWish::Auto);
        for (bit, is_one) in [("0", true), ("31", true), ("32", false)] {
            let line = Line::try_parse_from(["agent", "--iptables-masquerade-bit", bit]);
            assert_eq!(line.is_ok(), is_one, "{bit}");
        }
    }
}
