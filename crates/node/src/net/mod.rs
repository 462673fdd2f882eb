//! Everything between a socket and a call: listening, connecting, who serves which connection, and what
//! waits to be sent. It knows no API and nothing of raft.

pub mod budget;
mod call;
pub mod outbox;
pub mod resolve;
pub mod router;
pub mod status;
pub mod transport;
pub mod workers;
