//! The one way out when going on could lose data, or leads nowhere.

use std::fmt::Display;
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What ends a simulated node in the place of its process.
static END: OnceLock<fn(&str) -> !> = OnceLock::new();

/// So long the last line waits for whoever reads the standard error.
const LAST_WORDS_WAIT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A pipe takes a line of this many bytes whole, or is not ready for one (POSIX, `PIPE_BUF`).
const LAST_WORDS_MAX: usize = 4_096;

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
    last_words(format!("kvorum: {why}\n").as_bytes());
    #[expect(clippy::disallowed_methods, reason = "this is the one way out")]
    std::process::abort()
}

/// Writes a line to the standard error where somebody takes it. Who reads it may be gone, or stand still, and so may
/// another thread that holds Rust's lock of it: none of them keeps the process from its end.
fn last_words(line: &[u8]) {
    let stderr = rustix::stdio::stderr();
    let ready = poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&LAST_WORDS_WAIT));
    if ready == Ok(1) {
        // Nothing can be done about a standard error that is closed.
        let _ = rustix::io::write(stderr, &line[..line.len().min(LAST_WORDS_MAX)]);
    }
}

/// From now on the end of the process is this function's to bring about, which is told why: a process that
/// simulates several nodes ends the one at hand, by a panic that it catches, say. It can be set once, before
/// any node starts; answers whether this was that once. No node sets it for itself.
pub fn end_by(end: fn(&str) -> !) -> bool {
    END.set(end).is_ok()
}
