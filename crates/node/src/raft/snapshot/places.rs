//! What all snapshots of a node share: the last checkpoint, the places for streams, what they hold of the log.

use std::io;
use std::sync::{Arc, Weak};

use kvorum_store::{Checkpoint, Store};
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore};

use super::checkpoints::Checkpoints;
use super::holds::LogHolds;
use crate::blocking::Blocking;
use crate::error::RequestError;

/// Snapshots that are streamed to administrators at a time. Each keeps the files of its checkpoint from
/// being removed, and the disk busy that the cluster lives on.
const STREAMS_MAX: usize = 4;

/// Snapshots that are received at a time: one, and that of a new leader while the last one's is still
/// being verified. The next waits, and its sender gives up after `STALL_TIMEOUT`.
const RECEIVING_MAX: usize = 2;

/// What all snapshots of this node share; so do clones.
#[derive(Clone)]
pub struct Snapshots {
    blocking: Blocking,
    /// What they hold of the log.
    pub holds: LogHolds,
    /// What became of attempts to make a checkpoint for a member.
    pub failures: Arc<Checkpoints>,
    /// The last checkpoint that was made, while anybody has it. One is made at a time.
    last: Arc<Mutex<Weak<Checkpoint>>>,
    /// Notified when a member has installed one from here.
    sent: Arc<Notify>,
    streams: Arc<Semaphore>,
    receiving: Arc<Semaphore>,
}

impl Snapshots {
    /// None yet.
    pub fn new(blocking: Blocking) -> Snapshots {
        Snapshots {
            blocking,
            holds: LogHolds::default(),
            failures: Arc::default(),
            last: Arc::default(),
            sent: Arc::default(),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            receiving: Arc::new(Semaphore::new(RECEIVING_MAX)),
        }
    }

    /// A checkpoint of what is applied by now, or a little more. Those who ask for the same state share one.
    pub async fn checkpoint(&self, store: &Store) -> io::Result<Arc<Checkpoint>> {
        let mut last = self.last.lock().await;
        if let Some(checkpoint) = last.upgrade().filter(|last| last.applied() == store.applied()) {
            return Ok(checkpoint);
        }
        let store = store.clone();
        let made = self.blocking.run(move || store.checkpoint()).await?.map_err(io::Error::other)?;
        let made = Arc::new(made);
        *last = Arc::downgrade(&made);
        Ok(made)
    }

    /// Returns when a member has installed a snapshot from here, since this was called last or from now on.
    pub async fn sent(&self) {
        self.sent.notified().await;
    }

    /// What is to be notified when a member has installed a snapshot from here.
    pub fn tell_sent(&self) -> Arc<Notify> {
        self.sent.clone()
    }

    /// A place among the streams to administrators.
    pub fn stream_place(&self) -> Result<OwnedSemaphorePermit, RequestError> {
        self.streams.clone().try_acquire_owned().map_err(|_| {
            RequestError::Occupied(format!(
                "{STREAMS_MAX} snapshots are streamed from this node already; ask another member, or again when \
                 one has ended"
            ))
        })
    }

    /// A place among the snapshots that are received.
    pub async fn receiving_place(&self) -> Result<OwnedSemaphorePermit, RequestError> {
        self.receiving.clone().acquire_owned().await.map_err(|_| RequestError::ShuttingDown)
    }
}
