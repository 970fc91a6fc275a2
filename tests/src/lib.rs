//! The laboratory.
pub mod cluster;
pub mod lab;
