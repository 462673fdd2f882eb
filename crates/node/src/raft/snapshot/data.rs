//! What openraft calls a snapshot's data: it passes here by its hands, and is not looked at.

use std::sync::Arc;

use kvorum_store::{Checkpoint, ReceivedSnapshot};

use super::holds::Hold;

/// A snapshot on its way out or in.
pub enum SnapshotData {
    /// Says how far the store is flushed, and holds no files.
    Position,
    /// To be sent.
    Outgoing {
        /// The files.
        checkpoint: Arc<Checkpoint>,
        /// Keeps the log behind them.
        hold: Hold,
    },
    /// To be sent, but it could not be made, for this reason. openraft takes an error for the end of the
    /// whole node, and here it is only one member that waits.
    Failed(String),
    /// Received and verified, ready to be installed.
    Incoming(Box<ReceivedSnapshot>),
}
