//! Counters that clients raise by one, each on condition that nobody else has: none of them is raised twice or lost.

use std::sync::Arc;
use std::time::Duration;

use kvorum_client::{Client, Error};
use rand::RngExt as _;
use tokio::time::sleep;

use super::Session;
use crate::world::random::stream;

/// Counters.
const COUNTERS: u32 = 2;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(150);

/// What became of attempts to raise a counter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// They did.
    pub raised: u64,
    /// Nobody knows.
    pub unknown: u64,
}

/// The key of a counter.
pub fn key(number: u32) -> String {
    format!("counter/{number}")
}

/// Raises counters until told to stop.
pub async fn work(session: Arc<Session>, client: Client, number: u32) {
    let mut random = stream(session.seed, &format!("counters {number}"));
    while !session.stops() {
        session.rested().await;
        sleep(random.random_range(Duration::ZERO..=2 * PAUSE)).await;
        let counter = random.random_range(0..COUNTERS);
        let Ok(answer) = client.get(key(counter)).await else { continue };
        let now = answer
            .kv
            .as_ref()
            .and_then(|kv| String::from_utf8_lossy(&kv.value).parse().ok())
            .unwrap_or(0_u64);
        let set = client.set(key(counter), (now + 1).to_string());
        let set = match &answer.kv {
            Some(kv) => set.if_revision(kv.mod_revision),
            None => set.if_absent(),
        };
        let answer = set.await;
        session.answered_write("raise", now + 1, &answer);
        session.told(|told| {
            let count = told.counters.entry(counter).or_default();
            match answer {
                Ok(_) => count.raised += 1,
                Err(Error::OutcomeUnknown { .. }) => count.unknown += 1,
                // One that was set if absent, and repeated, meets what it wrote itself.
                Err(Error::ConditionFailed { .. }) if now == 0 => count.unknown += 1,
                Err(_) => {}
            }
        });
    }
}

/// Compares a counter at the end with what was answered.
pub fn check(number: u32, count: Count, held: u64) -> Result<(), String> {
    let Count { raised, unknown } = count;
    if (raised..=raised + unknown).contains(&held) {
        return Ok(());
    }
    Err(format!("{} was raised {raised} times, and perhaps {unknown} more, and is at {held}", key(number)))
}
