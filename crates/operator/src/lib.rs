//! The operator: keeps KvClusters as their specs want them.
//!
//! One change of a KvCluster: `controller` -> `observe` (all reads) -> `plan` (pure) -> `apply` (one
//! effect) -> `status` (pure).
#![forbid(unsafe_code)]

pub mod apply;
pub mod build;
pub mod controller;
pub mod elect;
pub mod fence;
pub mod http;
pub mod levels;
pub mod memory;
pub mod metrics;
pub mod names;
pub mod observe;
pub mod observed;
pub mod options;
pub mod plan;
pub mod refusal;
pub mod status;
pub mod step;
pub mod upgrade;
pub mod version;
