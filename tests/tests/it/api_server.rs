//! Signpost on a cluster with a real API server. Needs Go, which builds it.

mod balancers;
mod changes;
mod manifests;
mod node;
mod story;
