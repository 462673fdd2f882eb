//! The PodMonitor comes last: nothing waits for it, and where it cannot be had the condition says so.

use super::{Decided, safe};
use crate::observed::{Monitor, Observed};
use crate::step::Step;

/// Makes it what the spec says.
pub fn next(observed: &Observed) -> Decided {
    match &observed.monitor {
        Monitor::AsWanted | Monitor::Impossible(_) => None,
        Monitor::Differs => safe(Step::ApplyMonitor, "The spec says so: metrics.podMonitor is true."),
        Monitor::Unwanted(version) => safe(
            Step::DeleteMonitor { version: version.clone() },
            "The spec says so: metrics.podMonitor is false.",
        ),
    }
}
