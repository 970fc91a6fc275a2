//! What is probed: each feature with what it is for and what follows.

use serde::{Deserialize, Serialize};

/// Something that the kernel may have or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// BPF maps and programs at all.
    Bpf,
    /// The kinds of maps that are used.
    MapKinds,
    /// Programs at interfaces.
    Classifiers,
    /// What these call.
    ClassifierHelpers,
    /// A BPF file system, where maps and links outlive the agent.
    Bpffs,
    /// Links of programs to interfaces.
    Tcx,
    /// Filters of programs at interfaces.
    Clsact,
    /// Programs at what processes do with sockets.
    SocketPrograms,
    /// The hierarchy of cgroups that these are attached to.
    Cgroup2,
    /// A number for each network namespace, told to processes.
    NamespaceCookie,
    /// Programs may choose the error that a process gets.
    SetRetval,
    /// Sockets can be destroyed.
    SocketDestroy,
    /// The connection tracking can be read and changed.
    Conntrack,
    /// The kernel's virtual server.
    IpVs,
    /// nftables.
    Nftables,
    /// iptables and ipset, with their programs.
    Iptables,
    /// Interfaces that hold addresses.
    Dummy,
    /// How much the kernel is locked down.
    Lockdown,
    /// The kernel's types, as tools read them.
    Btf,
}

/// What a feature is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// The eBPF mode is impossible without it.
    Ebpf,
    /// The eBPF mode does something in another way, or not at all.
    EbpfLess,
    /// The IPVS mode is impossible without it.
    Ipvs,
    /// The IPVS mode does something in another way.
    IpvsLess,
    /// Good to know.
    Note,
}

/// What is known of a feature.
pub(super) struct About {
    /// Its name for people.
    pub(super) title: &'static str,
    /// What it is for.
    pub(super) need: Need,
    /// What follows where it is there,
    pub(super) with: &'static str,
    /// and where it is not.
    pub(super) without: &'static str,
    /// What to do where it is not.
    pub(super) todo: &'static str,
}

const KERNEL: &str = "use a kernel of 5.10 or later with CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS";

impl Feature {
    /// All, in the order of the table.
    pub const ALL: [Self; 19] = [
        Self::Bpf,
        Self::Lockdown,
        Self::Btf,
        Self::MapKinds,
        Self::Classifiers,
        Self::ClassifierHelpers,
        Self::Bpffs,
        Self::Tcx,
        Self::Clsact,
        Self::SocketPrograms,
        Self::Cgroup2,
        Self::NamespaceCookie,
        Self::SetRetval,
        Self::SocketDestroy,
        Self::Conntrack,
        Self::IpVs,
        Self::Nftables,
        Self::Iptables,
        Self::Dummy,
    ];

