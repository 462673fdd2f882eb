//! Compaction under load: what is older than a revision goes, and nothing else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kvorum_client::Client;
use rand::RngExt as _;
use tokio::time::sleep;

use super::Session;
use crate::world::random::stream;

/// Between two compactions.
const PAUSE: Duration = Duration::from_secs(4);
/// So many revisions before what the slowest watcher has seen stay.
const KEPT: u64 = 50;

/// Compacts until told to stop.
pub async fn work(session: Arc<Session>, client: Client) {
    let mut random = stream(session.seed, "compactions");
    while !session.stops() {
        session.rested().await;
        sleep(random.random_range(Duration::ZERO..=2 * PAUSE)).await;
        let known = session.compacted.load(Ordering::Relaxed);
        let seen = session.watched.iter().map(|seen| seen.load(Ordering::Relaxed)).min().unwrap_or_default();
        let newest = seen.saturating_sub(KEPT);
        if newest <= known {
            continue;
        }
        let revision = random.random_range(known + 1..=newest);
        session.compacted.store(revision, Ordering::Relaxed);
        let answer = client.compact(revision).await;
        session.answered_write("compact", revision, &answer);
    }
}
