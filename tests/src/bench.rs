//! The benchmarks: what signpost costs, measured beside what it is compared with, in one run.
//!
//! `cargo xtask bench` runs them; docs/benchmarks.md says how each figure comes about.

pub mod connector;
pub mod dns;
pub mod figure;
pub mod floor;
pub mod ipvs;
pub mod names;
mod objects;
pub mod peers;
pub mod plot;
pub mod programs;
pub mod progress;
pub mod question;
pub mod rounds;
pub mod scale;
pub mod service;
pub mod site;
pub mod statistics;
pub mod table;

/// How the benchmarks are to be run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Pairs of every comparison.
    pub pairs: usize,
    /// How many Services there are, one after the other, beside peers; growing. Beside kube-proxy's IPVS mode there are as
    /// many as the last says.
    pub services: Vec<u32>,
}
