//! Watchers of all keys from the first revision on: they see every revision once, in order, and all the same. And
//! watchers that come and go, which see what those see of the revisions that they ask for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use kvorum_client::{Changes, Client, Error, Event, EventKind, KeyRange, WatchStream};
use kvorum_faults::journal::{Change, FIRST_REVISION, Journal};
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Session, groups};
use crate::world::random::stream;
use crate::world::trace::hash_bytes;

/// Between two looks whether the last revision is known.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a watcher stays that comes and goes.
const STAYS_MAX: Duration = Duration::from_secs(6);
/// How far it goes back.
const BACK_MAX: u64 = 400;
/// What it watches.
const PREFIXES: [&str; 6] = ["register/", "group/", "sweep/", "insert/", "ttl/", ""];
/// One visit of so many begins at the compacted revision, the first that there is.
const AT_COMPACTED: u32 = 4;
/// One of so many ends before a key that there is.
const BOUNDED: u32 = 3;
/// One of so many has connections that break off, in the midst of a revision too.
const BREAKING: u32 = 2;

/// What a watcher that came and went was told: of revisions from one on, up to and with another one.
#[derive(Clone, Debug)]
pub struct Visit {
    range: KeyRange,
    from: u64,
    upto: u64,
    seen: BTreeMap<u64, u64>,
}

/// Revisions with events, and a fingerprint of each.
pub type Prints = BTreeMap<u64, Vec<(Vec<u8>, u64)>>;

/// Follows until the last revision, as the watcher of this number.
pub async fn follow(session: Arc<Session>, client: Client, number: usize) -> Journal {
    let mut journal = Journal::default();
    let asks_previous = stream(session.seed, &format!("previous {number}")).random_range(0..2) == 0;
    let Some(mut changes) = start(&session, &client, asks_previous).await else { return journal };
    loop {
        let last = session.last_revision.load(Ordering::Relaxed);
        if last != 0 && journal.next() > last {
            // A key whose TTL ends later is another revision, which one watcher is told of in time and the other is not.
            journal.end_with(last);
            return journal;
        }
        match timeout(PAUSE, changes.next()).await {
            Ok(Some(Ok(Changes { events, .. }))) if events.is_empty() => {}
            Ok(Some(Ok(changed))) => {
                let taken = journal.take(changed.revision, changed.events.iter().map(change));
                let known = match number {
                    0 => {
                        let compacted = session.compacted.load(Ordering::Relaxed);
                        session.told(|told| told.take(&changed, asks_previous, compacted))
                    }
                    _ => Ok(()),
                };
                if let Err(failure) = taken.map_err(|failure| failure.to_string()).and(known) {
                    if !session.has_new_history() {
                        session.violated(format!("watcher {number}: {failure}"));
                    }
                    return journal;
                }
                session.watched[number].store(changed.revision, Ordering::Relaxed);
            }
            Ok(Some(Err(error))) => {
                if !session.has_new_history() {
                    session.violated(format!("watch {number} ended: {error}"));
                }
                return journal;
            }
            Ok(None) => return journal,
            Err(_) if session.has_new_history() => return journal,
            Err(_) => {}
        }
    }
}

async fn start(session: &Session, client: &Client, asks_previous: bool) -> Option<WatchStream> {
    while !session.stops() {
        let watch = client.watch(KeyRange::all()).from_revision(FIRST_REVISION);
        let watch = if asks_previous { watch.with_previous() } else { watch };
        match watch.start().await {
            Ok(started) => return Some(started),
            // There may be no leader yet.
            Err(_) => sleep(PAUSE).await,
        }
    }
    None
}

