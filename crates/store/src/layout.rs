//! What stands on disk: every column family, key and value of the state.
//!
//! Numbers in keys are big endian, so that RocksDB's byte order is theirs. Numbers in values are
//! varints (seven bits a byte, lowest first), except in the head, which is of fixed width. Every
//! value begins with a format byte; a later release may write another one and still reads this.
//!
//! | column family | key | value | written by |
//! |---|---|---|---|
//! | `current` | user key | [`RecordHead`], value | apply: a put, a TTL set or dropped |
//! | `history` | escaped user key, inverted mod revision | end revision, [`RecordHead`], value | apply: when a record is overwritten or deleted |
//! | | the same | format byte 2: end revision, [`RecordHead`] | apply, from feature level 2 on: when a record's TTL is changed |
//! | `changes` | revision, number within it | kind, previous mod revision, length of the previous value, user key | apply: for every key that a revision changes |
//! | `deadlines` | deadline, user key | mod revision | apply: for every record that has a deadline |
//! | `default` | a name of [`meta`] | see there | apply, install, restore |
//!
//! A record is visible at the revisions from its mod revision up to, but not including, its end
//! revision. That is why a delete writes no tombstone: it gives the record an end.
//!
//! A change of a TTL makes a new record with the value of the old one, whose row in `history` then has
//! format byte 2 and no value: it is that of the record which ended it, the one written at its end
//! revision. So the newest of the records that share a value holds it. Compaction needs to know nothing
//! of that: it removes records in the order of their ends, and the one that holds a value ends after all
//! that share it. `current` is as it was, and a read of the present costs what it did. A read in the past
//! walks to the next newer row with a value; every so many versions
//! ([`Limits::shared_values_max`](crate::Limits::shared_values_max)) one keeps its own, which bounds the
//! walk. Were the oldest to hold the value, compaction would have to move it; were deadlines kept beside
//! the records, every read would have to look there too. What a change of a TTL still costs is one write
//! of the row in `current`, over the one before.

use crate::entry::LogId;
use crate::feature::{self, FEATURE_LEVEL_MAX, FEATURE_LEVEL_MIN};

/// Column families. `default` has to exist in every RocksDB, so it serves for the few rows of meta.
pub(crate) const CURRENT: &str = "current";
pub(crate) const HISTORY: &str = "history";
pub(crate) const CHANGES: &str = "changes";
pub(crate) const DEADLINES: &str = "deadlines";
pub(crate) const META: &str = "default";

/// The format of all values but the head that this release writes and reads.
pub(crate) const FORMAT: u8 = 1;

/// The format of a row of `history` without a value of its own.
const FORMAT_SHARED: u8 = 2;

/// What logical accounting adds to the bytes of key and value of each record, for the numbers
/// beside them and RocksDB's own overhead. Part of the replicated state: it must stay.
pub(crate) const RECORD_OVERHEAD_BYTES: u64 = 64;

/// Kinds of changes as they stand on disk: the numbers must stay.
const CHANGE_PUT: u8 = 0;
const CHANGE_DELETE: u8 = 1;

/// Bytes of a revision at the end of a key of `history`.
const REVISION_BYTES: usize = 8;
/// Ends the user key in a key of `history`; a zero byte inside the key becomes `ESCAPED_ZERO`.
const KEY_END: [u8; 2] = [0, 0];
const ESCAPED_ZERO: [u8; 2] = [0, 0xff];

/// Keys of the `default` column family.
pub(crate) mod meta {
    /// [`Head`](super::Head): in every WriteBatch of apply, so that data and applied position
    /// cannot part.
    pub(crate) const HEAD: &[u8] = b"head";
    /// Format byte, term and index (little endian), opaque bytes: the last applied membership.
    /// Written when a membership entry is applied, and by a restore.
    pub(crate) const MEMBERSHIP: &[u8] = b"membership";
    /// Format byte, then the ids of the nodes whose space alarm stands, ascending, little endian.
    pub(crate) const SPACE_ALARMS: &[u8] = b"space-alarms";
    /// Format byte, term and index (little endian): the applied position of the snapshot that this
    /// state was made from. Written before the snapshot takes the state's place.
    pub(crate) const INSTALLED: &[u8] = b"installed";
    /// Format byte, the feature level (u32, little endian), and the name of the release that raised the
    /// cluster to it: what to say where the level, which is the head's first byte, is not known.
    /// Written when the level is raised; absent on level 1.
    pub(crate) const FEATURE_LEVEL: &[u8] = b"feature-level";
}

