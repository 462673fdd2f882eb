//! A snapshot on its way out: read chunk by chunk as whoever gets it takes the chunks.
//!
//! Nothing waits for a slow reader but the checkpoint itself: no thread, and no chunk in memory. A reader
//! that takes nothing for a while loses the checkpoint, and its place, to the next one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use kvorum_proto::admin::v1 as admin;
use kvorum_store::{Checkpoint, Chunk, SnapshotSender};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::chunks::wire_chunk;
use crate::blocking::Blocking;

/// A snapshot on which nothing moves for so long has failed.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A snapshot that is read. Dropped, together with its stream, it gives back what it holds.
pub struct Outgoing(Arc<Inner>);

struct Inner {
    blocking: Blocking,
    cluster_id: u64,
    /// A reader that takes nothing for so long has it no more.
    stall_max: Duration,
    state: Mutex<State>,
}

enum State {
    /// The next chunk can be read; nobody has asked for it since then.
    Waiting { source: Source, since: Instant },
    /// A chunk is being read.
    Reading,
    /// A chunk was read, and not taken by who had asked for it: a stream is asked for a chunk ahead while there is room
    /// to send, and not looked at again once there is none. Since the guard saw it so.
    Read { chunk: Chunk, source: Source, since: Option<Instant> },
    /// All was taken, at this time.
    Taken { at: Instant },
    /// It was read in vain, or given up.
    Failed(Status),
}

/// What is read, and the place that it takes up.
struct Source {
    chunks: SnapshotSender,
    /// Given back when the checkpoint is gone: fields are dropped in order.
    _place: Option<OwnedSemaphorePermit>,
}

impl Outgoing {
    /// Sends this checkpoint, whose reader has the place, until nothing is taken for `stall_max`.
    pub fn new(
        checkpoint: Arc<Checkpoint>,
        place: Option<OwnedSemaphorePermit>,
        cluster_id: u64,
        stall_max: Duration,
        blocking: Blocking,
    ) -> Outgoing {
        let source = Source { chunks: SnapshotSender::new(checkpoint), _place: place };
        let state = State::Waiting { source, since: Instant::now() };
        Outgoing(Arc::new(Inner { blocking, cluster_id, stall_max, state: Mutex::new(state) }))
    }

    /// The chunks, to be had once. Each is read when it is asked for.
    pub fn chunks(&self) -> impl Stream<Item = Result<admin::SnapshotChunk, Status>> + Send + use<> {
        unfold(self.0.clone(), async |inner| {
            let chunk = inner.next().await?;
            Some((chunk, inner))
        })
    }

    /// Why it broke off, if it did.
    pub fn failure(&self) -> Option<Status> {
        match &*self.0.lock() {
            State::Failed(status) => Some(status.clone()),
            _ => None,
        }
    }

    /// Returns when no chunk was taken for that long, or, with all of them taken, when `answer_max`
    /// has gone by.
    pub async fn stalled(&self, answer_max: Duration) {
        guard(Arc::downgrade(&self.0), Some(answer_max)).await;
    }

    /// Gives it up once no chunk was taken for that long, whether or not anybody looks at the
    /// stream again: a connection whose reader does not read asks for nothing any more.
    pub fn give_up_when_stalled(&self) {
        tokio::spawn(guard(Arc::downgrade(&self.0), None));
    }
}

async fn guard(inner: Weak<Inner>, answer_max: Option<Duration>) {
    while let Some(look_again) = inner.upgrade().and_then(|inner| inner.give_up(Instant::now(), answer_max)) {
        sleep_until(look_again).await;
    }
}

impl Inner {
    async fn next(self: &Arc<Self>) -> Option<Result<admin::SnapshotChunk, Status>> {
        let mut source = {
            let mut state = self.lock();
            match std::mem::replace(&mut *state, State::Reading) {
                State::Waiting { source, .. } => source,
                ended => {
                    let failure = match &ended {
                        State::Failed(status) => Some(Err(status.clone())),
                        _ => None,
                    };
                    *state = ended;
                    return failure;
                }
            }
        };
        // At its end or on an error the source goes, on the thread that may wait for the disk; so it does where the
        // stream has gone meanwhile.
        let inner = Arc::downgrade(self);
        let read = self.blocking.run(move || match source.chunks.next() {
            Some(Ok(chunk)) => {
                if let Some(inner) = inner.upgrade() {
                    *inner.lock() = State::Read { chunk, source, since: None };
                }
                Ok(true)
            }
            Some(Err(error)) => Err(Status::data_loss(format!("read snapshot: {error}"))),
            None => Ok(false),
        });
        match read.await.unwrap_or_else(|error| Err(Status::internal(error.to_string()))) {
            Ok(true) => self.take(),
            Ok(false) => {
                *self.lock() = State::Taken { at: Instant::now() };
                None
            }
            Err(status) => {
                *self.lock() = State::Failed(status.clone());
                Some(Err(status))
            }
        }
    }

