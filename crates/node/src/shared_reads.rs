//! Reads of the store's record of changes, shared by all watches that wait for one.
//!
//! What makes one watch read from disk makes many: a revision too large for the ring concerns hundreds at
//! once, and a busy moment leaves all slow clients behind. So nobody reads for himself. Who wants changes
//! says from where and waits; a read begins where the longest waiting one stands, and serves all who stand
//! there, or further on within what it reads. Each change is read once, and matched once.
//!
//! What a read found is in memory only with room for it in the budget of what waits to be sent. Who gets
//! none waits for it, and comes back with the room.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvorum_store::command::KeyRange;
use kvorum_store::{Place, ReadBytes, Reader, RevisionEvents, Store};
use tokio::sync::oneshot;

use crate::blocking::Blocking;
use crate::error::{RequestError, answered};
use crate::net::budget::Permit;
use crate::net::outbox::Outbox;
use crate::watch::memory_bytes;

/// Reads that may be under way at a time, each on a blocking thread: those who stand at different places
/// do not wait for each other, and no more threads than a machine has cores for.
const READS_MAX: usize = 4;

/// What a read brings into memory: a good response for one watch, and dozens of them for all. So reads
/// take 32 MiB at most until those who wait have taken what is theirs, within the budget.
const READ_BYTES: ReadBytes = ReadBytes { reader_max: 1024 * 1024, all_max: 8 * 1024 * 1024 };

/// So many reads a watch that nothing concerns is taken along without a word: some 200,000 changes, a part of
/// a second. Those who wait at the same place so stay together.
const TAKEN_ALONG_MAX: u32 = 6;

/// The reads of a node's watches.
pub struct SharedReads {
    store: Store,
    blocking: Blocking,
    state: Mutex<State>,
}

/// What a watch was waiting for.
pub struct Changes {
    /// What concerns the watch; the last revision is a part if `next` is within it.
    pub events: Vec<Arc<RevisionEvents>>,
    /// Where to read on.
    pub next: Place,
    /// The room for the events.
    pub room: Option<Permit>,
}

/// Each watch waits at most once, so that their number bounds what waits here.
#[derive(Default)]
struct State {
    /// In the order in which they came.
    waiting: VecDeque<Waiter>,
    /// Where the reads under way began.
    reading: Vec<Place>,
    /// Threads that read, or are about to.
    threads: usize,
    /// One of them has not looked yet who waits.
    starting: bool,
}

struct Waiter {
    reader: Reader,
    previous: bool,
    outbox: Outbox,
    room: Option<Permit>,
    /// Reads that found nothing for it.
    taken_along: u32,
    to: oneshot::Sender<Result<Read, RequestError>>,
}

enum Read {
    Changes(Changes),
    /// There is no room for so many bytes.
    NoRoom(usize),
}

impl SharedReads {
    /// Reads of a store.
    pub fn new(store: Store, blocking: Blocking) -> Arc<SharedReads> {
        Arc::new(SharedReads { store, blocking, state: Mutex::default() })
    }

    /// The store, for what is in memory.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What comes next for a reader, with room for it in the outbox. `room` is room that he has already.
    pub async fn read(
        self: &Arc<Self>,
        reader: Reader,
        previous: bool,
        outbox: &Outbox,
        mut room: Option<Permit>,
    ) -> Result<Changes, RequestError> {
        loop {
            let (to, answer) = oneshot::channel();
            let (reader, outbox_of) = (reader.clone(), outbox.clone());
            let (room_of, taken_along) = (room.take(), 0);
            self.wait(Waiter { reader, previous, outbox: outbox_of, room: room_of, taken_along, to });
            match answer.await.map_err(|_| RequestError::ShuttingDown)?? {
                Read::Changes(changes) => return Ok(changes),
                Read::NoRoom(bytes) => room = Some(outbox.reserve(bytes).await?),
            }
        }
    }

