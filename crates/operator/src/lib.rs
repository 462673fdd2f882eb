//! The operator: keeps KvClusters as their specs want them.
//!
//! One change of a KvCluster: `controller` -> `observe` (all reads) -> `plan` (pure) -> `apply` (one
//! effect) -> `status` (pure). Its certificates have a plan of their own (`certificates`), of which each look makes one
//! change at most beside the step.
#![forbid(unsafe_code)]

pub mod access;
pub mod apply;
mod apply_certificates;
mod apply_outside;
pub mod build;
pub mod certificates;
pub mod controller;
pub mod elect;
mod events;
pub mod fence;
pub mod http;
pub mod levels;
pub mod memory;
pub mod metrics;
pub mod names;
pub mod observe;
pub mod observed;
pub mod options;
pub mod plain;
pub mod plan;
pub mod refusal;
pub mod status;
pub mod step;
pub mod upgrade;
pub mod version;
