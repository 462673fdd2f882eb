//! A member of a Kvorum cluster: raft over the store, the gRPC services on top of it, and the
//! process around both.
//!
//! Architecture invariants: only [`raft`] knows openraft; wire types stop at [`grpc`]; nothing here
//! knows RocksDB. A request's path is `grpc::kv` -> `raft` -> the store and back.
#![forbid(unsafe_code)]

pub mod config;
pub mod error;
pub mod grpc;
pub mod http;
pub mod leader;
pub mod metrics;
pub mod raft;
pub mod recover;
pub mod restore;
pub mod server;
pub mod watch;
