//! Watches: one bounded ring of what was applied lately, which all watchers read, and an index that
//! says whom a change concerns.
//!
//! The apply worker only appends to the ring. One task, [`WatchHub::dispatch`], matches new changes
//! against the index and wakes the watchers concerned, so a watcher costs nothing while others'
//! keys change. There is no queue per watcher: one that is slow finds its place in the ring again
//! by revision, and one that fell out of the ring reads from disk until it has caught up. A revision that
//! would drive all others out of the ring is only summed up there, in [`Summary`]: those whom it concerns
//! read it from disk, and nobody else notices it.

mod index;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use kvorum_store::RevisionEvents;
use kvorum_store::command::{KeyRange, Record};
use tokio::sync::Notify;

use index::Index;

/// What an event takes in memory beside keys and values.
const EVENT_OVERHEAD_BYTES: usize = 256;

/// Spans of keys that are kept of a revision too large for the ring.
const SPANS_MAX: usize = 1024;

/// Revisions that one look at the ring takes in, which bounds how long its lock is held.
const REVISIONS_PER_READ_MAX: usize = 1024;

/// What was applied lately, and who waits for more.
pub struct WatchHub {
    ring: RwLock<Ring>,
    index: Mutex<Index>,
    watchers: AtomicUsize,
    /// Wakes the dispatching task.
    published: Notify,
    /// Every change up to this revision was matched against the index.
    dispatched: AtomicU64,
    /// As of when watchers were last told that rights have changed.
    auth_as_of: AtomicU64,
    stopped: AtomicBool,
}

/// What a look at the ring found.
#[derive(Debug)]
pub enum Look {
    /// Every change from the asked revision up to before `next` is in `found`, if it concerns the
    /// range.
    Read {
        /// Whole revisions; they may hold events outside the range too.
        found: Vec<Arc<RevisionEvents>>,
        /// Where to read on.
        next: u64,
    },
    /// There is nothing at or after the asked revision yet.
    CaughtUp,
    /// The ring begins only after the asked revision: read from disk.
    Behind,
}

impl WatchHub {
    /// A hub for a store that stands at `revision`, whose ring keeps so many bytes of events.
    pub fn new(revision: u64, ring_bytes_max: usize) -> Arc<WatchHub> {
        Arc::new(WatchHub {
            ring: RwLock::new(Ring::new(revision, ring_bytes_max)),
            index: Mutex::new(Index::default()),
            watchers: AtomicUsize::new(0),
            published: Notify::new(),
            dispatched: AtomicU64::new(revision),
            auth_as_of: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        })
    }

    /// Takes in what a run of entries changed; `revision` is where the store stands after it.
    pub fn publish(&self, events: Vec<Arc<RevisionEvents>>, revision: u64) {
        if revision != self.revision() + events.len() as u64 {
            // A new history began: the revisions in between were never written. Whoever asks for one of
            // them is sent to the disk, which says that they are compacted.
            return self.reset(revision);
        }
        if events.is_empty() {
            return;
        }
        self.write_ring().extend(events, revision);
        // A watcher counts itself before it looks at the ring: it either sees these events or is
        // seen here.
        if self.watchers.load(Ordering::SeqCst) > 0 {
            self.published.notify_one();
        }
    }

    /// Forgets everything: the store was replaced by a snapshot and stands at `revision`.
    pub fn reset(&self, revision: u64) {
        self.write_ring().reset(revision);
        self.published.notify_one();
    }

    /// The revision of the last change that is known here.
    pub fn revision(&self) -> u64 {
        self.read_ring().revision
    }

    /// Bytes that the ring takes, and may take.
    pub fn ring_bytes(&self) -> (usize, usize) {
        let ring = self.read_ring();
        (ring.bytes, ring.bytes_max)
    }

    /// Registers a watcher. It must look at the ring, or the disk, for what came before.
    pub fn watch(self: &Arc<Self>, range: KeyRange) -> Watcher {
        let signal = Arc::new(Signal::default());
        self.watchers.fetch_add(1, Ordering::SeqCst);
        let id = self.lock_index().insert(range.clone(), signal.clone());
        Watcher { hub: self.clone(), range, signal, id }
    }

    /// Looks for changes of the range from a revision on.
    pub fn look(&self, from: u64, range: &KeyRange) -> Look {
        self.read_ring().look(from, range)
    }

    /// Wakes all watchers if rights have changed: one who may not watch any more ends, though nothing happens there.
    pub fn rights(&self, as_of: u64) {
        if self.auth_as_of.swap(as_of, Ordering::AcqRel) != as_of {
            self.lock_index().wake_all(u64::MAX);
        }
    }

