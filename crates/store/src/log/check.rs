//! Reads a closed log from end to end: for a person who wants to know what is damaged, and for whoever wants to
//! know what a disk holds.

use std::path::Path;

use super::error::LogError;
use super::files;
use super::frame::{self, Kind};
use super::record::Records;
use super::recovery;
use super::scanner::{Scanned, Scanner, Source};
use super::segment;
use super::state::Vote;
use super::view::View;
use crate::entry::LogId;
use crate::files::Files;
use crate::machine::Machine;

const READ_BYTES: usize = 1024 * 1024;

/// What the log on a disk holds. A torn frame at its end, which the next start drops, is no part of it.
#[derive(Clone, Debug)]
pub struct Held(View);

impl Held {
    /// The last entry; in an empty log, what was purged last.
    pub fn last(&self) -> Option<LogId> {
        self.0.last()
    }

    /// The last vote.
    pub fn vote(&self) -> Option<Vote> {
        self.0.vote()
    }

    /// What was purged last.
    pub fn purged(&self) -> Option<LogId> {
        self.0.purged()
    }

    /// The term of an entry, or of what was purged last.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        self.0.term_of(index)
    }
}

/// Reads the log in the data directory `dir`, which no process may be using, as the next start will, and changes
/// nothing.
pub fn look(dir: &Path) -> Result<Held, LogError> {
    let disk = Machine::system().files;
    let dir = dir.join(files::DIR);
    let numbers = recovery::segment_numbers(&*disk, &dir)?;
    let first = numbers.first().copied().unwrap_or_default();
    let path = segment::path(&dir, first);
    let (file, file_bytes) = recovery::open(&*disk, &path)?;
    let source = Source { file: &*file, path: &path, file_bytes, segment: first };
    let (head, _) = recovery::read_head(&source)?;
    recovery::view(&*disk, &dir, head.identity).map(Held)
}

/// Reads the log in the data directory `dir`, which no process may be using, and changes nothing.
/// Answers what is wrong: the first damage of each file, then what is wrong with the whole.
pub fn verify(dir: &Path) -> Vec<LogError> {
    let disk = Machine::system().files;
    let dir = dir.join(files::DIR);
    let numbers = match recovery::segment_numbers(&*disk, &dir) {
        Ok(numbers) => numbers,
        Err(error) => return vec![error],
    };
    let mut findings = Vec::new();
    let mut identity = None;
    for (at, number) in numbers.iter().copied().enumerate() {
        let newest = at + 1 == numbers.len();
        match check_segment(&*disk, &segment::path(&dir, number), number, newest) {
            Ok(found) => identity = identity.or(Some(found)),
            Err(error) => findings.push(error),
        }
    }
    if let (Some(identity), true) = (identity, findings.is_empty()) {
        findings.extend(recovery::check(&*disk, &dir, identity).err());
    }
    findings
}

/// Reads one segment. Answers whose it is.
fn check_segment(disk: &dyn Files, path: &Path, number: u64, newest: bool) -> Result<u64, LogError> {
    let (file, file_bytes) = recovery::open(disk, path)?;
    let source = Source { file: &*file, path, file_bytes, segment: number };
    let (head, header) = recovery::read_head(&source)?;
    let seed = frame::seed(head.identity, number);
    let mut scanner = Scanner::new(&source, seed, header.frame_bytes(), READ_BYTES);
    scanner.expect_sequence(header.sequence + 1);
    loop {
        let at = scanner.offset();
        match scanner.next()? {
            Scanned::End => return Ok(head.identity),
            Scanned::Frame { header, .. } if header.kind == Kind::Seal => return Ok(head.identity),
            Scanned::Frame { payload, .. } => {
                if let Some(reason) = Records(payload).find_map(Result::err) {
                    return Err(LogError::damage(path, at, reason));
                }
            }
            Scanned::Torn(_) if newest => return Ok(head.identity),
            Scanned::Torn(_) => return Err(LogError::damage(path, at, "a frame is incomplete")),
        }
    }
}
