//! The operator: keeps KvClusters as their specs want them.
//!
//! One change of a KvCluster: `controller` -> `observe` (all reads) -> `plan` (pure) -> `apply` (one
//! effect) -> `status` (pure).
#![forbid(unsafe_code)]

pub mod crd;
pub mod names;
pub mod observed;
pub mod plan;
pub mod step;
