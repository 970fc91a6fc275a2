//! signpost: Services and cluster DNS of a Kubernetes node, from BPF maps.
//!
//! Data flows one way; a module only knows those before it in this list:
//! [`model`] ← [`source`] (I/O) → [`registry`] → [`plan`], [`zone`] → [`dataplane`] (I/O), [`dns`] (I/O).

pub mod addresses;
pub mod admin;
pub mod agent;
pub mod cli;
pub mod config;
pub mod corefile;
pub mod dataplane;
pub mod dns;
pub mod feed;
mod fnv;
pub mod interfaces;
pub mod model;
pub mod namespaces;
mod netlink;
mod pattern;
pub mod plan;
pub mod probe;
pub mod registry;
pub mod source;
pub mod sysctl;
pub mod zone;
