//! Everything between a socket and a call: listening, connecting, who serves which connection, and what
//! waits to be sent. It knows no API and nothing of raft.

pub mod budget;
mod call;
pub mod deadline;
pub mod dialer;
mod greeting;
pub mod http;
pub mod inbox;
pub mod listen;
pub mod memory;
pub mod network;
pub mod open_calls;
pub mod outbox;
pub mod progress;
pub mod remote;
mod resolve;
pub mod router;
pub mod sizes;
pub mod status;
pub mod tcp;
pub mod tls;
pub mod transport;
pub mod way;
pub mod workers;
