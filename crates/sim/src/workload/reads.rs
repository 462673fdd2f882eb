//! Reads that are compared with the history at the end: scans in pages, at old revisions, from both ends, which read one
//! revision whatever is written meanwhile and however often the connection breaks off; and reads of what one member holds,
//! which may be old and never go back. Some of those ask for the newest, and are not to be old.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use kvorum_client::{Client, Error, KeyRange, KeyValue, ScanStream};
use kvorum_faults::timeline::{Kind, Mark};
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use tokio::time::sleep;

use super::history::{Read, Row};
use super::{HostNetwork, Session, options};
use crate::world::random::stream;

/// Between two scans.
const SCAN_PAUSE: Duration = Duration::from_millis(600);
/// Between two looks at one member.
const LOOK_PAUSE: Duration = Duration::from_millis(60);
/// How far a scan goes back.
const BACK_MAX: u64 = 300;
/// What is scanned.
const PREFIXES: [&str; 5] = ["register/", "group/", "counter/", "sweep/", ""];
/// Keys of a scan at most, so many times as many in half of them, which takes more than one small page; and one of so
/// many scans takes all that there are.
const LIMIT_MAX: usize = 40;
const TIMES: usize = 8;
const ALL: u32 = 3;
/// One scan of so many is made by connections that break off.
const BREAKING: u32 = 2;
/// One of so many rests in its midst, for so long.
const RESTING: u32 = 4;
const REST_MAX: Duration = Duration::from_millis(800);

/// Scans until told to stop.
pub async fn scan(session: Arc<Session>, steady: Client, breaking: Client, number: u32) {
    let mut random = stream(session.seed, &format!("scans {number}"));
    let mut newest = 1;
    let mut known: Vec<Bytes> = Vec::new();
    while !session.stops() {
        sleep(random.random_range(Duration::ZERO..=2 * SCAN_PAUSE)).await;
        let prefix = PREFIXES.choose(&mut random).copied().unwrap_or_default();
        let is_bounded = random.random_range(0..3) == 0;
        let range = match (known.choose(&mut random), known.choose(&mut random)) {
            // It ends before a key that was there.
            (Some(first), Some(last)) if is_bounded && first < last => {
                KeyRange::between(first.clone(), last.clone())
            }
            _ => KeyRange::prefix(prefix),
        };
        let times = if random.random_range(0..2) == 0 { TIMES } else { 1 };
        let (limit, reverse) = (times * random.random_range(1..=LIMIT_MAX), random.random_range(0..2) == 0);
        let client = if random.random_range(0..BREAKING) == 0 { &breaking } else { &steady };
        let takes_all = random.random_range(0..ALL) == 0;
        let (range, limit) = if takes_all { (KeyRange::all(), usize::MAX) } else { (range, limit) };
        let mut scan = client.scan(range.clone());
        if !takes_all {
            scan = scan.limit(limit as u64);
        }
        let at = newest - random.random_range(0..BACK_MAX.min(newest));
        // The compacted revision is the first that there is.
        let compacted = session.compacted.load(Ordering::Relaxed);
        let at = if random.random_range(0..4) == 0 && compacted <= newest { compacted } else { at };
        let is_past = random.random_range(0..2) == 0;
        if is_past {
            scan = scan.at_revision(at);
        }
        if reverse {
            scan = scan.reverse();
        }
        if random.random_range(0..3) == 0 {
            scan = scan.serializable();
        }
        let mut scan = scan.start();
        let rests = random.random_range(0..RESTING) == 0;
        let rests = rests
            .then(|| (random.random_range(0..LIMIT_MAX), random.random_range(Duration::ZERO..=REST_MAX)));
        let answer = take(&session, &mut scan, rests).await;
        session.answered("scan", at, &answer);
        match (answer, scan.revision()) {
            (Ok(kvs), Some(revision)) => {
                newest = newest.max(revision);
                let rows: Vec<_> = kvs.into_iter().map(Row::of).collect();
                known = rows.iter().map(|(key, _)| key.clone()).collect();
                let read = Read { what: "scan", revision, range, limit, reverse, rows };
                session.told(|told| told.reads.push(read));
            }
            (Err(Error::Compacted { message, .. }), Some(at))
                if at > session.compacted.load(Ordering::Relaxed) =>
            {
                session.violated(format!("a scan at revision {at}, which nobody has compacted: {message}"));
            }
            _ => {}
        }
    }
}

/// Takes what a scan answers, with a rest before a key of some number. It reads one revision from its first answer on.
async fn take(
    session: &Session,
    scan: &mut ScanStream,
    rests: Option<(usize, Duration)>,
) -> Result<Vec<KeyValue>, Error> {
    let (mut kvs, mut pinned) = (Vec::new(), None);
    loop {
        if let Some((_, rest)) = rests.filter(|(number, _)| *number == kvs.len()) {
            sleep(rest).await;
        }
        let kv = scan.try_next().await?;
        let revision = scan.revision();
        let first = *pinned.get_or_insert(revision);
        if first != revision {
            session.violated(format!(
                "a scan went from revision {first:?} to {revision:?} after {} keys",
                kvs.len()
            ));
        }
        match kv {
            Some(kv) => kvs.push(kv),
            None => return Ok(kvs),
        }
    }
}

/// Asks one member for what it holds until told to stop.
pub async fn look(session: Arc<Session>, network: HostNetwork, endpoint: String, number: u32) {
    let mut random = stream(session.seed, &format!("looks {number}"));
    let mut revisions: BTreeMap<u64, u64> = BTreeMap::new();
    let client = Client::builder([endpoint.clone()]).timeout(Duration::from_secs(2));
    let client = client.connect_options(options(&network)).without_leader_search().connect_lazy();
    let Ok(client) = client else { return };
    while !session.stops() {
        sleep(random.random_range(Duration::ZERO..=2 * LOOK_PAUSE)).await;
        let counter = super::counters::key(0);
        // Some ask for the newest, of a member that may be alone, and not know it.
        let is_newest = random.random_range(0..3) == 0;
        let called = session.clock.moment();
        let get = client.get(counter.clone());
        let answer = if is_newest { get.await } else { get.serializable().await };
        session.answered("look", number.into(), &answer);
        let Ok(answer) = answer else { continue };
        if is_newest {
            let (returned, revision) = (session.clock.moment(), answer.header.revision);
            session.told(|told| told.marks.push(Mark { called, returned, revision, kind: Kind::Read }));
        }
        let (node, revision) = (answer.header.node_id, answer.header.revision);
        let known = revisions.entry(node).or_default();
        if *known > revision {
            let what =
                format!("node {node:016x} at {endpoint} answered at revision {revision} after {known}");
            session.violated(what);
            return;
        }
        *known = revision;
        let rows = answer.kv.map(Row::of).into_iter().collect();
        let read =
            Read { what: "look", revision, range: KeyRange::key(counter), limit: 1, reverse: false, rows };
        session.told(|told| told.reads.push(read));
    }
}
