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

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// He may.
    Allowed,
    /// He may not.
    Denied,
    /// He may not, and was let pass.
    WouldDeny,
}

impl AuthMetrics {
    pub(super) fn new(make: &Make) -> AuthMetrics {
        AuthMetrics {
            checks: make.counter_vec(
                "kvorum_auth_checks_total",
                "Checks whether a caller may do what he asks for, by how he proved who he is and by result: allowed, \
                 denied, or would_deny where rights are looked at and do not count. None are made where they are not even looked at.",
                &["proof", "result"],
            ),
            revision: make.gauge(
                "kvorum_auth_revision",
                "How often users, roles and rights have changed, as this node knows them; 0: they are not looked at.",
            ),
            moved: make.counter(
                "kvorum_auth_moved_total",
                "Writes that were checked again because rights changed before they were applied.",
            ),
        }
    }

    /// Somebody was checked.
    pub fn checked(&self, proof: &str, result: CheckResult) {
        let result = match result {
            CheckResult::Allowed => "allowed",
            CheckResult::Denied => "denied",
            CheckResult::WouldDeny => "would_deny",
        };
        self.checks.with_label_values(&[proof, result]).inc();
    }

    /// A write is checked again, since rights changed before it was applied.
    pub fn moved(&self) {
        self.moved.inc();
    }

    pub(super) fn observe(&self, store: &Store) {
        self.revision.set(store.auth_as_of() as i64);
    }
}
