//! Keys that are written once: what was acknowledged is there at the end. Some clients write many at once, so that a
//! leader that nobody hears has many entries that are not committed, and what is sent is large.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
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

/// Within this those begin that are under way at the same time.
const SPREAD: Duration = Duration::from_millis(30);
/// How many are under way at the same time, of a client that writes one after the other, and of one that writes many.
pub const ONE: RangeInclusive<u32> = 1..=1;
/// See [`ONE`].
pub const MANY: RangeInclusive<u32> = 2..=24;

/// Inserts until told to stop, so many at a time.
pub async fn work(session: Arc<Session>, client: Client, number: u32, at_a_time: RangeInclusive<u32>) {
    let mut random = stream(session.seed, &format!("inserts {number}"));
    let mut mine = VecDeque::new();
    let mut count = 0_u64;
    loop {
        session.rested().await;
        if session.stops() {
            return;
        }
        let many = random.random_range(at_a_time.clone());
        let spread = SPREAD * (many - 1) / many;
        let inserts = (0..many).map(|_| {
            count += 1;
            let key = format!("insert/{number:02}-{count:08}");
            let value = "v".repeat(random.random_range(1..=VALUE_BYTES_MAX));
            insert(&session, &client, count, key, value, random.random_range(Duration::ZERO..=spread))
        });
        let outcomes = join_all(inserts.collect::<Vec<_>>()).await;
        let is_full = outcomes.iter().any(|outcome| matches!(outcome, Outcome::NoSpace));
        mine.extend(outcomes.into_iter().filter_map(Outcome::inserted));
        if is_full {
            make_room(&session, &client, &mut mine).await;
        }
        sleep(random.random_range(Duration::ZERO..=2 * PAUSE * many)).await;
    }
}

/// What became of an insert.
enum Outcome {
    Inserted(String),
    NoSpace,
    Failed,
}

impl Outcome {
    fn inserted(self) -> Option<String> {
        match self {
            Outcome::Inserted(key) => Some(key),
            Outcome::NoSpace | Outcome::Failed => None,
        }
    }
}

async fn insert(
    session: &Session,
    client: &Client,
    count: u64,
    key: String,
    value: String,
    waits: Duration,
) -> Outcome {
    sleep(waits).await;
    let answer = client.set(key.clone(), value).if_absent().await;
    session.answered_write("insert", count, &answer);
    match answer {
        Ok(answer) => {
            session.told(|told| told.inserts.insert(key.clone(), Some(answer.header.revision)));
            Outcome::Inserted(key)
        }
        // The client repeats it where its outcome is unknown, and then meets what it wrote itself.
        Err(Error::OutcomeUnknown { .. } | Error::ConditionFailed { .. }) => {
            session.told(|told| told.inserts.insert(key, None));
            Outcome::Failed
        }
        Err(Error::NoSpace { .. }) => Outcome::NoSpace,
        Err(_) => Outcome::Failed,
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
