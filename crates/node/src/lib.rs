//! A member of a Kvorum cluster: raft over the store, the gRPC services on top of it, and the
//! process around both.
//!
//! Architecture invariants: only [`raft`] knows openraft; the wire types of clients and administrators stop
//! at [`api`]; nothing here knows RocksDB. A request's path is `api::kv` -> `requests`, the door -> `raft` -> the store and back.
#![forbid(unsafe_code)]

pub mod access;
pub mod api;
pub mod audit;
pub mod blocking;
pub mod boot;
pub mod config;
pub mod duties;
pub mod error;
pub mod glance;
pub mod health;
pub mod http;
pub mod key_reads;
pub mod limits;
pub mod machine;
pub mod metrics;
pub mod net;
pub mod observer;
pub mod place;
pub mod raft;
pub mod requests;
pub mod server;
pub mod shared_reads;
pub mod watch;
