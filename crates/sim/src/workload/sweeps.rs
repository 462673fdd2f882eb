//! Many keys that are written at once and deleted as a range: a range delete is carried out whole, or refused whole
//! where it would take too many keys.

use std::sync::Arc;
use std::time::Duration;

use kvorum_client::{Client, DeleteResponse, Error, KeyRange, KeyValue};
use rand::RngExt as _;
use tokio::time::sleep;

use super::Session;
use crate::world::random::stream;

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(700);
/// Keys of a round.
const KEYS_MAX: usize = 20;
/// The longest value.
const VALUE_BYTES_MAX: usize = 700;

/// Writes and deletes until told to stop.
pub async fn work(session: Arc<Session>, client: Client, number: u32) {
    let mut random = stream(session.seed, &format!("sweeps {number}"));
    for round in 0_u64.. {
        session.rested().await;
        if session.stops() {
            return;
        }
        sleep(random.random_range(Duration::ZERO..=2 * PAUSE)).await;
        let prefix = format!("sweep/{number:02}-{round:06}/");
        let keys = random.random_range(1..=KEYS_MAX);
        let value = "s".repeat(random.random_range(1..=VALUE_BYTES_MAX));
        let mut batch = client.batch();
        for key in 0..keys {
            batch = batch.set(format!("{prefix}{key:02}"), value.clone());
        }
        let written = batch.await;
        session.answered_write("sweep", round, &written);
        let before = if written.is_ok() { Some(keys as u64) } else { None };
        // Often at once: then the keys are still to be written when they are to be deleted.
        if random.random_range(0..3) == 0 {
            sleep(random.random_range(Duration::ZERO..=PAUSE)).await;
        }
        // Some first delete what lies before one of the keys.
        let middle = random.random_range(0..=2 * keys).min(keys);
        let (mut range, mut before) = (KeyRange::prefix(prefix.clone()), before);
        if middle < keys {
            (range, before) = (
                KeyRange::between(prefix.clone(), format!("{prefix}{middle:02}")),
                before.map(|_| middle as u64),
            );
        }
        let mut delete = client.delete_range(range);
        let asks = random.random_range(0..2) == 0;
        if asks {
            delete = delete.return_previous();
        }
        let answer = delete.await;
        session.answered_write("delete", round, &answer);
        match (answer, before) {
            (Ok(answer), Some(_)) if asks && !is_what_was(&answer, &prefix, &value) => {
                session.violated(format!(
                    "other keys are told than were deleted below {prefix}: {:?}",
                    answer.previous
                ));
            }
            (Ok(answer), Some(before)) if answer.deleted != before => {
                session.violated(format!("{} keys of {before} were deleted below {prefix}", answer.deleted));
            }
            (Err(Error::TooLarge { .. }), _) => {
                // In parts, then: a key at a time is never too large.
                for key in 0..keys {
                    let answer = client.delete(format!("{prefix}{key:02}")).await;
                    session.answered_write("delete", round, &answer);
                }
            }
            _ => {}
        }
        if middle < keys {
            let answer = client.delete_range(KeyRange::prefix(prefix.clone())).await;
            session.answered_write("delete", round, &answer);
        }
    }
}

/// Whether the deleted keys are told as they were: the first ones of the round, in order.
fn is_what_was(answer: &DeleteResponse, prefix: &str, value: &str) -> bool {
    let is_right = |(number, kv): (usize, &KeyValue)| {
        kv.key == format!("{prefix}{number:02}")
            && kv.value == *value
            && (kv.version, kv.deadline_ms) == (1, None)
    };
    answer.previous.len() as u64 == answer.deleted && answer.previous.iter().enumerate().all(is_right)
}