/// Comes and goes until told to stop.
pub async fn visit(session: Arc<Session>, steady: Client, breaking: Client, number: u32) {
    let mut random = stream(session.seed, &format!("visits {number}"));
    while !session.stops() {
        sleep(random.random_range(Duration::ZERO..=4 * PAUSE)).await;
        let newest = session.watched[0].load(Ordering::Relaxed);
        let back = random.random_range(0..=BACK_MAX);
        let from = newest.saturating_sub(back).max(FIRST_REVISION);
        let compacted = session.compacted.load(Ordering::Relaxed);
        let at_compacted = random.random_range(0..AT_COMPACTED) == 0 && compacted >= FIRST_REVISION;
        let from = if at_compacted { compacted.min(newest) } else { from };
        let range = match random.random_range(0..BOUNDED) {
            0 => groups::first_keys(session.clock.now()),
            _ => KeyRange::prefix(PREFIXES.choose(&mut random).copied().unwrap_or_default()),
        };
        let until = Instant::now() + random.random_range(Duration::ZERO..=STAYS_MAX);
        let client = if random.random_range(0..BREAKING) == 0 { &breaking } else { &steady };
        let watch = client.watch(range.clone()).from_revision(from);
        let mut visit = Visit { range, from, upto: from.saturating_sub(1), seen: BTreeMap::new() };
        let seen = match watch.start().await {
            Ok(mut changes) => stay(&mut changes, until, &mut visit).await,
            Err(error) => Err(error),
        };
        session.answered("visit", from, &seen);
        match seen {
            Err(Error::Compacted { message, .. }) if from > session.compacted.load(Ordering::Relaxed) => {
                if !session.has_new_history() {
                    session.violated(format!(
                        "a watch from revision {from}, which nobody has compacted: {message}"
                    ));
                }
                return;
            }
            _ => session.told(|told| told.visits.push(visit)),
        }
    }
}

async fn stay(changes: &mut WatchStream, until: Instant, visit: &mut Visit) -> Result<(), Error> {
    while let Ok(Some(changed)) = timeout_at(until, changes.next()).await {
        let Changes { revision, events, partial, .. } = changed?;
        for event in &events {
            let print = visit.seen.entry(revision).or_default();
            *print = print.wrapping_mul(31).wrapping_add(fingerprint(event));
        }
        visit.upto = if partial { revision - 1 } else { revision };
    }
    Ok(())
}

/// What stands for an event.
pub fn fingerprint(event: &Event) -> u64 {
    let Change { deleted, key, value, version } = change(event);
    hash_bytes(key).wrapping_add(hash_bytes(value).rotate_left(7)) ^ (version << 1 | u64::from(deleted))
}

impl Visit {
    /// Compares with what the watchers of all keys have seen, up to a revision.
    pub fn check(&self, prints: &Prints, last: u64) -> Result<(), String> {
        let upto = self.upto.min(last);
        if upto < self.from {
            return Ok(());
        }
        let of_range = |(revision, events): (&u64, &Vec<(Vec<u8>, u64)>)| {
            let in_range = events.iter().filter(|(key, _)| self.range.contains(key));
            let print = |print: u64, (_, event): &(Vec<u8>, u64)| print.wrapping_mul(31).wrapping_add(*event);
            in_range.clone().next().map(|_| (*revision, in_range.fold(0, print)))
        };
        let wanted: BTreeMap<u64, u64> = prints.range(self.from..=upto).filter_map(of_range).collect();
        let seen: BTreeMap<u64, u64> = self.seen.range(..=upto).map(|(at, print)| (*at, *print)).collect();
        if wanted == seen {
            return Ok(());
        }
        let differs = wanted.iter().find(|(at, print)| seen.get(at) != Some(print)).map(|(at, _)| *at);
        let Visit { range, from, .. } = self;
        Err(format!(
            "a watch of {range:?} from revision {from} was told of {} revisions up to {upto}, not of the {} that there \
             are: revision {differs:?}",
            seen.len(),
            wanted.len()
        ))
    }
}

/// A change as the journal has it.
fn change(event: &Event) -> Change<'_> {
    let kv = &event.kv;
    Change { deleted: event.kind != EventKind::Put, key: &kv.key, value: &kv.value, version: kv.version }
}
