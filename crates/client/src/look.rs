//! The look at a key that tells what became of a conditional write.
//!
//! A write that requires a key's revision and changes that key can be applied once at most: revisions
//! are never used twice, so its condition cannot hold again. It may therefore be sent again as long as
//! the key is untouched, and has surely failed once the key's next change is seen to be another's. A
//! condition that a key be absent can hold again, so no look can tell.

use std::sync::Arc;

use bytes::Bytes;
use kvorum_proto::kv::v1 as wire;

use crate::Error;
use crate::options::{CallOptions, Repeat, Route};
use crate::pool::Pool;

/// The condition that makes a write one that is applied once at most.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    pub(crate) key: Bytes,
    pub(crate) mod_revision: u64,
    pub(crate) change: Change,
}

/// What the write does to the key of its condition.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Put(Bytes),
    Delete,
}

/// What a look tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The write was not applied so far. It may be sent again.
    Untouched,
    /// The key was changed by another write: the condition has failed, and always will.
    Failed {
        /// The revision of the key's last change.
        actual: u64,
    },
    /// What there is may be the write's work, or another's.
    Untold,
}

/// Looks at the key.
pub(crate) async fn look(pool: &Arc<Pool>, guard: &Guard, options: &CallOptions) -> Result<Finding, Error> {
    let options = CallOptions { route: Route::Leader, repeat: Repeat::Always, ..*options };
    let at = |revision| wire::GetRequest { key: guard.key.clone(), revision, serializable: false };
    let now = found(pool.call(&at(0), options).await?);
    if let Some(finding) = by_now(guard, now.as_ref()) {
        return Ok(finding);
    }
    let then = found(pool.call(&at(guard.mod_revision), options).await?);
    Ok(by_history(guard, now.as_ref(), then.as_ref()))
}

fn found(answer: wire::GetResponse) -> Option<wire::KeyValue> {
    if answer.found { answer.kv } else { None }
}

/// What the present state tells by itself.
fn by_now(guard: &Guard, now: Option<&wire::KeyValue>) -> Option<Finding> {
    match (now, &guard.change) {
        // Somebody deleted it, perhaps after the write.
        (None, _) => Some(Finding::Untold),
        (Some(now), _) if now.mod_revision == guard.mod_revision => Some(Finding::Untouched),
        // It was not deleted since, so whoever changed it first did not delete it.
        (Some(now), Change::Delete) if now.create_revision <= guard.mod_revision => {
            Some(Finding::Failed { actual: now.mod_revision })
        }
        (Some(_), Change::Delete) => Some(Finding::Untold),
        (Some(_), Change::Put(_)) => None,
    }
}

/// What the present state tells beside the one that the write required.
fn by_history(guard: &Guard, now: Option<&wire::KeyValue>, then: Option<&wire::KeyValue>) -> Finding {
    let Change::Put(value) = &guard.change else { return Finding::Untold };
    let (Some(now), Some(then)) = (now, then) else { return Finding::Untold };
    if then.mod_revision != guard.mod_revision {
        // The condition named a revision that was already past.
        return Finding::Failed { actual: now.mod_revision };
    }
    let changed_once = now.create_revision == then.create_revision && now.version == then.version + 1;
    // The same value proves nothing: another client may have written it, and two that both believe
    // that they won are what conditions are there to prevent.
    if changed_once && now.value != value {
        Finding::Failed { actual: now.mod_revision }
    } else {
        Finding::Untold
    }
}

#[cfg(test)]
mod tests {
    //! Goal: a look never claims more than it can know. Method: a table of states, judged by hand.
    use super::*;

    fn kv(create_revision: u64, mod_revision: u64, version: u64, value: &'static str) -> wire::KeyValue {
        wire::KeyValue { create_revision, mod_revision, version, value: value.into(), ..Default::default() }
    }

    fn finding(change: Change, now: Option<wire::KeyValue>, then: Option<wire::KeyValue>) -> Finding {
        let guard = Guard { key: "k".into(), mod_revision: 10, change };
        by_now(&guard, now.as_ref()).unwrap_or_else(|| by_history(&guard, now.as_ref(), then.as_ref()))
    }

    #[test]
    fn of_a_put() {
        let put = || Change::Put("mine".into());
        let then = Some(kv(5, 10, 3, "old"));
        assert_eq!(finding(put(), Some(kv(5, 10, 3, "old")), then.clone()), Finding::Untouched);
        assert_eq!(
            finding(put(), Some(kv(5, 12, 4, "theirs")), then.clone()),
            Finding::Failed { actual: 12 }
        );
        assert_eq!(finding(put(), Some(kv(5, 12, 4, "mine")), then.clone()), Finding::Untold);
        assert_eq!(finding(put(), Some(kv(5, 13, 5, "theirs")), then.clone()), Finding::Untold);
        assert_eq!(finding(put(), Some(kv(12, 12, 1, "theirs")), then.clone()), Finding::Untold);
        assert_eq!(finding(put(), None, then), Finding::Untold);
        assert_eq!(
            finding(put(), Some(kv(5, 12, 4, "theirs")), Some(kv(5, 9, 2, "x"))),
            Finding::Failed { actual: 12 }
        );
    }

    #[test]
    fn of_a_delete() {
        assert_eq!(finding(Change::Delete, Some(kv(5, 10, 3, "old")), None), Finding::Untouched);
        assert_eq!(finding(Change::Delete, Some(kv(5, 12, 4, "new")), None), Finding::Failed { actual: 12 });
        assert_eq!(finding(Change::Delete, Some(kv(12, 12, 1, "new")), None), Finding::Untold);
        assert_eq!(finding(Change::Delete, None, None), Finding::Untold);
    }
}
