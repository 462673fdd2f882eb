//! What the end-to-end tests are made of: a real Kubernetes, clusters on it, clients at work, and faults.
//!
//! The tests are in `tests/`: `e2e` has what every change must pass, `full` what takes longer or wants
//! more machines. They run against whatever `KUBECONFIG` points at; [`settings`] has what else the
//! environment says. Several run at a time, and [`turns`] says who beside whom.
//!
//! | module | what |
//! |---|---|
//! | [`test`] | one test: its namespace, its time, and what is kept when it fails |
//! | [`turns`] | which tests may run beside each other |
//! | [`cluster`] | a KvCluster, as `kubectl` and the API server show it |
//! | [`doors`] | the way from here to each member's client port, whatever address its pod has |
//! | [`load`] | clients at work throughout a test, and the check of all that they were told |
//! | [`proofs`] | clients that say who they are: by a token of a ServiceAccount, or a certificate |
//! | [`stock`] | clients that know nothing of Kvorum but its `.proto` file |
//! | [`operator`] | the operator: installed with Helm, or run here so that it can be killed at a point |
//! | [`cert_manager`], [`shown`] | whose certificates serve names outside of Kubernetes; what members show to whom |
//! | [`machines`] | faults of whole machines |
//! | [`rollout`] | rolling changes, whatever the number of members |
//! | [`prometheus`] | a Prometheus that scrapes what the chart's PodMonitors name |
//! | [`command`], [`gather`] | programs that a user would run; what one needs after a failure |
//!
//! Architecture invariant: no check trusts the operator about itself. What clients saw, what the API
//! server holds and what the nodes' leader says is compared with what was promised.
#![forbid(unsafe_code)]

pub mod cert_manager;
pub mod cluster;
pub mod command;
pub mod doors;
pub mod gather;
pub mod load;
pub mod machines;
pub mod operator;
pub mod prometheus;
pub mod proofs;
pub mod rollout;
pub mod settings;
pub mod shown;
pub mod stock;
pub mod test;
pub mod tls;
pub mod turns;

pub use cluster::Cluster;
pub use kvorum_faults::{Context, Failure, Result, ensure, wait};
pub use load::Load;
pub use test::{Test, run, run_alone, run_with};
pub use turns::Needs;