    fn wait(self: &Arc<Self>, waiter: Waiter) {
        let mut state = self.lock();
        // A read that began at the same place is followed by one that serves this waiter too.
        let is_next = state.reading.contains(&waiter.reader.from);
        state.waiting.push_back(waiter);
        if state.starting || is_next || state.threads >= READS_MAX {
            return;
        }
        (state.starting, state.threads) = (true, state.threads + 1);
        drop(state);
        let thread = Thread { shared: self.clone(), reading: None, began: false, ended: false };
        drop(self.blocking.run(move || thread.run()));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that reads for as long as somebody waits.
struct Thread {
    shared: Arc<SharedReads>,
    reading: Option<Place>,
    began: bool,
    ended: bool,
}

impl Thread {
    fn run(mut self) {
        let mut again = Vec::new();
        while let Some(batch) = self.next(again) {
            again = carry_out(&self.shared.store, batch);
        }
    }

    /// Puts back whom the last read did not reach, and takes those whom the next one is to serve. None: the
    /// thread is not needed any more.
    fn next(&mut self, again: Vec<Waiter>) -> Option<Vec<Waiter>> {
        let mut state = self.shared.lock();
        if !std::mem::replace(&mut self.began, true) {
            state.starting = false;
        }
        if let Some(read) = self.reading.take() {
            state.reading.retain(|place| *place != read);
        }
        again.into_iter().rev().for_each(|waiter| state.waiting.push_front(waiter));
        let batch = state.take();
        match &batch {
            Some((place, _)) => self.reading = Some(*place),
            None => {
                state.threads -= 1;
                self.ended = true;
            }
        }
        batch.map(|(_, batch)| batch)
    }
}

impl Drop for Thread {
    /// Nobody waits for a thread that never ran, since its runtime ends.
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut state = self.shared.lock();
        state.threads -= 1;
        state.starting &= self.began;
        if let Some(read) = self.reading {
            state.reading.retain(|place| *place != read);
        }
        state.waiting.clear();
    }
}

impl State {
    /// Who is served by the next read, and where it begins.
    fn take(&mut self) -> Option<(Place, Vec<Waiter>)> {
        self.waiting.retain(|waiter| !waiter.to.is_closed());
        let first = self.waiting.iter().find(|waiter| !self.reading.contains(&waiter.reader.from))?;
        let (place, previous) = (first.reader.from, first.previous);
        let fits = |waiter: &Waiter| waiter.previous == previous && waiter.reader.from >= place;
        let (batch, others) = std::mem::take(&mut self.waiting).into_iter().partition(fits);
        self.waiting = others;
        self.reading.push(place);
        Some((place, batch.into()))
    }
}

/// Reads once for all of them, and answers who is to be served by the next read.
fn carry_out(store: &Store, batch: Vec<Waiter>) -> Vec<Waiter> {
    let previous = batch.first().is_some_and(|waiter| waiter.previous);
    let (readers, reader_of) = readers(&batch);
    let shared = match answered(store.changes_for(&readers, previous, READ_BYTES)) {
        Ok(shared) => shared,
        Err(error) => return refuse(batch, &error),
    };
    let found: Vec<(Vec<Arc<RevisionEvents>>, usize)> = shared
        .found
        .into_iter()
        .map(|events| {
            let bytes = events.iter().map(|events| memory_bytes(events)).sum();
            (events, bytes)
        })
        .collect();
    let mut again = Vec::new();
    for (mut waiter, reader) in batch.into_iter().zip(reader_of) {
        let from = waiter.reader.from;
        let (events, bytes) = &found[reader];
        let goes_on = events.is_empty() && waiter.taken_along < TAKEN_ALONG_MAX;
        if !shared.complete && (from >= shared.next || goes_on) {
            waiter.reader.from = from.max(shared.next);
            waiter.taken_along += u32::from(from < shared.next);
            again.push(waiter);
            continue;
        }
        waiter.answer(events.clone(), *bytes, shared.next.max(from));
    }
    again
}

/// Watches of the same range that stand at the same place are one reader: what is found is there once.
fn readers(batch: &[Waiter]) -> (Vec<Reader>, Vec<usize>) {
    let mut numbers: HashMap<(Place, &KeyRange), usize> = HashMap::new();
    let mut readers = Vec::new();
    let number = |waiter| {
        let Waiter { reader, .. }: &Waiter = waiter;
        *numbers.entry((reader.from, &reader.range)).or_insert_with(|| {
            readers.push(reader.clone());
            readers.len() - 1
        })
    };
    let of = batch.iter().map(number).collect();
    (readers, of)
}

/// Tells those whom an error concerns, and answers the others.
fn refuse(batch: Vec<Waiter>, error: &RequestError) -> Vec<Waiter> {
    let concerns = |waiter: &Waiter| match error {
        RequestError::Compacted { compacted, .. } => waiter.reader.from.revision < *compacted,
        _ => true,
    };
    let (refused, others): (Vec<_>, Vec<_>) = batch.into_iter().partition(concerns);
    for waiter in refused {
        let error = match error {
            RequestError::Compacted { compacted, .. } => {
                RequestError::Compacted { requested: waiter.reader.from.revision, compacted: *compacted }
            }
            error => error.clone(),
        };
        // Whoever has left needs no answer.
        let _ = waiter.to.send(Err(error));
    }
    others
}

impl Waiter {
    fn answer(self, events: Vec<Arc<RevisionEvents>>, bytes: usize, next: Place) {
        let room = match self.room {
            room if events.is_empty() => Some(room),
            Some(mut room) => {
                room.resize(bytes);
                Some(Some(room))
            }
            None => self.outbox.try_reserve(bytes).map(Some),
        };
        let read = match room {
            Some(room) => Read::Changes(Changes { events, next, room }),
            None => Read::NoRoom(bytes),
        };
        // Whoever has left needs no answer; what it had room for is given back here.
        let _ = self.to.send(Ok(read));
    }
}
