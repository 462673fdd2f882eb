//! Watchers of all keys from the first revision on: they see every revision once, in order, and all the same.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use kvorum_client::{Changes, Client, Event, EventKind, KeyRange};
use kvorum_faults::journal::{Change, FIRST_REVISION, Journal};
use tokio::time::{sleep, timeout};

use super::Session;

/// Between two looks whether the last revision is known.
const PAUSE: Duration = Duration::from_millis(100);

/// Follows until the last revision.
pub async fn follow(session: Arc<Session>, client: Client) -> Journal {
    let mut journal = Journal::default();
    let started = loop {
        match client.watch(KeyRange::all()).from_revision(FIRST_REVISION).start().await {
            Ok(started) => break started,
            // There may be no leader yet.
            Err(_) => sleep(PAUSE).await,
        }
    };
    let mut changes = started;
    loop {
        let last = session.last_revision.load(Ordering::Relaxed);
        if last != 0 && journal.next() > last {
            return journal;
        }
        match timeout(PAUSE, changes.next()).await {
            Ok(Some(Ok(Changes { events, .. }))) if events.is_empty() => {}
            Ok(Some(Ok(Changes { revision, events, .. }))) => {
                if let Err(failure) = journal.take(revision, events.iter().map(change)) {
                    session.violated(format!("a watcher: {failure}"));
                    return journal;
                }
            }
            Ok(Some(Err(error))) => {
                session.violated(format!("a watch ended: {error}"));
                return journal;
            }
            Ok(None) => return journal,
            Err(_) => {}
        }
    }
}

/// A change as the journal has it.
fn change(event: &Event) -> Change<'_> {
    let kv = &event.kv;
    Change { deleted: event.kind != EventKind::Put, key: &kv.key, value: &kv.value, version: kv.version }
}
