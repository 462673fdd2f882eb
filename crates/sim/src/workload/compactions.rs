//! Compaction under load: what is older than a revision goes, and nothing else. Once it is acknowledged nobody reads what
//! is older, and all that was there at its revision is still there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use kvorum_client::{Client, Error, KeyRange};
use rand::RngExt as _;
use tokio::time::sleep;

use super::Session;
use super::history::{Read, Row};
use crate::world::random::stream;

/// Between two compactions.
const PAUSE: Duration = Duration::from_secs(4);
/// So many revisions before what the slowest watcher has seen stay.
const KEPT: u64 = 50;
/// How far the next revision is from one that is beyond all that is written.
const AHEAD: u64 = 1 << 32;

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
        if answer.is_ok() {
            ahead(&session, &client, newest).await;
            look(&session, &client, revision).await;
        }
    }
}

/// Asks for the compaction of what is yet to come.
async fn ahead(session: &Session, client: &Client, newest: u64) {
    let answer = client.compact(newest + AHEAD).await;
    session.answered("ahead", newest, &answer);
    if answer.is_ok() && !session.has_new_history() {
        session.violated(format!("what comes after revision {newest} is compacted before it is there"));
    }
}

/// Reads what was just compacted, and the first revision that is left.
async fn look(session: &Session, client: &Client, compacted: u64) {
    let older = client.scan(KeyRange::all()).at_revision(compacted - 1).limit(1).start();
    let answer = older.try_collect::<Vec<_>>().await;
    session.answered("older", compacted, &answer);
    if answer.is_ok() && !session.has_new_history() {
        session
            .violated(format!("revision {} is read after the compaction up to {compacted}", compacted - 1));
    }
    let answer = client.scan(KeyRange::all()).at_revision(compacted).start().try_collect::<Vec<_>>().await;
    session.answered("left", compacted, &answer);
    match answer {
        Ok(kvs) => {
            let rows = kvs.into_iter().map(Row::of).collect();
            let (range, limit) = (KeyRange::all(), usize::MAX);
            let read = Read { what: "scan", revision: compacted, range, limit, reverse: false, rows };
            session.told(|told| told.reads.push(read));
        }
        Err(Error::Compacted { message, .. }) if !session.has_new_history() => {
            session.violated(format!("revision {compacted} is gone with the compaction up to it: {message}"));
        }
        Err(_) => {}
    }
}
