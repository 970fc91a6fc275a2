//! Nodes in IPVS mode, with real sockets and `ipvsadm` as a second witness. They need root and a kernel with IPVS, which
//! `cargo xtask vm --suite ipvs` has.

mod asked;
mod changes;
mod clients;
mod denied;
mod filters;
mod going;
mod modes;
mod outside;
mod sctp;
#[path = "../it/small.rs"]
#[expect(dead_code, reason = "these tests do not use all of it")]
mod small;
#[path = "../it/ways_in.rs"]
mod ways_in;
mod world;
