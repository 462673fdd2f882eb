//! A hash over what can be seen at a revision: members that agree on it hold the same data,
//! however far each has compacted. Of all keys, or of some after the others.

use bytes::Bytes;

use super::scan::Scan;
use crate::command::{KeyRange, Record};
use crate::db::successor;
use crate::error::ReadError;
use crate::store::Store;

const PAGE_KEYS: usize = 1000;
const PAGE_BYTES: usize = 1 << 20;

/// Some of the keys, in order: as of one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slice {
    /// The revision; 0: now.
    pub revision: u64,
    /// The keys after this one; none: from the first key on.
    pub after: Option<Bytes>,
    /// Up to this one, and with it; none: to the last key.
    pub through: Option<Bytes>,
    /// It ends when it has so many keys, or so many bytes of keys and values: about, by a page of a scan.
    pub keys_max: usize,
    /// See `keys_max`.
    pub bytes_max: usize,
}

/// What a slice holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Digest {
    /// The revision that was read at.
    pub revision: u64,
    /// Over the records.
    pub hash: u64,
    /// How many there are.
    pub keys: u64,
    /// The last key that was looked at, where a limit ended the slice before its end.
    pub next: Option<Bytes>,
}

impl Store {
    /// Hashes all records as of a revision (0: now). Members of different releases compare this
    /// hash, so how it is made must stay.
    pub fn hash(&self, revision: u64) -> Result<u64, ReadError> {
        let all = Slice { revision, keys_max: usize::MAX, bytes_max: usize::MAX, ..Slice::default() };
        self.digest(&all).map(|digest| digest.hash)
    }

    /// Hashes the records of a slice; of all of them, what [`Store::hash`] answers.
    pub fn digest(&self, slice: &Slice) -> Result<Digest, ReadError> {
        let range = match &slice.through {
            Some(through) => KeyRange { end: successor(through).into(), ..KeyRange::default() },
            None => KeyRange::prefix(Bytes::new()),
        };
        let mut scan = Scan {
            range,
            revision: slice.revision,
            after: slice.after.clone(),
            keys_max: PAGE_KEYS.min(slice.keys_max),
            bytes_max: PAGE_BYTES.min(slice.bytes_max),
            ..Scan::default()
        };
        let (mut hash, mut keys, mut bytes) = (Hash::default(), 0, 0);
        loop {
            let page = self.scan_page(&scan)?;
            page.records.iter().for_each(|record| hash.record(record));
            keys += page.records.len();
            bytes += page.records.iter().map(|record| record.key.len() + record.value.len()).sum::<usize>();
            let full = keys >= slice.keys_max || bytes >= slice.bytes_max;
            if page.next.is_none() || full {
                let (revision, keys) = (page.revision, keys as u64);
                return Ok(Digest { revision, hash: hash.0, keys, next: page.next });
            }
            scan.revision = page.revision;
            scan.after = page.next;
        }
    }
}

/// Words of eight bytes, each mixed in by a multiplication that no bit escapes. Not for adversaries:
/// it is to find bugs and bad memory.
#[derive(Default)]
pub(crate) struct Hash(u64);

impl Hash {
    fn record(&mut self, record: &Record) {
        self.bytes(&record.key);
        self.bytes(&record.value);
        self.word(record.create_revision);
        self.word(record.mod_revision);
        self.word(record.version);
        self.word(record.deadline_ms);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
    }

    /// Over all that was hashed so far.
    pub(crate) fn value(&self) -> u64 {
        self.0
    }

    fn word(&mut self, word: u64) {
        // An odd constant with its bits well spread: the golden ratio's.
        let product = u128::from(self.0 ^ word).wrapping_add(1) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product as u64) ^ ((product >> 64) as u64).rotate_left(29);
    }
}
