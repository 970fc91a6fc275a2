//! The laboratory.
pub mod lab;