/// Bytes that are no record of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Everything about a record but its key and value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RecordHead {
    pub(crate) create_revision: u64,
    pub(crate) mod_revision: u64,
    pub(crate) version: u64,
    /// 0: never.
    pub(crate) deadline_ms: u64,
}

impl RecordHead {
    /// Writes a value of `current` over what `out` held.
    pub(crate) fn encode(&self, value: &[u8], out: &mut Vec<u8>) {
        out.clear();
        out.push(FORMAT);
        self.encode_body(value, out);
    }

    fn encode_body(&self, value: &[u8], out: &mut Vec<u8>) {
        put_varint(out, self.create_revision);
        put_varint(out, self.mod_revision);
        put_varint(out, self.version);
        put_varint(out, self.deadline_ms);
        out.extend_from_slice(value);
    }

    /// Reads a value of `current`: the head and the user's value.
    pub(crate) fn decode(row: &[u8]) -> Result<(RecordHead, &[u8]), Malformed> {
        let mut rest = body(row)?;
        let head = RecordHead::decode_body(&mut rest)?;
        Ok((head, rest))
    }

    fn decode_body(rest: &mut &[u8]) -> Result<RecordHead, Malformed> {
        Ok(RecordHead {
            create_revision: take_varint(rest)?,
            mod_revision: take_varint(rest)?,
            version: take_varint(rest)?,
            deadline_ms: take_varint(rest)?,
        })
    }
}

/// A record that something overwrote or deleted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Superseded<'a> {
    /// The revision that overwrote or deleted it: it is visible before this one.
    pub(crate) end_revision: u64,
    pub(crate) head: RecordHead,
    /// None: that of the record which was written at the end revision.
    pub(crate) value: Option<&'a [u8]>,
}

impl<'a> Superseded<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        out.push(if self.value.is_some() { FORMAT } else { FORMAT_SHARED });
        put_varint(out, self.end_revision);
        self.head.encode_body(self.value.unwrap_or_default(), out);
    }

    pub(crate) fn decode(row: &'a [u8]) -> Result<Self, Malformed> {
        let (format, mut rest) = row.split_first().ok_or(Malformed)?;
        let end_revision = take_varint(&mut rest)?;
        let head = RecordHead::decode_body(&mut rest)?;
        let value = match *format {
            FORMAT => Some(rest),
            FORMAT_SHARED if rest.is_empty() => None,
            _ => return Err(Malformed),
        };
        Ok(Superseded { end_revision, head, value })
    }
}

/// Writes the key of `history` over what `out` held: a user key's rows lie together, the newest first.
pub(crate) fn history_key(key: &[u8], mod_revision: u64, out: &mut Vec<u8>) {
    history_prefix(key, out);
    out.extend_from_slice(&(!mod_revision).to_be_bytes());
}

/// Writes what all rows of the user key begin with in `history`; it sorts before them, and after
/// the rows of every smaller key.
pub(crate) fn history_prefix(key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    escape(key, out);
    out.extend_from_slice(&KEY_END);
}

/// Writes a key that sorts after all rows of the user key in `history`, and before those of every
/// greater one.
pub(crate) fn history_after(key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    escape(key, out);
    out.extend_from_slice(&[0, 1]);
}

fn escape(key: &[u8], out: &mut Vec<u8>) {
    if !key.contains(&0) {
        out.extend_from_slice(key);
        return;
    }
    for byte in key {
        match byte {
            0 => out.extend_from_slice(&ESCAPED_ZERO),
            _ => out.push(*byte),
        }
    }
}

/// Writes the user key of a key of `history` over what `key` held, and answers the mod revision.
pub(crate) fn decode_history_key(row: &[u8], key: &mut Vec<u8>) -> Result<u64, Malformed> {
    key.clear();
    let split = row.len().checked_sub(REVISION_BYTES).ok_or(Malformed)?;
    let (mut escaped, revision) = row.split_at(split);
    escaped = escaped.strip_suffix(&KEY_END).ok_or(Malformed)?;
    while let Some(zero) = escaped.iter().position(|byte| *byte == 0) {
        key.extend_from_slice(&escaped[..=zero]);
        escaped = escaped[zero..].strip_prefix(&ESCAPED_ZERO).ok_or(Malformed)?;
    }
    key.extend_from_slice(escaped);
    Ok(!u64::from_be_bytes(revision.try_into().map_err(|_| Malformed)?))
}

/// What a change did to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    Put,
    Delete,
}

