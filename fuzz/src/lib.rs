//! What reads bytes that anybody may send, with arbitrary ones. Each module has a `run` that takes an input and panics
//! where something is wrong with what becomes of it. The targets of `cargo xtask fuzz` call these, and so does the
//! replay of the corpus in `cargo xtask test`.

#[cfg(feature = "agent")]
pub mod judge;
#[cfg(feature = "agent")]
pub mod maps;
#[cfg(feature = "agent")]
pub mod objects;
pub mod packets;
#[cfg(feature = "agent")]
pub mod questions;
