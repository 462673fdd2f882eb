//! What grows the store, and when that is refused.

use std::collections::BTreeSet;

use crate::auth;
use crate::command::{Kind, OpKind, Reason, Refused, Write};
use crate::feature;
use crate::layout::Head;
use crate::state::Published;

/// Refuses a command that grows a store which has no room. Deletes, expiry and compaction write rows too,
/// but lead to less. Any change of a TTL only adds: one that drops the TTL even keeps what would have gone
/// by itself.
pub(crate) fn refuse_growth(command: &Kind, published: &Published) -> Option<Refused> {
    let grows = match command {
        Kind::Write(write) => puts(write),
        Kind::Auth(change) => auth::grows(change),
        Kind::SetTtl(_) => feature::ttl_grows_store(published.head.feature_level),
        _ => false,
    };
    if grows { no_room(&published.head, &published.space_alarms) } else { None }
}

/// Whether a write writes anything, rather than only deleting.
pub(super) fn puts(write: &Write) -> bool {
    write.ops.iter().any(|op| matches!(op.kind, Some(OpKind::Put(_))))
}

/// The refusal of what grows the store, where there is no room for it. Depends on replicated state alone,
/// since members' disks differ.
pub(crate) fn no_room(head: &Head, space_alarms: &BTreeSet<u64>) -> Option<Refused> {
    let quota_used = head.quota_bytes != 0 && head.logical_bytes >= head.quota_bytes;
    let refuse = quota_used || !space_alarms.is_empty();
    refuse.then(|| Refused { actual: head.quota_bytes, ..Refused::because(Reason::NoSpace) })
}
