//! Raft log entries as bytes: the same bytes go over the wire, into every log and into apply.
//!
//! An encoded payload is `[format: u8][kind: u8][body]`. A batch's body is
//! `[stamp ms: u64 LE][count: u32 LE]` and then, for each command, `[length: u32 LE][Command]`.
//!
//! The format is the [feature level](crate::feature) that is needed to read the entry. Blank and
//! membership entries are of level 1 for ever; a batch is of the level that the cluster had, as its
//! proposer knew it. The entry that raises the level is of the new one already, alone in its batch and
//! laid out as on level 1, so that every release can read which release it needs.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message as _;

use crate::command::{Command, Kind};
use crate::feature::{self, FEATURE_LEVEL_MAX};

/// The newest entry format this build writes and reads.
pub const FORMAT_VERSION: u8 = FEATURE_LEVEL_MAX as u8;
/// The format of entries that every release reads.
const FORMAT_FIRST: u8 = 1;

/// Kinds as they stand on disk: the numbers must stay.
const KIND_BLANK: u8 = 0;
const KIND_BATCH: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// Bytes of every payload's header: format version and kind.
const HEADER_BYTES: usize = 2;
/// Bytes of a batch before its first command.
const BATCH_HEADER_BYTES: usize = HEADER_BYTES + 8 + 4;
/// Bytes in front of each command of a batch.
const COMMAND_HEADER_BYTES: usize = 4;

/// A position in the raft log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The term of the leader that made the entry.
    pub term: u64,
    /// The entry's index; the first entry of a cluster has index 0.
    pub index: u64,
}

impl std::fmt::Display for LogId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

/// One entry of the raft log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub log_id: LogId,
    /// Its encoded payload, see the module's documentation.
    pub payload: Bytes,
}

/// What an entry's payload holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: the first entry of a leader's term.
    Blank,
    /// Commands, applied in order at one moment of cluster time.
    Batch(Batch),
    /// A membership, opaque to the store.
    Membership(Bytes),
}

/// What kind of payload an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadKind {
    /// Nothing.
    Blank,
    /// Commands.
    Batch,
    /// A membership.
    Membership,
}

/// Commands that were proposed together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The feature level that its proposer relied on.
    pub level: u32,
    /// The proposing leader's cluster time in milliseconds.
    pub stamp_ms: u64,
    /// Encoded [`Command`](crate::command::Command)s.
    pub commands: Vec<Bytes>,
}

/// Why an entry's payload could not be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PayloadError {
    /// It was written by a newer release.
    #[error("entry format {0} is newer than this release understands ({FORMAT_VERSION}); upgrade this node")]
    Version(u8),
    /// It raises the cluster to a level that this release does not know.
    #[error("it raises the cluster to {}", feature::unknown(*level, FEATURE_LEVEL_MAX, release))]
    FeatureLevel {
        /// The level.
        level: u32,
        /// The release that knows it.
        release: String,
    },
    /// The kind byte is none we know.
    #[error("entry of unknown kind {0}")]
    Kind(u8),
    /// The lengths inside do not add up.
    #[error("entry is cut short or has trailing bytes")]
    Length,
}

/// The payload of a blank entry.
pub fn encode_blank() -> Bytes {
    Bytes::from_static(&[FORMAT_FIRST, KIND_BLANK])
}

/// The payload of a membership entry.
pub fn encode_membership(membership: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER_BYTES + membership.len());
    out.put_slice(&[FORMAT_FIRST, KIND_MEMBERSHIP]);
    out.put_slice(membership);
    out.freeze()
}

/// The payload of a batch of encoded commands that every release knows.
pub fn encode_batch<'a, I>(stamp_ms: u64, commands: I) -> Bytes
where
    I: ExactSizeIterator<Item = &'a Bytes> + Clone,
{
    encode_batch_of_level(feature::FEATURE_LEVEL_MIN, stamp_ms, commands)
}

