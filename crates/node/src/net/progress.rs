//! Whether a client takes what it asked for, as the task sees it that sends to it.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::time::{Duration, Instant};

use super::budget::Budget;

/// Whether a client takes what it asked for.
pub struct Progress {
    budget: Budget,
    /// Bytes that wait to be sent.
    held: AtomicUsize,
    begun: Instant,
    /// When bytes were taken last, or first waited, in milliseconds after `begun`.
    since_ms: AtomicU64,
    stalled: AtomicBool,
}

thread_local! {
    /// What the task that is polled on this thread is to look after, from then on.
    static WATCHED: RefCell<Option<Arc<Progress>>> = const { RefCell::new(None) };
}

impl Progress {
    pub(super) fn new(budget: Budget) -> Progress {
        let (held, since_ms, stalled) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(false));
        Progress { budget, held, begun: Instant::now(), since_ms, stalled }
    }

    /// So many bytes more wait to be sent.
    pub(super) fn hold(&self, bytes: usize) {
        if self.held.fetch_add(bytes, Ordering::AcqRel) == 0 {
            self.stamp();
        }
    }

    /// So many bytes were taken.
    pub(super) fn taken(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::AcqRel);
        self.stamp();
    }

    fn stamp(&self) {
        let ms = self.begun.elapsed().as_millis();
        self.since_ms.store(u64::try_from(ms).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// Whether bytes wait to be sent.
    pub fn waits(&self) -> bool {
        self.held.load(Ordering::Acquire) > 0
    }

    /// Whether nothing was taken for too long. It stays so.
    pub fn stalled(&self) -> bool {
        let since = self.begun + Duration::from_millis(self.since_ms.load(Ordering::Acquire));
        if self.waits() && since.elapsed() >= self.budget.patience() {
            self.stalled.store(true, Ordering::Release);
        }
        self.was_stalled()
    }

    /// Whether it was found so before.
    pub fn was_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    /// How often to look.
    pub fn tick(&self) -> Duration {
        self.budget.tick()
    }

    /// Has the task that is polled at the moment look after this.
    pub fn watch_over(self: &Arc<Self>) {
        WATCHED.set(Some(self.clone()));
    }

    /// What the task that was just polled is to look after.
    pub fn watched() -> Option<Arc<Progress>> {
        WATCHED.take()
    }
}
