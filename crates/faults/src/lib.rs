//! What the fault and linearizability tests are made of: clusters of real `kvorum-node` processes,
//! faults done to them, workloads that write down what they were told, and checks of that record.
//!
//! The tests themselves are in `tests/`, one binary for each goal. `cargo` runs the binaries one after
//! another, and each holds few enough tests that a cluster has the machine to itself.
//!
//! | module | what |
//! |---|---|
//! | [`cluster`], [`process`], [`ports`] | nodes: started, founded into a cluster, killed, restarted |
//! | [`certificates`] | a CA of a test's own, and files that are replaced while nodes run |
//! | [`program`] | the tool, and nodes that are expected not to start |
//! | [`balancer`] | one address in front of all nodes, whose list of them is late |
//! | [`corruption`] | data that differs though every checksum holds |
//! | [`disk`] | a file system in a file, whose power can be cut, and which can be small |
//! | [`slow_disk`] | disks that hang, or are slow, beneath a node that runs |
//! | [`network`] | hosts whose connections can be cut one way, and lose packets |
//! | [`faults`], [`costs`] | everything that can be done to a cluster, and what it cost |
//! | [`rpc`], [`outcome`] | the raw API, without the retries of the client crate, and what an answer proves |
//! | [`writers`], [`registers`], [`watchers`], [`readers`], [`chains`], [`inserts`], [`ttls`] | workloads |
//! | [`workload`] | all of them together, and every check at the end |
//! | [`witness`] | what the machine itself keeps waiting while a latency is measured |
//! | [`linear`], [`timeline`], [`journal`] | checks: pure functions of what was recorded |
//!
//! Architecture invariant: no check here trusts a node about the past. What was acknowledged is kept on
//! the side of the test, and compared with what the cluster holds at the end.
#![forbid(unsafe_code)]

pub mod balancer;
pub mod binary;
pub mod certificates;
pub mod chains;
pub mod cluster;
pub mod corruption;
pub mod costs;
pub mod disk;
pub mod failure;
pub mod faults;
pub mod inserts;
pub mod journal;
pub mod latency;
pub mod linear;
pub mod network;
pub mod outcome;
pub mod ports;
pub mod process;
pub mod program;
pub mod readers;
pub mod registers;
pub mod rpc;
pub mod settings;
pub mod slow_disk;
pub mod timeline;
pub mod ttls;
pub mod wait;
pub mod watchers;
pub mod witness;
pub mod workload;
pub mod writers;

pub use cluster::{Cluster, Layout};
pub use failure::{Context, Failure, Result};
