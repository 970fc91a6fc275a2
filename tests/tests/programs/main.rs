//! The programs, one packet at a time: every scene runs on the host's build of the logic and in the kernel by
//! `BPF_PROG_TEST_RUN`, against packets that etherparse built independently.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod affinity;
mod budgets;
mod changes;
mod closed;
mod cluster_ips;
mod counts;
mod dns;
mod errors;
mod fragments;
mod icmp;
mod machine;
mod no_endpoints;
mod node_answers;
mod packets;
mod pressure;
mod sctp;
mod times;
mod translation;
mod untouched;
mod ways_in;
mod wire;
mod world;
mod zone;
