//! What is counted of users and rights.

use kvorum_store::Store;
use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::make::Make;

/// What is counted of users and rights. Clones share it.
#[derive(Clone)]
pub struct AuthMetrics {
    checks: IntCounterVec,
    revision: IntGauge,
    moved: IntCounter,
}

impl AuthMetrics {
    pub(super) fn new(make: &Make) -> AuthMetrics {
        AuthMetrics {
            checks: make.counter_vec(
                "kvorum_auth_checks_total",
                "Checks whether a caller may do what he asks for, by how he proved who he is and by result: allowed, or \
                 denied. None are made where rights do not count.",
                &["proof", "result"],
            ),
            revision: make.gauge(
                "kvorum_auth_revision",
                "How often users, roles and rights have changed, as this node knows them; 0: they do not count.",
            ),
            moved: make.counter(
                "kvorum_auth_moved_total",
                "Writes that were checked again because rights changed before they were applied.",
            ),
        }
    }

    /// Somebody was checked.
    pub fn checked(&self, proof: &str, allowed: bool) {
        self.checks.with_label_values(&[proof, if allowed { "allowed" } else { "denied" }]).inc();
    }

    /// A write is checked again, since rights changed before it was applied.
    pub fn moved(&self) {
        self.moved.inc();
    }

    pub(super) fn observe(&self, store: &Store) {
        self.revision.set(store.auth_fence() as i64);
    }
}