/// The payload of a batch of encoded commands in a cluster of this feature level, which is at most
/// [`FEATURE_LEVEL_MAX`].
pub fn encode_batch_of_level<'a, I>(level: u32, stamp_ms: u64, commands: I) -> Bytes
where
    I: ExactSizeIterator<Item = &'a Bytes> + Clone,
{
    let body: usize = commands.clone().map(|c| COMMAND_HEADER_BYTES + c.len()).sum();
    let mut out = BytesMut::with_capacity(BATCH_HEADER_BYTES + body);
    out.put_slice(&[feature::byte(level), KIND_BATCH]);
    out.put_u64_le(stamp_ms);
    out.put_u32_le(commands.len() as u32);
    for command in commands {
        out.put_u32_le(command.len() as u32);
        out.put_slice(command);
    }
    out.freeze()
}

impl Payload {
    /// Reads an encoded payload. The parts of a batch share its memory.
    pub fn decode(mut bytes: Bytes) -> Result<Payload, PayloadError> {
        let kind = PayloadKind::of(&bytes)?;
        let level = bytes[0].into();
        bytes.advance(HEADER_BYTES);
        match kind {
            PayloadKind::Blank if bytes.is_empty() => Ok(Payload::Blank),
            PayloadKind::Blank => Err(PayloadError::Length),
            PayloadKind::Batch => decode_batch(level, bytes).map(Payload::Batch),
            PayloadKind::Membership => Ok(Payload::Membership(bytes)),
        }
    }
}

impl Payload {
    /// Whether [`decode`](Self::decode) reads this, without taking it apart.
    pub fn check(payload: &[u8]) -> Result<(), PayloadError> {
        let kind = PayloadKind::of(payload)?;
        let body = &payload[HEADER_BYTES..];
        match kind {
            PayloadKind::Membership => Ok(()),
            PayloadKind::Blank if body.is_empty() => Ok(()),
            PayloadKind::Blank => Err(PayloadError::Length),
            PayloadKind::Batch => check_batch(body).ok_or(PayloadError::Length),
        }
    }
}

/// Walks a batch's lengths; nothing if they do not add up.
fn check_batch(body: &[u8]) -> Option<()> {
    let (_stamp, rest) = body.split_first_chunk::<8>()?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    for _ in 0..u32::from_le_bytes(*count) {
        let (length, commands) = rest.split_first_chunk::<COMMAND_HEADER_BYTES>()?;
        rest = commands.get(u32::from_le_bytes(*length) as usize..)?;
    }
    rest.is_empty().then_some(())
}

impl PayloadKind {
    /// Reads the kind of an encoded payload without reading the rest of it.
    pub fn of(payload: &[u8]) -> Result<PayloadKind, PayloadError> {
        match *payload {
            [version, ..] if !(FORMAT_FIRST..=FORMAT_VERSION).contains(&version) => {
                Err(newer(version, payload))
            }
            [_, KIND_BLANK, ..] => Ok(PayloadKind::Blank),
            [_, KIND_BATCH, ..] => Ok(PayloadKind::Batch),
            [_, KIND_MEMBERSHIP, ..] => Ok(PayloadKind::Membership),
            [_, kind, ..] => Err(PayloadError::Kind(kind)),
            _ => Err(PayloadError::Length),
        }
    }
}

/// Why an entry of a format that is not known is refused: with the name of the release that is needed,
/// where the entry says it.
fn newer(version: u8, payload: &[u8]) -> PayloadError {
    let body = payload.get(HEADER_BYTES..).unwrap_or_default();
    let batch = decode_batch(version.into(), Bytes::copy_from_slice(body));
    let command = batch.ok().and_then(|batch| Command::decode(batch.commands.into_iter().next()?).ok());
    match command.and_then(|command| command.kind) {
        Some(Kind::RaiseFeatureLevel(raise)) => {
            PayloadError::FeatureLevel { level: raise.level, release: raise.release }
        }
        _ => PayloadError::Version(version),
    }
}

