//! Changes as the records of a frame.

use super::frame;
use super::queue::{Change, Op, Written};
use super::record::{self, Record};
use super::view::View;
use crate::fatal::stop_process;

/// The buffer keeps so much between frames; an unusually large one is given back.
const BUFFER_BYTES_KEPT: usize = 8 * 1024 * 1024;

/// Puts the changes' records into the buffer, for one frame, and makes the view that of the log with them.
pub(super) fn encode(ops: &[Op], view: &mut View, buffer: &mut Vec<u8>) -> Written {
    let mut written = Written::default();
    buffer.shrink_to(BUFFER_BYTES_KEPT);
    frame::begin(buffer);
    for op in ops {
        match &op.change {
            Change::Append(entries) => {
                for entry in entries {
                    record::put_entry(buffer, entry);
                    require(view.append(entry.log_id));
                }
                written.first_index = written.first_index.or(entries.first().map(|e| e.log_id.index));
                written.entries += entries.len();
                continue;
            }
            Change::Vote(vote) => {
                view.set_vote(*vote);
                record::put(buffer, Record::Vote(*vote));
            }
            Change::Truncate(last) => {
                require(view.truncate_after(*last));
                written.truncated_next = least(written.truncated_next, view.next_index());
                record::put(buffer, Record::Truncate(*last));
            }
            Change::Purge(upto) => {
                require(view.purge(*upto));
                record::put(buffer, Record::Purge(*upto));
            }
            Change::Reset(upto) => {
                view.reset(*upto);
                written.truncated_next = least(written.truncated_next, view.next_index());
                record::put(buffer, Record::Reset(*upto));
            }
        }
    }
    written
}

fn least(a: Option<u64>, b: u64) -> Option<u64> {
    Some(a.map_or(b, |a| a.min(b)))
}

/// The handle checked every change before it queued it.
fn require(result: Result<(), &'static str>) {
    if let Err(reason) = result {
        stop_process("cannot write log", reason);
    }
}
