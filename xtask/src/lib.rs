//! What the task `vm` and the program inside of its machines tell each other.

pub mod errand;