fn decode_batch(level: u32, mut bytes: Bytes) -> Result<Batch, PayloadError> {
    if bytes.len() < BATCH_HEADER_BYTES - HEADER_BYTES {
        return Err(PayloadError::Length);
    }
    let stamp_ms = bytes.get_u64_le();
    let count = bytes.get_u32_le() as usize;
    // A wrong count must not reserve memory: each command takes at least its header.
    if count > bytes.len() / COMMAND_HEADER_BYTES {
        return Err(PayloadError::Length);
    }
    let mut commands = Vec::with_capacity(count);
    for _ in 0..count {
        if bytes.len() < COMMAND_HEADER_BYTES {
            return Err(PayloadError::Length);
        }
        let length = bytes.get_u32_le() as usize;
        if bytes.len() < length {
            return Err(PayloadError::Length);
        }
        commands.push(bytes.split_to(length));
    }
    if !bytes.is_empty() {
        return Err(PayloadError::Length);
    }
    Ok(Batch { level, stamp_ms, commands })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::RaiseFeatureLevel;

    #[test]
    fn payloads_survive_encoding() {
        let commands = vec![Bytes::from_static(b"a"), Bytes::new(), Bytes::from_static(b"ccc")];
        for level in 1..=FEATURE_LEVEL_MAX {
            let batch = Payload::Batch(Batch { level, stamp_ms: 7, commands: commands.clone() });
            assert_eq!(Payload::decode(encode_batch_of_level(level, 7, commands.iter())), Ok(batch));
        }
        assert_eq!(Payload::decode(encode_blank()), Ok(Payload::Blank));
        let membership = Payload::Membership(Bytes::from_static(b"m"));
        assert_eq!(Payload::decode(encode_membership(b"m")), Ok(membership));
    }

    /// Goal: what passes the check is read, and what does not is not. Method: every cut and every changed byte
    /// of a batch, and the other kinds.
    #[test]
    fn a_payload_is_checked_as_it_is_read() {
        let batch = encode_batch(7, [Bytes::from_static(b"abc"), Bytes::new()].iter());
        let mut cases: Vec<Vec<u8>> = (0..batch.len()).map(|cut| batch[..cut].to_vec()).collect();
        for (at, bit) in (0..batch.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut changed = batch.to_vec();
            changed[at] ^= 1 << bit;
            cases.push(changed);
        }
        cases.extend([
            batch.to_vec(),
            encode_blank().to_vec(),
            vec![1, 0, 0],
            encode_membership(b"m").to_vec(),
        ]);
        for case in cases {
            let read = Payload::decode(case.clone().into());
            assert_eq!(Payload::check(&case), read.map(drop), "{case:?}");
        }
    }

    #[test]
    fn damaged_payloads_are_refused() {
        let good = encode_batch(7, [Bytes::from_static(b"abc")].iter());
        for cut in 0..good.len() {
            assert_eq!(Payload::decode(good.slice(..cut)), Err(PayloadError::Length), "cut at {cut}");
        }
        let mut long = BytesMut::from(&good[..]);
        long.put_u8(0);
        assert_eq!(Payload::decode(long.freeze()), Err(PayloadError::Length));
        assert_eq!(Payload::decode(Bytes::from_static(&[9, 0])), Err(PayloadError::Version(9)));
        assert_eq!(Payload::decode(Bytes::from_static(&[0, 0])), Err(PayloadError::Version(0)));
        assert_eq!(Payload::decode(Bytes::from_static(&[1, 9])), Err(PayloadError::Kind(9)));
    }

    /// Goal: whoever does not know a level learns from the entry that raises it which release does.
    /// Method: an entry of a level that this release does not know either.
    #[test]
    fn an_unknown_level_names_its_release() {
        let raise = RaiseFeatureLevel { level: FEATURE_LEVEL_MAX + 1, release: "7.8.9".into() };
        let command = Command::from(Kind::RaiseFeatureLevel(raise)).encoded();
        let payload = encode_batch_of_level(FEATURE_LEVEL_MAX + 1, 7, [command].iter());
        let error = Payload::decode(payload).expect_err("a newer level").to_string();
        let level = FEATURE_LEVEL_MAX + 1;
        assert!(error.contains(&format!("feature level {level}, which 7.8.9 knows")), "{error}");
    }
}
