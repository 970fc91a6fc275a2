//! Where objects come from: the only modules that know the Kubernetes API or file watching.
//!
//! A source is a future that emits [`crate::model::Event`]s until it fails or nobody listens. Beside the events it
//! says in a `watch` channel whether what it has emitted is all that there is: `true` while it is in contact with
//! what it reads, `false` from the moment on that it is not. Answers that something does not exist may only be given
//! for a while after it was last in contact.

pub mod agent;
pub mod convert;
pub mod files;
pub mod kube;
