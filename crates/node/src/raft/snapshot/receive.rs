//! Receiving a snapshot: its files in chunks, with checksums at the end. At no time is more of it in memory
//! than a few chunks, and no thread waits for the other side.

use kvorum_proto::peer::v1 as peer;
use kvorum_store::{Received, ReceivedSnapshot, SnapshotReceiver, Store};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::chunks::read_chunk;
use super::outgoing::STALL_TIMEOUT;
use super::places::{SENT_ANOTHER, Turn};
use crate::blocking::{Blocking, GivenUp};

/// Receives the files of a snapshot into the store's data directory and verifies them, unless its turn is over before.
pub async fn receive_snapshot(
    mut stream: Streaming<peer::SnapshotRequest>,
    store: &Store,
    mut turn: Turn,
    place: OwnedSemaphorePermit,
    blocking: &Blocking,
) -> Result<ReceivedSnapshot, Status> {
    let unreadable = |error: kvorum_store::ReceiveError| Status::data_loss(error.to_string());
    // The place goes where the receiver goes: a thread that is still at work has it.
    let store = store.clone();
    let begun = blocking.run(move || Ok((store.receiver()?, place)));
    let begun: Result<_, kvorum_store::ReceiveError> = begun.await.map_err(given_up)?;
    let mut receiving = Apart::new(blocking, begun.map_err(|error| Status::internal(error.to_string()))?);
    loop {
        let message = tokio::select! {
            message = timeout(STALL_TIMEOUT, stream.message()) => message,
            () = turn.over() => return Err(Status::aborted(SENT_ANOTHER)),
        };
        let message = message.map_err(|_| Status::deadline_exceeded("no chunk of the snapshot came in"))?;
        let Some(message) = message? else {
            return Err(Status::cancelled("the snapshot broke off"));
        };
        let Some(peer::snapshot_request::Part::Chunk(chunk)) = message.part else {
            return Err(Status::invalid_argument("a snapshot has one header"));
        };
        let (chunk, (receiver, place)) = (read_chunk(chunk)?, receiving.take());
        let taken = blocking.run(move || {
            Ok(match receiver.chunk(chunk)? {
                Received::More(receiver) => Progress::More((receiver, place)),
                Received::Whole(received) => Progress::Whole(received),
            })
        });
        match taken.await.map_err(given_up)?.map_err(unreadable)? {
            Progress::More(more) => receiving = Apart::new(blocking, more),
            Progress::Whole(received) => return Ok(received),
        }
    }
}

enum Progress {
    More((SnapshotReceiver, OwnedSemaphorePermit)),
    Whole(ReceivedSnapshot),
}

fn given_up(error: GivenUp) -> Status {
    Status::internal(error.to_string())
}

/// Something whose end removes files: dropped, it is handed to a thread that may wait for the disk.
struct Apart<T: Send + 'static> {
    content: Option<T>,
    blocking: Blocking,
}

impl<T: Send + 'static> Apart<T> {
    fn new(blocking: &Blocking, content: T) -> Apart<T> {
        Apart { content: Some(content), blocking: blocking.clone() }
    }

    fn take(mut self) -> T {
        self.content.take().expect("only this takes it, and takes the whole")
    }
}

impl<T: Send + 'static> Drop for Apart<T> {
    fn drop(&mut self) {
        if let Some(content) = self.content.take() {
            self.blocking.discard(content);
        }
    }
}
