//! The entry points of the programs.

fn main() {}
