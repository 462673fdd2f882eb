//! The APIs, a room or a file each: what comes over the wire is made into what the node speaks, and back.

pub mod admin;
pub mod auth;
pub mod client_port;
pub mod kv;
pub mod peer;
pub mod peer_port;
