//! The log's tail in memory: it feeds replication and apply, so that the disk is not read back.

use std::collections::VecDeque;

use super::record::RECORD_BYTES;
use crate::entry::Entry;

/// The newest entries, without a hole up to the log's last one.
#[derive(Debug)]
pub(super) struct Cache {
    entries: VecDeque<Entry>,
    /// The index of the first entry held, or of the next one to come.
    first: u64,
    bytes: usize,
}

impl Cache {
    pub(super) fn new(next_index: u64) -> Cache {
        Cache { entries: VecDeque::new(), first: next_index, bytes: 0 }
    }

    /// Entries below this index are on disk only.
    pub(super) fn first_index(&self) -> u64 {
        self.first
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, entry: Entry) {
        let next = self.first + self.entries.len() as u64;
        assert_eq!(entry.log_id.index, next, "the cache has no hole");
        self.bytes += entry_bytes(&entry);
        self.entries.push_back(entry);
    }

    /// Forgets the entries from `next` on.
    pub(super) fn truncate(&mut self, next: u64) {
        while self.entries.back().is_some_and(|entry| entry.log_id.index >= next) {
            let entry = self.entries.pop_back().expect("there is a last entry");
            self.bytes -= entry_bytes(&entry);
        }
        self.first = self.first.min(next);
    }

    /// Forgets the entries below `next`.
    pub(super) fn purge(&mut self, next: u64) {
        while self.entries.front().is_some_and(|entry| entry.log_id.index < next) {
            self.pop();
        }
        self.first = self.first.max(next);
    }

    /// Forgets everything, to go on at `next`.
    pub(super) fn reset(&mut self, next: u64) {
        *self = Cache::new(next);
    }

    /// Forgets the oldest entries while the cache is larger than it may be, as far as the disk has
    /// them: entries from `durable_next` on stay, whatever their size. The queue's limit bounds them.
    pub(super) fn evict(&mut self, bytes_max: usize, durable_next: u64) {
        while self.bytes > bytes_max && self.first < durable_next && !self.entries.is_empty() {
            self.pop();
        }
    }

    /// The entries from `from` to before `to` that are held, up to the first that reaches `bytes_max`.
    pub(super) fn read(&self, from: u64, to: u64, bytes_max: usize) -> Vec<Entry> {
        let skip = from.saturating_sub(self.first) as usize;
        let mut bytes = 0;
        let mut out = Vec::new();
        for entry in self.entries.iter().skip(skip).take_while(|entry| entry.log_id.index < to) {
            bytes += entry.payload.len();
            if bytes > bytes_max && !out.is_empty() {
                break;
            }
            out.push(entry.clone());
        }
        out
    }

    fn pop(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry_bytes(&entry);
            self.first = entry.log_id.index + 1;
        }
    }
}

/// What an entry costs, in memory and, nearly, on disk.
pub(super) fn entry_bytes(entry: &Entry) -> usize {
    RECORD_BYTES + entry.payload.len()
}
