//! `KvCluster`, the resource: its fields, what the API server refuses, and its definition for charts.
//!
//! The rules are CEL in the definition, so that no webhook is needed; the tests run the same rules.
#![forbid(unsafe_code)]

mod cluster;
mod definition;
mod pod;
mod service;
mod status;
mod storage;
mod tls;

pub use self::cluster::{Audit, KvCluster, KvClusterSpec, LogFormat, Metrics, Node};
pub use self::definition::definition;
pub use self::pod::{AntiAffinity, Pod, RESERVED_ENV};
pub use self::service::{IpFamilyPolicy, Service, ServiceType, TrafficPolicy};
pub use self::status::{KvClusterStatus, MemberStatus, StepRecord};
pub use self::storage::{Keep, Storage};
pub use self::tls::{NetworkPolicy, Tls, TlsMode, TlsStatus};

/// The group of the resource, and the prefix of its annotations and labels.
pub const GROUP: &str = "kvorum.io";

#[cfg(test)]
mod tests;
