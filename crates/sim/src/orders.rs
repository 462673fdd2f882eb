//! What clients and cluster tell each other: what is to be done to members, and what has been answered.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::world::clock::Micros;
use crate::world::network::HostId;

/// Something that is to be done to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Its process is killed, and started again after so long.
    Kill(HostId, Micros),
    /// Its process is started.
    Start(HostId),
    /// Its disk is lost; it is started with an empty one.
    Wipe(HostId),
    /// Its machine loses its power as soon as it has installed a snapshot, in the midst of the next sync.
    LosePowerAfterInstall(HostId),
    /// It neither hears nor says anything for so long.
    Isolate(HostId, Micros),
    /// A recovery goes on with the log up to here.
    Recovered(u64),
}

/// Both ways.
#[derive(Debug)]
pub struct Orders {
    given: Mutex<Vec<Order>>,
    held_down: Mutex<BTreeSet<HostId>>,
    written: AtomicU64,
    refused: AtomicU64,
    founded: AtomicU64,
    over: AtomicBool,
    calm_since: AtomicU64,
    forged: AtomicBool,
}

impl Orders {
    /// Nothing yet.
    pub fn new() -> Arc<Orders> {
        Arc::new(Orders {
            given: Mutex::default(),
            held_down: Mutex::default(),
            written: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            founded: AtomicU64::new(0),
            over: AtomicBool::new(false),
            calm_since: AtomicU64::new(0),
            forged: AtomicBool::new(false),
        })
    }

    /// Wants something done.
    pub fn give(&self, order: Order) {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).push(order);
    }

    /// What is to be done since the last time.
    pub fn take(&self) -> Vec<Order> {
        std::mem::take(&mut *self.given.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The member is not started until it is let go.
    pub fn hold_down(&self, host: HostId, is_held: bool) {
        let mut held_down = self.held_down.lock().unwrap_or_else(PoisonError::into_inner);
        if is_held {
            held_down.insert(host)
        } else {
            held_down.remove(&host)
        };
    }

    /// Whether it is held.
    pub fn is_held_down(&self, host: HostId) -> bool {
        self.held_down.lock().unwrap_or_else(PoisonError::into_inner).contains(&host)
    }

    /// A write went through the log: it was acknowledged, or a condition of it did not hold.
    pub fn note_written(&self, now: Micros) {
        self.written.fetch_max(now, Ordering::Relaxed);
    }

    /// When the last one was.
    pub fn written(&self) -> Micros {
        self.written.load(Ordering::Relaxed)
    }

    /// A write was refused because there is no space, which needs no log.
    pub fn note_refused(&self, now: Micros) {
        self.refused.fetch_max(now, Ordering::Relaxed);
    }

    /// When the last write went through the log or was refused.
    pub fn decided(&self) -> Micros {
        self.written().max(self.refused.load(Ordering::Relaxed))
    }

    /// The cluster is founded.
    pub fn note_founded(&self, now: Micros) {
        self.founded.store(now, Ordering::Relaxed);
    }

    /// When it was; 0: it is not.
    pub fn founded(&self) -> Micros {
        self.founded.load(Ordering::Relaxed)
    }

    /// Since when no fault has touched anybody; in the future where one does.
    pub fn note_calm(&self, since: Micros) {
        self.calm_since.store(since, Ordering::Relaxed);
    }

    /// See [`Orders::note_calm`].
    pub fn calm_since(&self) -> Micros {
        self.calm_since.load(Ordering::Relaxed)
    }

    /// Somebody says in members' names what they have not said, what time it is for example.
    pub fn set_forged(&self) {
        self.forged.store(true, Ordering::Relaxed);
    }

    /// Whether that is so.
    pub fn is_forged(&self) -> bool {
        self.forged.load(Ordering::Relaxed)
    }

    /// Nobody writes any more, or writes are not expected to be taken.
    pub fn set_over(&self, is_over: bool) {
        self.over.store(is_over, Ordering::Relaxed);
    }

    /// Whether that is so.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}
