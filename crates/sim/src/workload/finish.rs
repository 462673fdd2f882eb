//! The end of a run: everything is well again, and what was acknowledged must be there, the same on all members.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use kvorum_client::{Client, Error, KeyRange, KeyValue};
use tokio::time::{sleep, timeout};

use super::{HostNetwork, SPARE_KEYS, Session, client, counters, options};
use crate::world::trace::hash_bytes;

/// How long the cluster may take to take a write once all is well, and members to catch up.
const WRITE_MAX: Duration = Duration::from_secs(30);
const CATCH_UP_MAX: Duration = Duration::from_secs(60);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// Writes once more, when nobody else does any more: from there on watchers are complete.
pub async fn write_last(session: &Session, network: &HostNetwork) -> Result<(), Error> {
    while session.working.load(Ordering::Relaxed) > 0 {
        sleep(PAUSE).await;
    }
    let client = client(session, network)?;
    let write = async {
        loop {
            match client.set("end", "").await {
                Ok(answer) => return answer.header.revision,
                // Where nothing may grow something is deleted.
                Err(Error::NoSpace { .. }) => {
                    if let Some(revision) = delete_spare(&client).await {
                        return revision;
                    }
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    };
    match timeout(WRITE_MAX, write).await {
        Ok(revision) => session.last_revision.store(revision, Ordering::Relaxed),
        Err(_) => {
            session.violated(format!("no write was taken within {WRITE_MAX:?} after all was well again"))
        }
    }
    Ok(())
}

async fn delete_spare(client: &Client) -> Option<u64> {
    for number in 0..SPARE_KEYS {
        match client.delete(format!("spare/{number}")).await {
            Ok(answer) if answer.deleted > 0 => return Some(answer.header.revision),
            Ok(_) => {}
            Err(_) => sleep(PAUSE).await,
        }
    }
    None
}

/// Looks at what each member holds.
pub async fn look(session: &Session, network: &HostNetwork) -> Result<(), Error> {
    let revision = session.last_revision.load(Ordering::Relaxed);
    let mut first: Option<Vec<KeyValue>> = None;
    let there = (0..).zip(&session.endpoints).filter(|(host, _)| !session.orders.is_held_down(*host));
    for (_, endpoint) in there {
        let client = Client::builder([endpoint.clone()])
            .timeout(Duration::from_secs(5))
            .connect_options(options(network))
            .without_leader_search()
            .connect_lazy()?;
        let Ok(kvs) = timeout(CATCH_UP_MAX, hold(&client, revision)).await else {
            session.violated(format!("{endpoint} did not catch up within {CATCH_UP_MAX:?}"));
            return Ok(());
        };
        match &first {
            Some(first) if *first != kvs => session.violated(format!("{endpoint} holds other keys")),
            Some(_) => {}
            None => first = Some(kvs),
        }
    }
    let kvs = first.unwrap_or_default();
    let content = kvs.iter().fold(0, |hash, kv| hash ^ hash_bytes(&kv.value).wrapping_add(kv.mod_revision));
    session.trace.note("end", &[revision, kvs.len() as u64, content], &[]);
    check_inserts(session, &kvs);
    check_counters(session, &kvs);
    Ok(())
}

/// What a member holds at a revision, once it has it.
async fn hold(client: &Client, revision: u64) -> Vec<KeyValue> {
    loop {
        let scan = client.scan(KeyRange::all()).at_revision(revision).serializable().start();
        match scan.try_collect().await {
            Ok(kvs) => return kvs,
            Err(_) => sleep(PAUSE).await,
        }
    }
}

fn check_inserts(session: &Session, kvs: &[KeyValue]) {
    let held: BTreeMap<&[u8], u64> = kvs.iter().map(|kv| (kv.key.as_ref(), kv.mod_revision)).collect();
    let lost = session.told(|told| {
        let is_lost = |(key, revision): &(&String, &Option<u64>)| {
            revision.is_some() && held.get(key.as_bytes()).copied() != **revision
        };
        told.inserts.iter().find(is_lost).map(|(key, revision)| {
            format!("{key} was acknowledged at {revision:?}, and is at {:?}", held.get(key.as_bytes()))
        })
    });
    if let Some(lost) = lost {
        session.violated(lost);
    }
}

fn check_counters(session: &Session, kvs: &[KeyValue]) {
    for (number, count) in session.told(|told| told.counters.clone()) {
        let key = counters::key(number);
        let held = kvs.iter().find(|kv| kv.key == key).map(|kv| String::from_utf8_lossy(&kv.value).parse());
        if let Err(what) = counters::check(number, count, held.and_then(Result::ok).unwrap_or_default()) {
            session.violated(what);
        }
    }
}