    /// Takes the chunk that was read, unless it was given up before.
    fn take(&self) -> Option<Result<admin::SnapshotChunk, Status>> {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Reading) {
            State::Read { chunk, source, .. } => {
                *state = State::Waiting { source, since: Instant::now() };
                Some(Ok(wire_chunk(chunk, self.cluster_id)))
            }
            other => {
                let failure =
                    if let State::Failed(status) = &other { Some(Err(status.clone())) } else { None };
                *state = other;
                failure
            }
        }
    }

    /// Gives up what has stalled, or answers when to look again; `None`: there is nothing left to look at.
    fn give_up(&self, now: Instant, answer_max: Option<Duration>) -> Option<Instant> {
        let mut state = self.lock();
        let due = match (&mut *state, answer_max) {
            (State::Waiting { since, .. }, _) => *since + self.stall_max,
            (State::Read { since, .. }, _) => *since.get_or_insert(now) + self.stall_max,
            // The disk's time is not the reader's.
            (State::Reading, _) => now + self.stall_max,
            (State::Taken { at }, Some(answer_max)) => *at + answer_max,
            (State::Taken { .. } | State::Failed(_), _) => return None,
        };
        if due > now {
            return Some(due);
        }
        let text = format!("no part of the snapshot was taken for {:?}; ask for it again", self.stall_max);
        let given_up = std::mem::replace(&mut *state, State::Failed(Status::aborted(text)));
        drop(state);
        self.let_go(given_up);
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is replaced as a whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the source where it may wait for the disk: with the last one a checkpoint's files are removed.
    fn let_go(&self, state: State) {
        if let State::Waiting { source, .. } | State::Read { source, .. } = state {
            self.blocking.discard(source);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let state = std::mem::replace(state, State::Reading);
        self.let_go(state);
    }
}

#[cfg(test)]
mod tests {
    //! Goal: whoever reads gets it all, however slowly; whoever does not read loses checkpoint and place.
    //! Method: a small store's checkpoint, read by hand, with a short time to take a chunk in.
    use futures_util::{FutureExt as _, StreamExt as _};
    use kvorum_store::{Store, StoreOptions};
    use tokio::sync::Semaphore;
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::blocking::ThreadPool;

    /// Long beside what a busy machine makes of a sleep.
    const PATIENT: Duration = Duration::from_secs(60);
    const IMPATIENT: Duration = Duration::from_millis(100);
    /// For what happens at once.
    const SOON: Duration = Duration::from_secs(30);

    struct World {
        dir: tempfile::TempDir,
        store: Store,
        places: Arc<Semaphore>,
    }

    impl World {
        fn new() -> World {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
            World { dir, store, places: Arc::new(Semaphore::new(1)) }
        }

        fn outgoing(&self, stall_max: Duration) -> Outgoing {
            let place = self.places.clone().try_acquire_owned().unwrap();
            Outgoing::new(
                Arc::new(self.store.checkpoint().unwrap()),
                Some(place),
                7,
                stall_max,
                Blocking::new(ThreadPool),
            )
        }

        /// Waits until the place is free, and the checkpoint gone.
        #[expect(clippy::disallowed_methods, reason = "a test's own look at the disk")]
        async fn freed(&self) {
            let _place = timeout(SOON, self.places.acquire()).await.unwrap().unwrap();
            assert_eq!(std::fs::read_dir(self.dir.path().join("checkpoints")).unwrap().count(), 0);
        }
    }

    #[tokio::test]
    async fn a_slow_reader_gets_all_of_it() {
        let world = World::new();
        let outgoing = world.outgoing(Duration::from_secs(2));
        outgoing.give_up_when_stalled();
        let mut chunks = Box::pin(outgoing.chunks());
        let mut count = 0;
        while let Some(chunk) = chunks.next().await {
            chunk.unwrap();
            count += 1;
            sleep(Duration::from_millis(300)).await;
        }
        assert!(count > 7, "{count} chunks, which takes longer than one of them may");
        world.freed().await;
    }

    #[tokio::test]
    async fn who_reads_nothing_loses_the_place() {
        let world = World::new();
        let outgoing = world.outgoing(IMPATIENT);
        let mut chunks = Box::pin(outgoing.chunks());
        chunks.next().await.unwrap().unwrap();
        assert_eq!(world.places.available_permits(), 0);
        outgoing.give_up_when_stalled();
        drop(outgoing);
        // The stream is still there: a connection may keep it for as long as it likes.
        world.freed().await;
        let status = chunks.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::Aborted, "{status}");
        assert!(chunks.next().await.is_none_or(|chunk| chunk.is_err()));
    }

    #[tokio::test]
    async fn who_asks_for_a_chunk_and_does_not_take_it_loses_the_place() {
        let world = World::new();
        let outgoing = world.outgoing(IMPATIENT);
        let mut chunks = Box::pin(outgoing.chunks());
        // As the transport does, which asks ahead, and looks no more where there is no room to send.
        assert!(chunks.next().now_or_never().is_none(), "it is being read");
        outgoing.give_up_when_stalled();
        drop(outgoing);
        world.freed().await;
        let status = chunks.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::Aborted, "{status}");
    }

    #[tokio::test]
    async fn who_goes_away_frees_it_at_once() {
        let world = World::new();
        let outgoing = world.outgoing(PATIENT);
        let mut chunks = Box::pin(outgoing.chunks());
        drop(outgoing);
        chunks.next().await.unwrap().unwrap();
        drop(chunks);
        world.freed().await;
    }

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_not_waited_for() {
        let world = World::new();
        let outgoing = world.outgoing(PATIENT);
        let all: Vec<_> = outgoing.chunks().collect().await;
        assert!(all.iter().all(Result::is_ok));
        timeout(SOON, outgoing.stalled(IMPATIENT)).await.unwrap();
        assert!(outgoing.failure().is_some());
    }
}