/// One key that a revision changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change<'a> {
    pub(crate) kind: ChangeKind,
    /// The mod revision of the record that was overwritten or deleted; 0: there was none.
    pub(crate) previous_revision: u64,
    /// The length of the value in that record's row of `history`, so that compaction can account for it
    /// unread; 0 where the row shares its value.
    pub(crate) previous_value_bytes: u64,
    pub(crate) key: &'a [u8],
}

impl<'a> Change<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        out.push(FORMAT);
        out.push(match self.kind {
            ChangeKind::Put => CHANGE_PUT,
            ChangeKind::Delete => CHANGE_DELETE,
        });
        put_varint(out, self.previous_revision);
        put_varint(out, self.previous_value_bytes);
        out.extend_from_slice(self.key);
    }

    pub(crate) fn decode(row: &'a [u8]) -> Result<Self, Malformed> {
        let (kind, mut rest) = body(row)?.split_first().ok_or(Malformed)?;
        let kind = match *kind {
            CHANGE_PUT => ChangeKind::Put,
            CHANGE_DELETE => ChangeKind::Delete,
            _ => return Err(Malformed),
        };
        let previous_revision = take_varint(&mut rest)?;
        let previous_value_bytes = take_varint(&mut rest)?;
        Ok(Change { kind, previous_revision, previous_value_bytes, key: rest })
    }
}

/// The key of `changes`: the revision, and the change's number within it.
pub(crate) fn change_key(revision: u64, number: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&revision.to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

pub(crate) fn decode_change_key(row: &[u8]) -> Result<(u64, u32), Malformed> {
    let (revision, number) = row.split_first_chunk::<8>().ok_or(Malformed)?;
    let number = number.try_into().map_err(|_| Malformed)?;
    Ok((u64::from_be_bytes(*revision), u32::from_be_bytes(number)))
}

/// Writes the key of `deadlines` over what `out` held.
pub(crate) fn deadline_key(deadline_ms: u64, key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&deadline_ms.to_be_bytes());
    out.extend_from_slice(key);
}

pub(crate) fn decode_deadline_key(row: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    let (deadline_ms, key) = row.split_first_chunk::<8>().ok_or(Malformed)?;
    Ok((u64::from_be_bytes(*deadline_ms), key))
}

/// Writes a value of `deadlines` over what `out` held.
pub(crate) fn encode_deadline(mod_revision: u64, out: &mut Vec<u8>) {
    out.clear();
    out.push(FORMAT);
    put_varint(out, mod_revision);
}

pub(crate) fn decode_deadline(row: &[u8]) -> Result<u64, Malformed> {
    let mut rest = body(row)?;
    let mod_revision = take_varint(&mut rest)?;
    if rest.is_empty() { Ok(mod_revision) } else { Err(Malformed) }
}

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
    /// The sum of [`record_bytes`] over `current`, `history` and `changes` (whose values count as empty).
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
        Ok(Head {
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
        })
    }
}

/// A log position and opaque bytes: the values of `membership` and, without bytes, of `installed`.
pub(crate) fn encode_position(log_id: LogId, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(17 + bytes.len());
    out.push(FORMAT);
    out.extend_from_slice(&log_id.term.to_le_bytes());
    out.extend_from_slice(&log_id.index.to_le_bytes());
    out.extend_from_slice(bytes);
    out
}

pub(crate) fn decode_position(row: &[u8]) -> Result<(LogId, &[u8]), Malformed> {
    let mut rest = body(row)?;
    let log_id = take_log_id(&mut rest)?;
    Ok((log_id, rest))
}

pub(crate) fn encode_alarms<'a>(node_ids: impl Iterator<Item = &'a u64>) -> Vec<u8> {
    let mut out = vec![FORMAT];
    node_ids.for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
    out
}

pub(crate) fn decode_alarms(row: &[u8]) -> Result<Vec<u64>, Malformed> {
    let (ids, []) = body(row)?.as_chunks::<8>() else { return Err(Malformed) };
    Ok(ids.iter().map(|id| u64::from_le_bytes(*id)).collect())
}

/// A feature level and the release that raised the cluster to it.
pub(crate) fn encode_feature_level(level: u32, release: &str) -> Vec<u8> {
    [&[FORMAT][..], &level.to_le_bytes(), release.as_bytes()].concat()
}

pub(crate) fn decode_feature_level(row: &[u8]) -> Result<(u32, &str), Malformed> {
    let mut rest = body(row)?;
    let level = u32::from_le_bytes(take_fixed(&mut rest)?);
    Ok((level, std::str::from_utf8(rest).map_err(|_| Malformed)?))
}

