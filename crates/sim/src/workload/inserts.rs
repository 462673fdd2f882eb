//! Keys that are written once: what was acknowledged is there at the end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use kvorum_client::{Client, Error};
use rand::RngExt as _;
use tokio::time::sleep;

use super::Session;
use crate::world::random::stream;

/// Between two inserts.
const PAUSE: Duration = Duration::from_millis(100);
/// Keys that are deleted where nothing may grow.
const FREED: usize = 20;
/// The longest value.
const VALUE_BYTES_MAX: usize = 2000;

/// Inserts until told to stop.
pub async fn work(session: Arc<Session>, client: Client, number: u32) {
    let mut random = stream(session.seed, &format!("inserts {number}"));
    let mut mine = VecDeque::new();
    for count in 0_u64.. {
        session.rested().await;
        if session.stops() {
            return;
        }
        let key = format!("insert/{number:02}-{count:08}");
        let value = "v".repeat(random.random_range(1..=VALUE_BYTES_MAX));
        let answer = client.set(key.clone(), value).if_absent().await;
        session.answered_write("insert", count, &answer);
        match answer {
            Ok(answer) => {
                mine.push_back(key.clone());
                session.told(|told| told.inserts.insert(key, Some(answer.header.revision)))
            }
            // The client repeats it where its outcome is unknown, and then meets what it wrote itself.
            Err(Error::OutcomeUnknown { .. } | Error::ConditionFailed { .. }) => {
                session.told(|told| told.inserts.insert(key, None))
            }
            Err(Error::NoSpace { .. }) => {
                make_room(&session, &client, &mut mine).await;
                None
            }
            Err(_) => None,
        };
        sleep(random.random_range(Duration::ZERO..=2 * PAUSE)).await;
    }
}

/// Deletes the oldest keys. They are not looked for any more.
async fn make_room(session: &Session, client: &Client, mine: &mut VecDeque<String>) {
    for key in mine.drain(..FREED.min(mine.len())).collect::<Vec<_>>() {
        session.told(|told| told.inserts.insert(key.clone(), None));
        let answer = client.delete(key).await;
        session.answered_write("delete", 0, &answer);
    }
}
