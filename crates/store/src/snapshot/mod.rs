//! Snapshots: a copy of the whole state, and how it gets from one node to another.
//!
//! A checkpoint is a second set of links to the state's files. The sender reads it as a sequence of
//! [`Chunk`]s; the receiver writes them to a directory of its own, verifies all of it, and only
//! then can it take the place of a state.

mod checkpoint;
mod chunk;
mod install;
mod receiver;
mod sender;

pub use self::checkpoint::Checkpoint;
pub use self::chunk::{Begin, Chunk, SNAPSHOT_FORMAT};
pub use self::receiver::{ReceiveError, Received, ReceivedSnapshot, SnapshotReceiver};
pub use self::sender::SnapshotSender;
