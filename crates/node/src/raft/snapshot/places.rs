//! What all snapshots of a node share: the last checkpoint, the places for streams, what they hold of the log.

use std::io;
use std::sync::{Arc, Weak};

use kvorum_store::{Checkpoint, Store};
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, watch};

use super::checkpoints::Checkpoints;
use super::holds::LogHolds;
use crate::blocking::Blocking;
use crate::error::RequestError;

/// Snapshots that are streamed to administrators at a time. Each keeps the files of its checkpoint from
/// being removed, and the disk busy that the cluster lives on.
const STREAMS_MAX: usize = 4;

/// Snapshots that are received at a time: one, and that of a new leader while the last one's is still
/// being verified. The next waits, and its sender gives up after `STALL_TIMEOUT`. Those that wait for more of their
/// files give way to it, see [`Turn`].
const RECEIVING_MAX: usize = 2;

/// What a sender is told whose snapshot gives way to another one.
pub const SENT_ANOTHER: &str = "another snapshot is sent to this node by now";

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
    /// The number of the last one that was begun.
    latest: watch::Sender<u64>,
}

/// The turn of one of the snapshots that are received. A member is sent one at a time, so that another one says that
/// whoever sent those before has given them up, or is gone without a word.
pub struct Turn {
    number: u64,
    latest: watch::Receiver<u64>,
}

impl Turn {
    /// Returns when another snapshot is sent to this node.
    pub async fn over(&mut self) {
        let number = self.number;
        // Without a sender this node is about to stop.
        let _ = self.latest.wait_for(|latest| *latest > number).await;
    }
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
            latest: watch::Sender::new(0),
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

    /// The next turn among the snapshots that are received: those before it are over.
    pub fn receiving_turn(&self) -> Turn {
        let mut number = 0;
        self.latest.send_modify(|latest| {
            *latest += 1;
            number = *latest;
        });
        Turn { number, latest: self.latest.subscribe() }
    }

    /// A place among the snapshots that are received.
    pub async fn receiving_place(&self, turn: &mut Turn) -> Result<OwnedSemaphorePermit, RequestError> {
        tokio::select! {
            place = self.receiving.clone().acquire_owned() => place.map_err(|_| RequestError::ShuttingDown),
            () = turn.over() => Err(RequestError::Occupied(SENT_ANOTHER.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use tokio::time::timeout;

    use super::*;
    use crate::blocking::ThreadPool;

    /// Goal: snapshots of leaders that are gone without a word keep no other one out. Method: as many as there are places,
    /// of which nothing more comes in, and then another two.
    #[tokio::test]
    async fn the_latest_snapshot_has_a_place() {
        let snapshots = Snapshots::new(Blocking::new(ThreadPool));
        let mut gone = Vec::new();
        for _ in 0..RECEIVING_MAX {
            let mut turn = snapshots.receiving_turn();
            let place = snapshots.receiving_place(&mut turn).await.unwrap();
            gone.push((turn, place));
        }
        let (newest, _) = gone.last_mut().unwrap();
        assert_eq!(newest.over().now_or_never(), None, "nobody has begun after it");

        let mut waiting = snapshots.receiving_turn();
        let mut latest = snapshots.receiving_turn();
        let refused = snapshots.receiving_place(&mut waiting).await;
        assert!(matches!(refused, Err(RequestError::Occupied(_))), "{refused:?}");
        let place = snapshots.receiving_place(&mut latest);
        let leave = async {
            for (mut turn, _place) in gone.drain(..) {
                turn.over().await;
            }
        };
        let (place, ()) =
            timeout(Duration::from_secs(10), async { tokio::join!(place, leave) }).await.unwrap();
        assert!(place.is_ok());
    }
}
