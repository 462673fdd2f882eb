//! `kv.v1`, the API of clients.

pub mod cluster;
pub mod convert;
mod scan;
pub mod service;
mod watch;