    /// Ends all watches.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.lock_index().wake_all(u64::MAX);
        self.published.notify_one();
    }

    /// Whether watches are to end.
    pub fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Wakes watchers as changes come in, until the hub is stopped.
    pub async fn dispatch(self: Arc<Self>) {
        while !self.stopped() {
            self.published.notified().await;
            while self.dispatch_some() {
                // Much may have come in at once; requests must not wait behind all of it.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Matches some changes against the index; false when there are no more.
    fn dispatch_some(&self) -> bool {
        let from = self.dispatched.load(Ordering::Acquire) + 1;
        let mut index = self.lock_index();
        let seen = self.read_ring().since(from);
        let upto = match seen {
            Since::Nothing => return false,
            Since::Some(revisions) => {
                for revision in &revisions {
                    index.matches(revision);
                }
                revisions.last().map_or(from - 1, Entry::revision)
            }
            // The ring was reset, or overtook this task: nobody knows what concerns whom.
            Since::Lost { revision } => {
                index.wake_all(from);
                revision
            }
        };
        // Stored before the index is let go: whoever registers next reads what came before itself.
        self.dispatched.store(upto, Ordering::Release);
        true
    }

    fn read_ring(&self) -> std::sync::RwLockReadGuard<'_, Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_ring(&self) -> std::sync::RwLockWriteGuard<'_, Ring> {
        self.ring.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A registered watcher; it leaves the index when it is dropped.
pub struct Watcher {
    hub: Arc<WatchHub>,
    range: KeyRange,
    signal: Arc<Signal>,
    id: u64,
}

/// How a watcher is woken.
#[derive(Default)]
struct Signal {
    /// The first revision since the last look that concerns the watcher; 0: none.
    first: AtomicU64,
    wake: Notify,
}

impl Signal {
    fn raise(&self, revision: u64) {
        // Later changes need no signal: the watcher reads on from the first one.
        if self.first.compare_exchange(0, revision, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.wake.notify_one();
        }
    }
}

impl Watcher {
    /// What is watched.
    pub fn range(&self) -> &KeyRange {
        &self.range
    }

    /// The hub it belongs to.
    pub fn hub(&self) -> &WatchHub {
        &self.hub
    }

    /// Waits for a change that concerns the watcher, which has seen everything before `next`, and
    /// answers the revision to read on from. A stopped hub wakes it too.
    pub async fn changed(&self, next: u64) -> u64 {
        loop {
            // Everything between `next` and the first match was dispatched while this watcher was
            // registered, and did not concern it: that much of the ring need not be looked at.
            match self.signal.first.swap(0, Ordering::AcqRel) {
                0 if self.hub.stopped() => return next,
                0 => self.signal.wake.notified().await,
                u64::MAX => return next,
                first => return first.max(next),
            }
        }
    }

    /// Up to where nothing was missed by a watcher that waits in [`Watcher::changed`]; `None` when
    /// something concerns it and it will wake up.
    pub fn quiet_until(&self) -> Option<u64> {
        let dispatched = self.hub.dispatched.load(Ordering::Acquire);
        (self.signal.first.load(Ordering::Acquire) == 0).then_some(dispatched)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.hub.lock_index().remove(&self.range, self.id);
        self.hub.watchers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The last changes, as many as fit.
struct Ring {
    revisions: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
    /// Every change from this revision on is held.
    start: u64,
    /// The last revision that is known.
    revision: u64,
}

/// A revision in the ring.
#[derive(Clone)]
enum Entry {
    Whole(Arc<RevisionEvents>),
    Large(Arc<Summary>),
}

impl Entry {
    fn new(events: Arc<RevisionEvents>, bytes_max: usize) -> Entry {
        match memory_bytes(&events) {
            bytes if events.is_cut || bytes > bytes_max / 2 => {
                Entry::Large(Arc::new(Summary::of(&events, bytes_max / 8)))
            }
            _ => Entry::Whole(events),
        }
    }

    fn revision(&self) -> u64 {
        match self {
            Entry::Whole(events) => events.revision,
            Entry::Large(summary) => summary.revision,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Entry::Whole(events) => memory_bytes(events),
            Entry::Large(summary) => summary.bytes,
        }
    }

    fn concerns(&self, range: &KeyRange) -> bool {
        match self {
            Entry::Whole(events) => events.events.iter().any(|event| range.contains(&event.record.key)),
            Entry::Large(summary) => summary.concerns(range),
        }
    }
}

/// What a revision touches that is too large for the ring: spans of keys in their order, first and last
/// of each. Up to [`SPANS_MAX`] keys are told exactly; with more, a range that lies within a span may be
/// taken for one that is concerned, which costs it a read of the disk.
struct Summary {
    revision: u64,
    spans: Vec<(Bytes, Bytes)>,
    bytes: usize,
}

impl Summary {
    fn of(events: &RevisionEvents, bytes_max: usize) -> Summary {
        let mut keys: Vec<&Bytes> = events.events.iter().map(|event| &event.record.key).collect();
        keys.sort_unstable();
        let mut count = keys.len().min(SPANS_MAX);
        loop {
            let spans = keys.chunks(keys.len().div_ceil(count.max(1)).max(1));
            // Copies: a key may be part of a whole request.
            let copied = |key: Option<&&Bytes>| Bytes::copy_from_slice(key.map_or(&[], |key| &key[..]));
            let spans: Vec<_> = spans.map(|keys| (copied(keys.first()), copied(keys.last()))).collect();
            let bytes =
                spans.iter().map(|(first, last)| EVENT_OVERHEAD_BYTES + first.len() + last.len()).sum();
            if bytes <= bytes_max || count <= 1 {
                return Summary { revision: events.revision, spans, bytes };
            }
            count /= 2;
        }
    }

    fn concerns(&self, range: &KeyRange) -> bool {
        if range.is_key() {
            return self.touches(&range.start);
        }
        let next = self.spans.partition_point(|(_, last)| last < &range.start);
        self.spans.get(next).is_some_and(|(first, _)| range.unbounded || first < &range.end)
    }

    fn touches(&self, key: &Bytes) -> bool {
        let next = self.spans.partition_point(|(_, last)| last < key);
        self.spans.get(next).is_some_and(|(first, _)| first <= key)
    }
}

/// What came after a revision.
enum Since {
    Nothing,
    Some(Vec<Entry>),
    /// Part of it is gone; the ring stands at `revision`.
    Lost {
        revision: u64,
    },
}

impl Ring {
    fn new(revision: u64, bytes_max: usize) -> Ring {
        Ring { revisions: VecDeque::new(), bytes: 0, bytes_max, start: revision + 1, revision }
    }

    fn extend(&mut self, events: Vec<Arc<RevisionEvents>>, revision: u64) {
        for events in events {
            let entry = Entry::new(events, self.bytes_max);
            self.bytes += entry.bytes();
            self.revisions.push_back(entry);
        }
        self.revision = revision;
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.revisions.pop_front()
        {
            self.bytes -= oldest.bytes();
            self.start = oldest.revision() + 1;
        }
    }

    fn reset(&mut self, revision: u64) {
        *self = Ring::new(revision, self.bytes_max);
    }

    fn position(&self, from: u64) -> usize {
        self.revisions.partition_point(|it| it.revision() < from)
    }

    fn look(&self, from: u64, range: &KeyRange) -> Look {
        if from > self.revision {
            return Look::CaughtUp;
        }
        if from < self.start {
            return Look::Behind;
        }
        let seen = self.revisions.range(self.position(from)..).take(REVISIONS_PER_READ_MAX);
        let mut next = self.revision + 1;
        let mut found = Vec::new();
        for (count, entry) in seen.enumerate() {
            if count + 1 == REVISIONS_PER_READ_MAX {
                next = entry.revision() + 1;
            }
            if !entry.concerns(range) {
                continue;
            }
            match entry {
                Entry::Whole(events) => found.push(events.clone()),
                // What comes before it is taken first; then it is where the next look begins.
                Entry::Large(summary) if !found.is_empty() => {
                    next = summary.revision;
                    break;
                }
                Entry::Large(_) => return Look::Behind,
            }
        }
        Look::Read { found, next }
    }

    fn since(&self, from: u64) -> Since {
        if from > self.revision {
            return Since::Nothing;
        }
        if from < self.start {
            return Since::Lost { revision: self.revision };
        }
        let seen = self.revisions.range(self.position(from)..).take(REVISIONS_PER_READ_MAX);
        let seen: Vec<_> = seen.cloned().collect();
        if seen.is_empty() { Since::Lost { revision: self.revision } } else { Since::Some(seen) }
    }
}

/// What a revision's events take in memory, in bytes.
pub fn memory_bytes(revision: &RevisionEvents) -> usize {
    let record = |record: &Record| record.key.len() + record.value.len();
    let event = |event: &kvorum_store::Event| {
        EVENT_OVERHEAD_BYTES + record(&event.record) + event.previous.as_ref().map_or(0, record)
    };
    revision.events.iter().map(event).sum()
}

#[cfg(test)]
mod tests;