    /// Its name in metrics and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bpf => "bpf",
            Self::MapKinds => "map_kinds",
            Self::Classifiers => "classifiers",
            Self::ClassifierHelpers => "classifier_helpers",
            Self::Bpffs => "bpffs",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::SocketPrograms => "socket_programs",
            Self::Cgroup2 => "cgroup2",
            Self::NamespaceCookie => "namespace_cookie",
            Self::SetRetval => "set_retval",
            Self::SocketDestroy => "socket_destroy",
            Self::Conntrack => "conntrack",
            Self::IpVs => "ip_vs",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Dummy => "dummy",
            Self::Lockdown => "lockdown",
            Self::Btf => "btf",
        }
    }

    /// What is known of it.
    pub(super) const fn about(self) -> About {
        match self {
            Self::Bpf => About {
                title: "BPF",
                need: Need::Ebpf,
                with: "maps and programs can be made",
                without: "no mode eBPF",
                todo: "run as root or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN; see Lockdown",
            },
            Self::MapKinds => About {
                title: "kinds of maps",
                need: Need::Ebpf,
                with: "all tables have their maps",
                without: "no mode eBPF",
                todo: KERNEL,
            },
            Self::Classifiers => About {
                title: "programs at interfaces",
                need: Need::Ebpf,
                with: "pods and uplinks can be served",
                without: "no mode eBPF",
                todo: KERNEL,
            },
            Self::ClassifierHelpers => About {
                title: "their helpers",
                need: Need::Ebpf,
                with: "packets are rewritten and sent back",
                without: "no mode eBPF",
                todo: KERNEL,
            },
            Self::Bpffs => About {
                title: "BPF file system",
                need: Need::Ebpf,
                with: "maps and programs outlive the agent",
                without: "no mode eBPF",
                todo: "mount -t bpf bpf /sys/fs/bpf, or give a folder of one with --bpffs-root",
            },
            Self::Tcx => About {
                title: "TCX",
                need: Need::EbpfLess,
                with: "programs are links that nothing else can push aside",
                without: "programs are filters of clsact; an ingress qdisc of others keeps them out",
                todo: "nothing has to be done; Linux 6.6 has it",
            },
            Self::Clsact => About {
                title: "clsact",
                need: Need::EbpfLess,
                with: "programs can be filters of interfaces",
                without: "programs are attached by TCX only",
                todo: "modprobe sch_ingress cls_bpf, where the kernel has no TCX",
            },
            Self::SocketPrograms => About {
                title: "programs of sockets",
                need: Need::EbpfLess,
                with: "processes of the host can be served",
                without: "processes of the host are not served",
                todo: "use a kernel of 5.10 or later with CONFIG_CGROUP_BPF",
            },
            Self::Cgroup2 => About {
                title: "cgroup2",
                need: Need::EbpfLess,
                with: "processes of the host are found below it",
                without: "processes of the host are not served",
                todo: "mount -t cgroup2 none /sys/fs/cgroup/unified, or give its folder with --cgroup-root",
            },
            Self::NamespaceCookie => About {
                title: "network namespace cookie",
                need: Need::EbpfLess,
                with: "processes of the host are told from those of pods",
                without: "the host's namespace is learned by a program at the root of cgroup2 instead",
                todo: "nothing has to be done; Linux 5.14 has it",
            },
            Self::SetRetval => About {
                title: "errors by programs",
                need: Need::EbpfLess,
                with: "refused processes of the host get ECONNREFUSED",
                without: "refused processes of the host get EPERM",
                todo: "nothing has to be done; Linux 5.18 has it",
            },
            Self::SocketDestroy => About {
                title: "destroying sockets",
                need: Need::EbpfLess,
                with: "connected UDP sockets of the host leave backends that are gone",
                without: "connected UDP sockets of the host stay with backends that are gone",
                todo: "use a kernel with CONFIG_INET_DIAG_DESTROY, and load inet_diag and udp_diag",
            },
            Self::Conntrack => About {
                title: "connection tracking",
                need: Need::IpvsLess,
                with: "another proxy's connections are seen, and stale UDP flows are removed",
                without: "another proxy's connections are not seen, and stale UDP flows stay",
                todo: "modprobe nf_conntrack nf_conntrack_netlink",
            },
            Self::IpVs => About {
                title: "IPVS",
                need: Need::Ipvs,
                with: "the virtual server can be used",
                without: "no mode IPVS",
                todo: "modprobe ip_vs ip_vs_rr, of a kernel with CONFIG_IP_VS",
            },
            Self::Nftables => About {
                title: "nftables",
                need: Need::IpvsLess,
                with: "filters and masquerade of mode IPVS can be one table",
                without: "filters and masquerade of mode IPVS are those of iptables and ipset",
                todo: "modprobe nf_tables nft_chain_nat",
            },
            Self::Iptables => About {
                title: "iptables and ipset",
                need: Need::IpvsLess,
                with: "filters and masquerade of mode IPVS can do without nftables",
                without: "filters and masquerade of mode IPVS need nftables",
                todo: "install iptables and ipset; modprobe ip_tables ip6_tables iptable_nat ip_set xt_set, where nothing else does",
            },
            Self::Dummy => About {
                title: "dummy interfaces",
                need: Need::IpvsLess,
                with: "mode IPVS keeps the addresses of Services on one",
                without: "mode IPVS cannot keep the addresses of Services apart",
                todo: "modprobe dummy",
            },
            Self::Lockdown => About {
                title: "lockdown",
                need: Need::Note,
                with: "BPF is not restricted by it",
                without: "the kernel may refuse BPF",
                todo: "where BPF is refused: boot with lockdown=none or lockdown=integrity",
            },
            Self::Btf => About {
                title: "BTF",
                need: Need::Note,
                with: "bpftool shows the kernel's types by name",
                without: "the programs do without; bpftool shows less",
                todo: "nothing has to be done; CONFIG_DEBUG_INFO_BTF has it",
            },
        }
    }
}
