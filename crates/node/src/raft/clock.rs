//! Cluster time on this node: a stamp that was applied here, plus what has passed since.
//!
//! Only the monotonic clock is read, so a clock that jumps changes nothing. A node that was down or
//! is behind runs slow, never fast, so that no key expires early.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Cluster time on this node.
pub struct ClusterClock {
    base: Mutex<(u64, Instant)>,
}

impl ClusterClock {
    /// Starts at the stamp the store has applied, in milliseconds.
    pub fn new(stamp_ms: u64) -> Self {
        ClusterClock { base: Mutex::new((stamp_ms, Instant::now())) }
    }

    /// Takes note of a stamp that was just applied.
    ///
    /// A stamp is older when it is applied than when it was made. Only one that is ahead of this
    /// node's time moves it: were every stamp taken over, time would stand still for as long as
    /// each write takes to commit, and under load that is most of the time.
    pub fn applied(&self, stamp_ms: u64) {
        let mut base = self.base.lock().unwrap_or_else(PoisonError::into_inner);
        if stamp_ms > since(*base) {
            *base = (stamp_ms, Instant::now());
        }
    }

    /// Cluster time now, in milliseconds.
    pub fn now_ms(&self) -> u64 {
        since(*self.base.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn since((stamp_ms, at): (u64, Instant)) -> u64 {
    stamp_ms.saturating_add(at.elapsed().as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_moves_forward_only() {
        let clock = ClusterClock::new(1_000);
        clock.applied(5_000_000);
        assert!(clock.now_ms() >= 5_000_000);
        clock.applied(2_000);
        assert!(clock.now_ms() >= 5_000_000);
    }
}
