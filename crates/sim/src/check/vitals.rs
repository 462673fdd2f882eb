//! What is looked at every second: that queues keep their bounds, that a member which calls itself ready takes part,
//! and that a full disk is told of.

use kvorum_node::observer::Seen;

use crate::world::clock::{Micros, SECOND};

/// For so long a member may call itself ready while others apply and it does not.
const STUCK_MAX: Micros = 30 * SECOND;
/// The same for one to which nothing happens.
const STUCK_CALM_MAX: Micros = 15 * SECOND;
/// What the log takes beyond its bound: it takes whole what comes while it is below it, and one append carries up to
/// 1 MiB (`node::limits`), or a single larger entry; of those that clients write here none is.
const APPEND_BYTES_MAX: u64 = 1 << 20;
/// Who has to send something, while nobody else has, gets room for it however little there is in all: a page of a scan,
/// with the largest record and what a request is wrapped in, is the largest (`node::api::kv::scan`).
const PAGE_ROOM_BYTES: u64 = 2304 << 10;
/// Messages that take no room of their own, of some hundred calls at a time.
const SMALL_MESSAGES_BYTES: u64 = 400 << 10;

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
            if *bytes > may_take(what, *bytes_max) {
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

/// How much a queue of this name and bound holds at most.
fn may_take(what: &str, bytes_max: u64) -> u64 {
    match what {
        "log queue" | "log cache" => bytes_max + APPEND_BYTES_MAX,
        "send budget" => bytes_max.max(PAGE_ROOM_BYTES) + SMALL_MESSAGES_BYTES,
        _ => bytes_max,
    }
}
