//! From Kubernetes objects to the model, with a [`crate::model::Problem`] for each field that cannot be used.
