//! The standard output as where lines go.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::Sink;

/// Lines that wait for whoever reads them. What comes then is counted, and lost.
pub const LINES_WAITING_MAX: usize = 10_000;

/// Lines go to the standard output by a thread of their own: who reads it may be slow, or gone, and nobody else waits
/// for that.
pub struct StandardOutput {
    lines: NonBlocking,
    unwritten: Arc<AtomicU64>,
}

impl StandardOutput {
    /// What still waits is written when the guard goes, within a second.
    pub fn open() -> (StandardOutput, WorkerGuard) {
        StandardOutput::on(io::stdout())
    }

    /// On another output.
    pub fn on(output: impl Write + Send + 'static) -> (StandardOutput, WorkerGuard) {
        let unwritten = Arc::new(AtomicU64::new(0));
        let (lines, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(LINES_WAITING_MAX)
            .thread_name("audit-lines")
            .finish(Counting { output, unwritten: unwritten.clone() });
        (StandardOutput { lines, unwritten }, guard)
    }
}

impl Sink for StandardOutput {
    fn line(&self, line: &[u8]) {
        // It takes all of it or counts it as dropped, and never fails.
        let _ = self.lines.clone().write_all(line);
    }

    fn lost(&self) -> u64 {
        self.lines.error_counter().dropped_lines() as u64 + self.unwritten.load(Ordering::Relaxed)
    }
}

/// Counts what could not be written, to an output that is closed, say.
struct Counting<W> {
    output: W,
    unwritten: Arc<AtomicU64>,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_all(line).map(|()| line.len())
    }

    /// All lines come this way.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        if self.output.write_all(line).is_err() {
            self.unwritten.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        // What could not be flushed was counted when it was written: each line ends in what makes the output flush.
        let _ = self.output.flush();
        Ok(())
    }
}