/// What a record counts for in the logical size of the store.
pub(crate) fn record_bytes(key: usize, value: usize) -> u64 {
    key as u64 + value as u64 + RECORD_OVERHEAD_BYTES
}

/// A row without its format byte.
fn body(row: &[u8]) -> Result<&[u8], Malformed> {
    match row.split_first() {
        Some((&FORMAT, rest)) => Ok(rest),
        _ => Err(Malformed),
    }
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, after) = rest.split_first().ok_or(Malformed)?;
        *rest = after;
        number |= u64::from(byte & 0x7f).checked_shl(shift).ok_or(Malformed)?;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Malformed)
}

fn take_fixed<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (fixed, after) = rest.split_first_chunk::<N>().ok_or(Malformed)?;
    *rest = after;
    Ok(*fixed)
}

fn take_u64(rest: &mut &[u8]) -> Result<u64, Malformed> {
    take_fixed(rest).map(u64::from_le_bytes)
}

fn take_log_id(rest: &mut &[u8]) -> Result<LogId, Malformed> {
    Ok(LogId { term: take_u64(rest)?, index: take_u64(rest)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: keys of `history` sort by user key, then newest first, and give the key back, zero
    /// bytes and keys that begin with one another included. Method: all pairs of awkward keys.
    #[test]
    fn history_keys_keep_the_order() {
        let keys: [&[u8]; 8] = [b"", b"\0", b"\0\0", b"\0\x01", b"\0\xff", b"a", b"a\0", b"ab"];
        let encoded = |key: &[u8], revision| {
            let mut out = Vec::new();
            history_key(key, revision, &mut out);
            out
        };
        for (i, a) in keys.iter().enumerate() {
            assert!(encoded(a, 9) < encoded(a, 8));
            let (mut prefix, mut after, mut back) = (Vec::new(), Vec::new(), Vec::new());
            history_prefix(a, &mut prefix);
            history_after(a, &mut after);
            assert!(prefix < encoded(a, u64::MAX) && encoded(a, 0) < after);
            assert_eq!(decode_history_key(&encoded(a, 7), &mut back), Ok(7));
            assert_eq!(&back, a);
            for b in &keys[i + 1..] {
                history_prefix(b, &mut prefix);
                assert!(encoded(a, 0) < encoded(b, u64::MAX) && after < prefix, "{a:?} {b:?}");
            }
        }
    }

    /// Goal: every row survives encoding, and no cut of it is taken for one. Method: extreme values.
    #[test]
    fn rows_survive_encoding() {
        let head = RecordHead { create_revision: 1, mod_revision: u64::MAX, version: 128, deadline_ms: 0 };
        let mut row = Vec::new();
        head.encode(b"value", &mut row);
        assert_eq!(RecordHead::decode(&row), Ok((head, &b"value"[..])));
        (0..row.len() - 5).for_each(|cut| assert_eq!(RecordHead::decode(&row[..cut]), Err(Malformed)));

        for value in [Some(&b"v"[..]), Some(b""), None] {
            let superseded = Superseded { end_revision: 300, head, value };
            superseded.encode(&mut row);
            assert_eq!(Superseded::decode(&row), Ok(superseded));
        }
        row.push(0);
        assert_eq!(Superseded::decode(&row), Err(Malformed), "a shared value is not in the row");

        for kind in [ChangeKind::Put, ChangeKind::Delete] {
            let change = Change { kind, previous_revision: 7, previous_value_bytes: 1 << 40, key: b"k" };
            change.encode(&mut row);
            assert_eq!(Change::decode(&row), Ok(change));
        }
        assert_eq!(decode_change_key(&change_key(5, 6)), Ok((5, 6)));

        let head = Head {
            feature_level: FEATURE_LEVEL_MAX,
            applied: Some(LogId { term: 3, index: 4 }),
            compact_next: (5, 6),
            superseded_next: (7, 8),
            ..Head::EMPTY
        };
        assert_eq!(Head::decode(&head.encode()), Ok(head));
        assert_eq!(Head::decode(&Head::EMPTY.encode()), Ok(Head::EMPTY));
        assert_eq!(Head::EMPTY.encode()[0], FORMAT, "the first release reads a head of level 1");
        let mut newer = head.encode();
        newer[0] += 1;
        assert_eq!(Head::decode(&newer), Err(Malformed));
        assert_eq!(decode_feature_level(&encode_feature_level(7, "0.9")), Ok((7, "0.9")));
        assert_eq!(decode_alarms(&encode_alarms([1, u64::MAX].iter())), Ok(vec![1, u64::MAX]));
    }
}
