//! Watchers of every key that come back after every disconnect, and must see each revision once.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use kvorum_client::{Client, EventKind, KeyRange};
use kvorum_proto::kv::v1 as wire;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::journal::{Change, FIRST_REVISION, Journal};
use crate::rpc::RawClient;
use crate::{Context as _, Failure, Result, ensure};

/// Before a raw watcher comes back.
const PAUSE: Duration = Duration::from_millis(50);

/// The revision after which a watcher is done; 0: not known yet.
pub type Target = watch::Receiver<u64>;

/// Watches one node through the raw API, from the first revision to the target, and comes back with the
/// revision it needs next.
pub async fn follow_raw(address: String, mut target: Target) -> Result<Journal> {
    let client = RawClient::new(&address)?;
    let mut journal = Journal::default();
    while !is_done(&journal, &mut target) {
        // A disconnect is what this is about; what matters is what is told after it.
        if let Ok(mut stream) = client.watch(journal.next()).await {
            let mut gathered = Gathered::default();
            loop {
                tokio::select! {
                    response = stream.message() => match response {
                        Ok(Some(response)) => gathered
                            .take(response, &mut journal)
                            .context(format!("a watch of {address}"))?,
                        Ok(None) | Err(_) => break,
                    },
                    changed = target.changed() => changed?,
                }
                if is_done(&journal, &mut target) {
                    return Ok(journal);
                }
            }
        }
        sleep(PAUSE).await;
    }
    Ok(journal)
}

fn is_done(journal: &Journal, target: &mut Target) -> bool {
    let target = *target.borrow_and_update();
    target != 0 && journal.next() > target
}

/// What a stream told of a revision that is not complete.
#[derive(Default)]
struct Gathered {
    revision: u64,
    events: Vec<wire::Event>,
}

impl Gathered {
    fn take(&mut self, response: wire::WatchResponse, journal: &mut Journal) -> Result<()> {
        let mark = response.header.map_or(0, |header| header.revision);
        for event in response.events {
            let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            if revision != self.revision {
                self.finish(journal)?;
                self.revision = revision;
            }
            self.events.push(event);
        }
        if response.fragment {
            ensure!(mark == self.revision, "a fragment of {} says that it is one of {mark}", self.revision);
            return Ok(());
        }
        self.finish(journal)?;
        ensure!(mark < journal.next(), "all up to {mark} is said to be sent; {} is not", journal.next());
        Ok(())
    }

    fn finish(&mut self, journal: &mut Journal) -> Result<()> {
        if self.events.is_empty() {
            return Ok(());
        }
        let events = std::mem::take(&mut self.events);
        let nothing = wire::KeyValue::default();
        journal.take(
            self.revision,
            events.iter().map(|event| {
                let kv = event.kv.as_ref().unwrap_or(&nothing);
                change(event.kind() == wire::event::Kind::Delete, &kv.key, &kv.value, kv.version)
            }),
        )
    }
}

/// Watches through our own client, from the first revision to the target. A cluster that is down is no
/// reason for it to end.
pub async fn follow_client(client: Client, mut target: Target) -> Result<Journal> {
    let mut journal = Journal::default();
    let watch = client.watch(KeyRange::all()).from_revision(FIRST_REVISION);
    let mut stream = watch.start().await.context("start the client's watch")?;
    while !is_done(&journal, &mut target) {
        let changes = tokio::select! {
            changes = stream.next() => changes.context("the client's watch ended")??,
            changed = target.changed() => {
                changed?;
                continue;
            }
        };
        ensure!(!changes.partial, "revision {} came in parts, though it is small", changes.revision);
        if !changes.events.is_empty() {
            let of_event = |event: &'_ kvorum_client::Event| event.kind == EventKind::Delete;
            journal
                .take(
                    changes.revision,
                    changes.events.iter().map(|event| {
                        let kv = &event.kv;
                        change(of_event(event), &kv.key, &kv.value, kv.version)
                    }),
                )
                .context("the client's watch")?;
        }
        ensure!(changes.revision < journal.next(), "the client's watch left out {}", journal.next());
    }
    Ok(journal)
}

fn change<'a>(deleted: bool, key: &'a Bytes, value: &'a Bytes, version: u64) -> Change<'a> {
    Change { deleted, key, value, version }
}

/// The journal of one node as it is now, up to a revision that it has.
pub async fn replay(address: &str, upto: u64, limit: Duration) -> Result<Journal> {
    let (target, changes) = watch::channel(upto);
    let replay = follow_raw(address.to_owned(), changes);
    let journal = timeout(limit, replay)
        .await
        .map_err(|_| Failure::new(format!("{address} did not replay up to {upto} within {limit:?}")))?;
    drop(target);
    journal
}
