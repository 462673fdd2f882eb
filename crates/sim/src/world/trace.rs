//! What happened, as a hash by which two runs are compared, and as lines for people.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use super::clock::{Clock, SECOND};

/// Lines kept for whoever reads a failure.
const LINES_MAX: usize = 40;

/// A trace. It is the same in each run of a seed, or the run cannot be repeated.
#[derive(Debug)]
pub struct Trace {
    clock: Arc<Clock>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    hash: u64,
    events: u64,
    lines: VecDeque<String>,
    all: Option<BufWriter<File>>,
}

impl Trace {
    /// Empty. Every event goes to the file too, where there is one.
    pub fn new(clock: Arc<Clock>, all: Option<File>) -> Trace {
        let inner = Inner { hash: 0, events: 0, lines: VecDeque::new(), all: all.map(BufWriter::new) };
        Trace { clock, inner: Mutex::new(inner) }
    }

    /// Something happened. The content counts by its bytes.
    pub fn note(&self, what: &'static str, numbers: &[u64], content: &[u8]) {
        let now = self.clock.now();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.events += 1;
        let content_hash = hash_bytes(content);
        let hash = std::iter::once(now)
            .chain([hash_bytes(what.as_bytes()), content_hash])
            .chain(numbers.iter().copied())
            .fold(inner.hash, mix);
        inner.hash = hash;
        if let Some(all) = &mut inner.all {
            // Whoever asked for the file sees that it ends early.
            let _ = writeln!(all, "{now} {what} {numbers:?} {content_hash:x}");
        }
    }

    /// Something happened that people want to know.
    pub fn tell(&self, what: &'static str, line: String) {
        self.note(what, &[], line.as_bytes());
        let now = self.clock.now();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.lines.len() == LINES_MAX {
            inner.lines.pop_front();
        }
        inner.lines.push_back(format!("{:>9.3} s  {line}", now as f64 / SECOND as f64));
    }

    /// The hash so far, and of how many events.
    pub fn hash(&self) -> (u64, u64) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (inner.hash, inner.events)
    }

    /// The last lines.
    pub fn lines(&self) -> Vec<String> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(all) = &mut inner.all {
            let _ = all.flush();
        }
        inner.lines.iter().cloned().collect()
    }
}

fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// Eight bytes at a time.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(bytes.len() as u64, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    rest.iter().fold(hash, |hash, byte| mix(hash, u64::from(*byte)))
}
