//! Names and sizes of the maps and programs, and the version of all that is pinned.

/// Version of everything that this crate defines and that is pinned. It is part of the pin folder's name, so that an
/// agent never reads maps of another layout. A test pins this number to a hash of this crate's map types.
pub const LAYOUT_VERSION: u32 = 1;

/// Names of the maps, at most 15 bytes as the kernel keeps them.
pub mod map {
    /// [`crate::Address`] → [`crate::service::AddressValue`].
    pub const ADDRESSES: &str = "addresses";
    /// [`crate::service::FrontendKey`] → [`crate::service::FrontendValue`].
    pub const FRONTENDS: &str = "frontends";
    /// [`crate::service::SlotKey`] → [`crate::service::SlotValue`].
    pub const SLOTS: &str = "slots";
    /// [`crate::service::MemberKey`] → [`crate::service::MemberValue`].
    pub const MEMBERS: &str = "members";
    /// Service id → [`crate::service::ServiceValue`].
    pub const SERVICES: &str = "services";
    /// [`crate::flow::FlowKey`] → [`crate::flow::FlowValue`].
    pub const FLOWS: &str = "flows";
    /// [`crate::flow::FragmentKey`] → [`crate::flow::FragmentValue`].
    pub const FRAGMENTS: &str = "fragments";
    /// [`crate::name::NameKey`] → [`crate::dns::NameValue`].
    pub const NAMES: &str = "names";
    /// [`crate::name::NameKey`] → the name in wire form, lower-cased, 256 bytes filled up with zeros.
    pub const NAME_TEXTS: &str = "name_texts";
    /// [`crate::name::NameKey`] → [`crate::dns::SmallAnswer`].
    pub const ANSWERS_SMALL: &str = "answers_small";
    /// [`crate::name::NameKey`] → [`crate::dns::LargeAnswer`].
    pub const ANSWERS_LARGE: &str = "answers_large";
    /// One [`crate::dns::Config`].
    pub const CONFIG: &str = "config";
    /// One [`crate::dns::Clock`]: when the agent was last in sync with its source.
    pub const CLOCKS: &str = "clocks";
    /// One [`crate::dns::Clock`]: when this node's `signpost dns` last said that it is there.
    pub const DNS_ALIVE: &str = "dns_alive";
    /// [`crate::Cause`] as index → packets, per CPU.
    pub const COUNTERS: &str = "counters";
    /// Working memory for DNS questions, per CPU.
    pub const SCRATCH: &str = "scratch";
    /// Working memory for new flows, per CPU.
    pub const WORK: &str = "work";
}

/// Names of the programs.
pub mod program {
    /// tc ingress of a pod's host-side interface.
    pub const FROM_POD: &str = "from_pod";
    /// tc egress of a pod's host-side interface.
    pub const TO_POD: &str = "to_pod";
}

/// Most elements of each map. Maps that only the agent fills take memory as they are filled; the LRU maps take all
/// of theirs at once.
pub mod size {
    /// Service addresses and node addresses.
    pub const ADDRESSES: u32 = 65_536;
    /// Frontends.
    pub const FRONTENDS: u32 = 65_536;
    /// Slots: both sets of all service ports, and the old generation while it is replaced.
    pub const SLOTS: u32 = 524_288;
    /// Endpoints of all service ports.
    pub const MEMBERS: u32 = 262_144;
    /// Service ports.
    pub const SERVICES: u32 = 65_536;
    /// Two entries a flow.
    pub const FLOWS: u32 = 262_144;
    /// Fragmented packets under way.
    pub const FRAGMENTS: u32 = 4_096;
    /// Names.
    pub const NAMES: u32 = 262_144;
    /// Answers of at most [`crate::dns::SMALL_RECORDS`] bytes.
    pub const ANSWERS_SMALL: u32 = 262_144;
    /// Longer answers.
    pub const ANSWERS_LARGE: u32 = 16_384;
}
