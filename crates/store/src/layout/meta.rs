//! `default`: the few rows that are there once, under a name. Every RocksDB has this column family.

use super::codec::{FORMAT, Malformed, body, take_fixed, take_log_id};
use crate::entry::LogId;

/// The column family's name.
pub(crate) const META: &str = "default";

/// [`Head`](super::Head): in every WriteBatch of apply, so that data and applied position
/// cannot part.
pub(crate) const HEAD: &[u8] = b"head";
/// Format byte, term and index (little endian), opaque bytes: the last applied membership.
/// Written when a membership entry is applied, and by a restore.
pub(crate) const MEMBERSHIP: &[u8] = b"membership";
/// Format byte, then the ids of the nodes whose space alarm stands, ascending, little endian.
pub(crate) const SPACE_ALARMS: &[u8] = b"space-alarms";
/// The same for the nodes whose data differs from a majority's. Absent until the first one's does.
pub(crate) const CORRUPT_ALARMS: &[u8] = b"corrupt-alarms";
/// Format byte, term and index (little endian): the applied position of the snapshot that this
/// state was made from. Written before the snapshot takes the state's place.
pub(crate) const INSTALLED: &[u8] = b"installed";
/// Format byte, the feature level (u32, little endian), and the name of the release that raised the
/// cluster to it: what to say where the level, which is the head's first byte, is not known.
/// Written when the level is raised; absent on level 1.
pub(crate) const FEATURE_LEVEL: &[u8] = b"feature-level";

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
