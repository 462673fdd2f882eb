//! Deadlines: a TTL and the cluster's time.

/// When a key expires that is given so long to live now; 0: never.
pub(super) fn deadline_ms(now_ms: u64, ttl_ms: u64) -> u64 {
    if ttl_ms == 0 { 0 } else { now_ms.saturating_add(ttl_ms) }
}
