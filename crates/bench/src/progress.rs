//! The progress bar, which is there on a terminal only.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::pace::End;

/// How often the run is looked at.
pub const TICK: Duration = Duration::from_millis(250);

/// Follows a run to its end.
pub struct Progress {
    bar: ProgressBar,
    end: End,
    start: Instant,
}

impl Progress {
    /// A bar from the start of a run to its end.
    pub fn new(end: End, start: Instant) -> Progress {
        let (length, template) = match end {
            End::After(total) => (total, "{wide_bar} {human_pos}/{human_len} {msg}"),
            End::At(end) => (millis(end - start), "{wide_bar} {elapsed} {msg}"),
        };
        // It draws nothing where standard error is no terminal.
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
        bar.set_style(
            ProgressStyle::with_template(template).expect("the templates are constants that parse"),
        );
        Progress { bar, end, start }
    }

    /// So many operations are done, so many failed.
    pub fn show(&self, ops: u64, errors: u64) {
        if self.bar.is_hidden() {
            return;
        }
        let elapsed = self.start.elapsed();
        let rate = ops as f64 / elapsed.as_secs_f64();
        let failed = if errors == 0 { String::new() } else { format!(", {errors} failed") };
        self.bar.set_message(format!("{rate:.0}/s{failed}"));
        self.bar.set_position(match self.end {
            End::After(_) => ops + errors,
            End::At(_) => millis(elapsed),
        });
    }

    /// The run is over.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
