//! Reads of single keys that are not in memory. To wake a thread costs more than most of these reads do, so those
//! that are asked for while one waits for its thread share it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kvorum_store::{Get, Store};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::blocking::Blocking;
use crate::error::{RequestError, answered};
use crate::net::budget::Account;

/// Threads that read at a time.
const THREADS_MAX: usize = 8;
/// Reads that one thread does one after the other at most: more would wait for a slow disk that other threads
/// could ask at the same time.
const READS_MAX: usize = 16;
/// And bytes of values, with which it ends: what one thread has in memory is no more than this and one value.
const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// A part of what all such reads may have in memory, kept until a large value is counted as waiting to be sent.
pub type Place = Arc<OwnedSemaphorePermit>;

/// Where keys are read that are not in memory. Clones are the same one. As many reads wait as there are calls in
/// flight, which the ports bound.
#[derive(Clone)]
pub struct KeyReads(Arc<Inner>);

struct Inner {
    store: Store,
    blocking: Blocking,
    threads: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    reads: VecDeque<KeyRead>,
    /// A thread is on its way, and will take what waits.
    is_called: bool,
}

struct KeyRead {
    key: Bytes,
    revision: u64,
    account: Option<Account>,
    to: oneshot::Sender<Read>,
}

/// What came of a read.
pub enum Read {
    /// What the key held, and the place of the value.
    Done(Result<Get, RequestError>, Place),
    /// The connection may have no more to send for now: nothing was read.
    NoRoom,
}

impl KeyReads {
    /// Reads of this store.
    pub fn new(store: Store, blocking: Blocking) -> KeyReads {
        let threads = Arc::new(Semaphore::new(THREADS_MAX));
        KeyReads(Arc::new(Inner { store, blocking, threads, waiting: Mutex::default() }))
    }

    /// Reads a key at a revision (0: now), if its connection may have more to send by then.
    pub async fn read(
        &self,
        key: Bytes,
        revision: u64,
        account: Option<Account>,
    ) -> Result<Read, RequestError> {
        let (to, read) = oneshot::channel();
        self.push(KeyRead { key, revision, account, to });
        read.await.map_err(|_| RequestError::ShuttingDown)
    }

    fn push(&self, read: KeyRead) {
        let mut waiting = self.lock();
        waiting.reads.push_back(read);
        self.call(waiting, &Handle::current());
    }

    /// Calls a thread, unless one is on its way or there is nothing to read.
    fn call(&self, mut waiting: MutexGuard<'_, Waiting>, runtime: &Handle) {
        if waiting.reads.is_empty() || std::mem::replace(&mut waiting.is_called, true) {
            return;
        }
        drop(waiting);
        let reads = self.clone();
        match self.0.threads.clone().try_acquire_owned() {
            Ok(place) => reads.begin(place, runtime),
            Err(_) => drop(runtime.spawn(async move {
                // Nobody closes it.
                if let Ok(place) = reads.0.threads.clone().acquire_owned().await {
                    reads.begin(place, &Handle::current());
                }
            })),
        }
    }

    fn begin(&self, place: OwnedSemaphorePermit, runtime: &Handle) {
        let (reads, runtime) = (self.clone(), runtime.clone());
        // Each read has its own answer: nobody waits for the thread.
        drop(self.0.blocking.run(move || reads.read_some(&Arc::new(place), &runtime)));
    }

    /// What a thread does.
    fn read_some(&self, place: &Place, runtime: &Handle) {
        let mut waiting = self.lock();
        let count = waiting.reads.len().min(READS_MAX);
        let mut taken: VecDeque<KeyRead> = waiting.reads.drain(..count).collect();
        waiting.is_called = false;
        self.call(waiting, runtime);
        let mut bytes = 0;
        while bytes < VALUE_BYTES_MAX
            && let Some(read) = taken.pop_front()
        {
            bytes += read.run(&self.0.store, place);
        }
        if taken.is_empty() {
            return;
        }
        let mut waiting = self.lock();
        taken.append(&mut waiting.reads);
        waiting.reads = taken;
        self.call(waiting, runtime);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeyRead {
    /// Reads, and answers. Returns the bytes of the value.
    fn run(self, store: &Store, place: &Place) -> usize {
        if self.to.is_closed() {
            return 0;
        }
        // While it waited, others may have taken the room.
        if self.account.is_some_and(|account| !account.is_admitted()) {
            _ = self.to.send(Read::NoRoom);
            return 0;
        }
        let got = answered(store.get(&self.key, self.revision));
        let bytes = got.as_ref().ok().and_then(|got| got.record.as_ref()).map_or(0, |it| it.value.len());
        _ = self.to.send(Read::Done(got, place.clone()));
        bytes
    }
}

#[cfg(test)]
mod tests;
