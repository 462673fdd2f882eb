//! Since when each peer lags, as the leader sees it.
//!
//! The log's positions say how far a peer is behind, and not for how long. So the leader looks now and then
//! who has caught up, and remembers when it saw that last. A new leader knows of no time before it led.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// When each peer was last seen to have caught up, while this node leads.
#[derive(Default)]
pub struct Lags {
    caught_up: Mutex<BTreeMap<u64, Instant>>,
}

impl Lags {
    /// Takes note of all peers, and which of them have caught up. One that was never seen so counts from
    /// when it was first seen; one that is not named any more is forgotten.
    pub fn observe(&self, now: Instant, peers: &[(u64, bool)]) {
        let mut caught_up = self.caught_up.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |(id, is_caught_up): &(u64, bool)| {
            let before = caught_up.get(id).filter(|_| !is_caught_up).copied();
            (*id, before.unwrap_or(now))
        };
        *caught_up = peers.iter().map(at).collect();
    }

    /// How long ago a peer was last seen to have caught up, in milliseconds; 0 for one that has, or that
    /// nobody knows.
    pub fn lagging_ms(&self, now: Instant, node_id: u64) -> u64 {
        let caught_up = self.caught_up.lock().unwrap_or_else(PoisonError::into_inner);
        let at = caught_up.get(&node_id);
        at.map_or(0, |at| now.saturating_duration_since(*at).as_millis() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A peer lags since it was last seen to have caught up, or else since this leader first saw it.
    #[test]
    fn a_peer_lags_since_it_was_last_caught_up() {
        let (lags, start) = (Lags::default(), Instant::now());
        let after = |ms: u64| start + Duration::from_millis(ms);
        let lagging = |ms: u64| [1, 2, 3].map(|id| lags.lagging_ms(after(ms), id));
        lags.observe(after(0), &[(1, true), (2, false)]);
        assert_eq!(lagging(0), [0, 0, 0]);
        lags.observe(after(500), &[(1, true), (2, false)]);
        assert_eq!(lagging(500), [0, 500, 0]);
        lags.observe(after(1000), &[(1, false), (2, true), (3, false)]);
        assert_eq!(lagging(1000), [500, 0, 0]);
        lags.observe(after(9000), &[(1, false), (2, true), (3, false)]);
        assert_eq!(lagging(9000), [8500, 0, 8000]);
        lags.observe(after(9500), &[(1, true), (3, false)]);
        assert_eq!(lagging(9500), [0, 0, 8500]);
        // Another node leads, and then this one again: what was before says nothing.
        lags.observe(after(10_000), &[]);
        lags.observe(after(20_000), &[(1, false), (3, false)]);
        assert_eq!(lagging(21_000), [1000, 0, 1000]);
    }
}
