//! The laboratory, and what is measured in it.
pub mod bench;
pub mod cluster;
pub mod lab;
pub mod report;
