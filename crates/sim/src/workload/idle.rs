//! Clients that ask for much and read nothing of it: what waits for them has a bound, and nobody else notices.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use kvorum_client::{Client, KeyRange};
use rand::RngExt as _;
use tokio::time::{sleep, timeout};

use super::Session;
use crate::world::random::stream;

/// Scans of a client at a time.
const SCANS: usize = 8;
/// For how long it does not read.
const IDLE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(20));
/// How long the first key may take.
const FIRST_MAX: Duration = Duration::from_secs(3);

/// Is idle until told to stop.
pub async fn work(session: Arc<Session>, client: Client, number: u32) {
    let mut random = stream(session.seed, &format!("idle {number}"));
    while !session.stops() {
        session.rested().await;
        let mut scans = Vec::new();
        for _ in 0..SCANS {
            let mut scan = client.scan(KeyRange::all()).serializable().start();
            let first = timeout(FIRST_MAX, scan.try_next()).await;
            session.trace.note("idle", &[u64::from(matches!(first, Ok(Ok(_))))], &[]);
            scans.push(scan);
        }
        let until = session.clock.moment() + random.random_range(IDLE.0..=IDLE.1);
        while session.clock.moment() < until && !session.stops() {
            sleep(Duration::from_millis(100)).await;
        }
        drop(scans);
    }
}
