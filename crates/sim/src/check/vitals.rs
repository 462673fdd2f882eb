//! What is looked at every second: that queues keep their bounds, that a member which calls itself ready takes part,
//! and that a full disk is told of.

use kvorum_node::observer::Seen;

use crate::world::clock::{Micros, SECOND};

/// For so long a member may call itself ready while others apply and it does not.
const STUCK_MAX: Micros = 30 * SECOND;
/// The same for one to which nothing happens.
const STUCK_CALM_MAX: Micros = 15 * SECOND;
/// What a queue may take beyond its bound: the message, or the append, that went over it.
const OVER_MAX: u64 = 2 << 20;

/// What was seen of one member so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vitals {
    /// What it had applied when that last changed or it was not ready, and when that was.
    applied: u64,
    since: Micros,
}

impl Vitals {
    /// Another look. The member has been left alone since `calm_since`, and others have applied `furthest`.
    pub fn look(
        &mut self,
        now: Micros,
        seen: &Seen,
        calm_since: Micros,
        furthest: u64,
    ) -> Result<(), String> {
        for (what, bytes, bytes_max) in &seen.queues {
            // The log takes what comes while it is below its bound, whole; and a page of a scan gets room where nothing
            // else has any, though it may be larger than all there is. The others look before they take.
            let is_whole = what.starts_with("log") || *what == "send budget";
            let over = if is_whole { OVER_MAX } else { OVER_MAX.min(*bytes_max) };
            if *bytes > bytes_max + over {
                return Err(format!("its {what} takes {bytes} bytes, and may take {bytes_max}"));
            }
        }
        let applied = seen.positions.applied;
        if seen.ready.is_err() || applied != self.applied || applied >= furthest {
            *self = Vitals { applied, since: now };
            return Ok(());
        }
        let stuck = now - self.since;
        let is_calm = calm_since + STUCK_CALM_MAX <= now;
        if stuck > STUCK_MAX || (is_calm && stuck > STUCK_CALM_MAX) {
            return Err(format!(
                "it says that it is ready, has applied nothing after {applied} for {} s, and others have {furthest}",
                stuck / SECOND
            ));
        }
        Ok(())
    }
}
