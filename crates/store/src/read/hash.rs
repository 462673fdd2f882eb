//! A hash over what can be seen at a revision: members that agree on it hold the same data,
//! however far each has compacted.

use bytes::Bytes;

use super::scan::Scan;
use crate::command::{KeyRange, Record};
use crate::error::ReadError;
use crate::store::Store;

const PAGE_KEYS: usize = 1000;
const PAGE_BYTES: usize = 1 << 20;

impl Store {
    /// Hashes all records as of a revision (0: now). Members of different releases compare this
    /// hash, so how it is made must stay.
    pub fn hash(&self, revision: u64) -> Result<u64, ReadError> {
        let mut scan = Scan {
            range: KeyRange::prefix(Bytes::new()),
            revision,
            keys_max: PAGE_KEYS,
            bytes_max: PAGE_BYTES,
            ..Scan::default()
        };
        let mut hash = Hash(0);
        loop {
            let page = self.scan_page(&scan)?;
            page.records.iter().for_each(|record| hash.record(record));
            scan.revision = page.revision;
            scan.after = page.next;
            if scan.after.is_none() {
                return Ok(hash.0);
            }
        }
    }
}

/// Words of eight bytes, each mixed in by a multiplication that no bit escapes. Not for adversaries:
/// it is to find bugs and bad memory.
struct Hash(u64);

impl Hash {
    fn record(&mut self, record: &Record) {
        self.bytes(&record.key);
        self.bytes(&record.value);
        self.word(record.create_revision);
        self.word(record.mod_revision);
        self.word(record.version);
        self.word(record.deadline_ms);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
    }

    fn word(&mut self, word: u64) {
        // An odd constant with its bits well spread: the golden ratio's.
        let product = u128::from(self.0 ^ word).wrapping_add(1) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product as u64) ^ ((product >> 64) as u64).rotate_left(29);
    }
}
