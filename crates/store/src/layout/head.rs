//! The head: what the state counts, and how far the log is applied.

use super::codec::{Malformed, take_fixed, take_log_id, take_u64};
use crate::entry::LogId;
use crate::feature::{self, FEATURE_LEVEL_MAX, FEATURE_LEVEL_MIN};

/// The numbers of the state, in one row. The feature level as one byte, then each other field little
/// endian in the order of [`Head::encode`].
///
/// On level 1 the first byte is the format byte of every other row. A release that does not know the
/// level takes it for a newer format, and refuses the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// What the cluster's members know, see [`feature`](crate::feature).
    pub(crate) feature_level: u32,
    /// The last entry that was applied as a whole.
    pub(crate) applied: Option<LogId>,
    /// How many commands of the entry after it are applied: an entry whose changes are too large
    /// for one WriteBatch takes several.
    pub(crate) commands_applied: u32,
    pub(crate) revision: u64,
    /// The oldest revision that can be read; 0 before the first compaction.
    pub(crate) compacted: u64,
    /// The first change that compaction has not removed yet.
    pub(crate) compact_next: (u64, u32),
    /// The first change whose superseded record compaction has not removed yet.
    pub(crate) superseded_next: (u64, u32),
    pub(crate) cluster_time_ms: u64,
    /// Rows of `current`.
    pub(crate) keys: u64,
    /// Rows of `deadlines`.
    pub(crate) deadlines: u64,
    /// The sum of [`record_bytes`](super::record_bytes) over `current`, `history`, `changes` (whose values count as empty), and
    /// the rows of users and roles.
    pub(crate) logical_bytes: u64,
    /// 0: no quota.
    pub(crate) quota_bytes: u64,
}

/// Bytes of an encoded head.
const HEAD_BYTES: usize = 1 + 1 + 8 + 8 + 4 + 8 + 8 + 2 * (8 + 4) + 8 + 8 + 8 + 8 + 8;

impl Head {
    /// The head of a store that nothing was applied to.
    pub(crate) const EMPTY: Head = Head {
        feature_level: FEATURE_LEVEL_MIN,
        applied: None,
        commands_applied: 0,
        revision: 1,
        compacted: 0,
        compact_next: (0, 0),
        superseded_next: (0, 0),
        cluster_time_ms: 0,
        keys: 0,
        deadlines: 0,
        logical_bytes: 0,
        quota_bytes: 0,
    };

    pub(crate) fn encode(&self) -> [u8; HEAD_BYTES] {
        let applied = self.applied.unwrap_or_default();
        let mut out = [0; HEAD_BYTES];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&[feature::byte(self.feature_level), u8::from(self.applied.is_some())]);
        put(&applied.term.to_le_bytes());
        put(&applied.index.to_le_bytes());
        put(&self.commands_applied.to_le_bytes());
        put(&self.revision.to_le_bytes());
        put(&self.compacted.to_le_bytes());
        for (revision, number) in [self.compact_next, self.superseded_next] {
            put(&revision.to_le_bytes());
            put(&number.to_le_bytes());
        }
        put(&self.cluster_time_ms.to_le_bytes());
        put(&self.keys.to_le_bytes());
        put(&self.deadlines.to_le_bytes());
        put(&self.logical_bytes.to_le_bytes());
        put(&self.quota_bytes.to_le_bytes());
        out
    }

    /// The feature level of an encoded head, known or not.
    pub(crate) fn feature_level(row: &[u8]) -> Option<u32> {
        row.first().copied().map(u32::from)
    }

    pub(crate) fn decode(row: &[u8]) -> Result<Head, Malformed> {
        let known = |level: &u32| (FEATURE_LEVEL_MIN..=FEATURE_LEVEL_MAX).contains(level);
        if row.len() != HEAD_BYTES {
            return Err(Malformed);
        }
        let rest = &mut &row[1..];
        let is_applied = take_fixed::<1>(rest)?[0] == 1;
        let log_id = take_log_id(rest)?;
        let head = Head {
            feature_level: Head::feature_level(row).filter(known).ok_or(Malformed)?,
            applied: is_applied.then_some(log_id),
            commands_applied: u32::from_le_bytes(take_fixed(rest)?),
            revision: take_u64(rest)?,
            compacted: take_u64(rest)?,
            compact_next: (take_u64(rest)?, u32::from_le_bytes(take_fixed(rest)?)),
            superseded_next: (take_u64(rest)?, u32::from_le_bytes(take_fixed(rest)?)),
            cluster_time_ms: take_u64(rest)?,
            keys: take_u64(rest)?,
            deadlines: take_u64(rest)?,
            logical_bytes: take_u64(rest)?,
            quota_bytes: take_u64(rest)?,
        };
        if head.compacted > head.revision { Err(Malformed) } else { Ok(head) }
    }

    /// Whether `CompactStep` commands are still to be proposed.
    pub(crate) fn compaction_backlog(&self) -> bool {
        self.compacted > 0 && self.superseded_next.0 <= self.compacted
    }
}
