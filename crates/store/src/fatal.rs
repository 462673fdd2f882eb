//! The one way out when going on could lose data, or leads nowhere.

use std::fmt::Display;
use std::sync::OnceLock;

/// What ends a simulated node in the place of its process.
static END: OnceLock<fn(&str) -> !> = OnceLock::new();

/// Says what failed and ends the process, without unwinding and without flushing anything.
///
/// It is called when a write or an fsync of the log or the state failed: the kernel may have marked
/// the pages clean although they never reached the disk, so a second fsync would succeed and prove
/// nothing. Only a new start, which reads what the disk really holds, can be trusted.
pub fn stop_process(context: impl Display, error: impl Display) -> ! {
    end_process(format_args!(
        "{context}: {error}; the process stops, since going on could lose acknowledged writes"
    ))
}

/// Says why the process can do nothing useful any more, and what to do about it, and ends it in the
/// same way.
pub fn end_process(why: impl Display) -> ! {
    tracing::error!("{why}");
    if let Some(end) = END.get() {
        end(&why.to_string())
    }
    // The subscriber may filter or buffer; this line must get out.
    eprintln!("kvorum: {why}");
    #[expect(clippy::disallowed_methods, reason = "this is the one way out")]
    std::process::abort()
}

/// From now on the end of the process is this function's to bring about, which is told why: a process that
/// simulates several nodes ends the one at hand, by a panic that it catches, say. It can be set once, before
/// any node starts; answers whether this was that once. No node sets it for itself.
pub fn end_by(end: fn(&str) -> !) -> bool {
    END.set(end).is_ok()
}
