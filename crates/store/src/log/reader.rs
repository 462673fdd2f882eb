//! Reads entries back from the segments.

use bytes::Bytes;

use super::error::LogError;
use super::frame;
use super::record::{Record, Records};
use super::scanner::{Scanned, Scanner, Source};
use super::segment::Piece;
use crate::entry::Entry;

/// One read of the disk: enough for the stretch between two marks and some, small beside a page of
/// entries for replication.
const READ_BYTES: usize = 64 * 1024;

/// Entries that were read, and whether the limit ended it.
pub(super) struct Page {
    pub(super) entries: Vec<Entry>,
    pub(super) payload_bytes: usize,
    pub(super) full: bool,
}

/// Reads the entries of the pieces, until their payloads exceed `bytes_max`; the first in any case.
pub(super) fn read(pieces: &[Piece], identity: u64, bytes_max: usize) -> Result<Page, LogError> {
    let mut page = Page { entries: Vec::new(), payload_bytes: 0, full: false };
    for piece in pieces {
        read_piece(piece, identity, bytes_max, &mut page)?;
        if page.full {
            break;
        }
    }
    Ok(page)
}

fn read_piece(piece: &Piece, identity: u64, bytes_max: usize, page: &mut Page) -> Result<(), LogError> {
    let source =
        Source { file: &*piece.file, path: &piece.path, file_bytes: piece.bytes, segment: piece.number };
    let mut scanner = Scanner::new(&source, frame::seed(identity, piece.number), piece.offset, READ_BYTES);
    let mut next = piece.from;
    while next < piece.to {
        let at = scanner.offset();
        let Scanned::Frame { payload, .. } = scanner.next()? else {
            return Err(LogError::damage(&piece.path, at, format!("entry {next} is not there any more")));
        };
        for record in Records(payload) {
            match record.map_err(|reason| LogError::damage(&piece.path, at, reason))? {
                Record::Entry { id, payload } if id.index == next && next < piece.to => {
                    let bytes = page.payload_bytes + payload.len();
                    if bytes > bytes_max && !page.entries.is_empty() {
                        page.full = true;
                        return Ok(());
                    }
                    page.payload_bytes = bytes;
                    // A copy, so that one entry does not hold its whole frame in memory.
                    page.entries.push(Entry { log_id: id, payload: Bytes::copy_from_slice(payload) });
                    next += 1;
                }
                _ => {}
            }
        }
    }
    Ok(())
}
