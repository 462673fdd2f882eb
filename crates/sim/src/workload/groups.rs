//! Groups of three keys that clients write together, in batches with conditions, and read at once by a scan.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use kvorum_client::{Client, Error, KeyRange};
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::Session;
use crate::model::{ABSENT, Action, GROUP_KEYS, Record, Values};
use crate::world::clock::{Micros, SECOND};
use crate::world::random::stream;

/// How long a group is used: it bounds the history that is searched.
const GENERATION: u64 = 15 * SECOND;
/// Between two operations of a client.
const PAUSE: Duration = Duration::from_millis(200);

struct Worker {
    session: Arc<Session>,
    client: Client,
    number: u32,
    random: StdRng,
    written: u64,
    /// Value and revision of each key of the group as they were seen last.
    seen: Option<(u32, [(u64, u64); GROUP_KEYS])>,
}

/// Works until told to stop.
pub async fn work(session: Arc<Session>, client: Client, number: u32) {
    let random = stream(session.seed, &format!("groups {number}"));
    let mut worker = Worker { session, client, number, random, written: 0, seen: None };
    while !worker.session.stops() {
        worker.session.rested().await;
        let group = (worker.session.clock.now() / GENERATION) as u32;
        match worker.random.random_range(0..3) {
            0 => worker.read(group).await,
            _ => worker.write(group).await,
        }
        let pause = worker.random.random_range(Duration::ZERO..=2 * PAUSE);
        sleep(pause).await;
    }
}

/// The keys of a moment's group but its last one: a range that ends before a key.
pub fn first_keys(now: Micros) -> KeyRange {
    let group = (now / GENERATION) as u32;
    KeyRange::between(key(group, 0), key(group, GROUP_KEYS - 1))
}

fn prefix(group: u32) -> String {
    format!("group/{group:06}/")
}

fn key(group: u32, number: usize) -> String {
    format!("{}{number}", prefix(group))
}

impl Worker {
    async fn read(&mut self, group: u32) {
        let called = self.session.clock.moment();
        let scan = self.client.scan(KeyRange::prefix(prefix(group))).start();
        let answer = scan.try_collect::<Vec<_>>().await;
        let returned = self.session.clock.moment();
        self.session.answered("read group", u64::from(group), &answer);
        let Ok(kvs) = answer else { return };
        let mut held = [(ABSENT, 0); GROUP_KEYS];
        for kv in kvs {
            let number = kv.key.last().map_or(0, |digit| usize::from(digit - b'0'));
            let value = String::from_utf8_lossy(&kv.value).parse().unwrap_or(u64::MAX);
            held[number.min(GROUP_KEYS - 1)] = (value, kv.mod_revision);
        }
        self.seen = Some((group, held));
        self.record(group, Action::Read(held.map(|(value, _)| value)), called, Some(returned));
    }

    /// A batch over some of the keys, on condition that some hold what was seen.
    async fn write(&mut self, group: u32) {
        let seen = self.seen.filter(|(known, _)| *known == group).map(|(_, held)| held);
        let (mut expected, mut written): (Values, Values) = Default::default();
        let mut batch = self.client.batch();
        for number in 0..GROUP_KEYS {
            let held = seen.map_or((ABSENT, 0), |held| held[number]);
            if seen.is_some() && self.random.random_range(0..3) == 0 {
                expected[number] = Some(held.0);
                batch = match held {
                    (ABSENT, _) => batch.if_absent(key(group, number)),
                    (_, revision) => batch.if_revision(key(group, number), revision),
                };
            }
            match self.random.random_range(0..6) {
                0..3 => {
                    let value = self.next_value();
                    written[number] = Some(value);
                    batch = batch.set(key(group, number), value.to_string());
                }
                3 => {
                    written[number] = Some(ABSENT);
                    batch = batch.delete(KeyRange::key(key(group, number)));
                }
                _ => {}
            }
        }
        if written.iter().all(Option::is_none) {
            return;
        }
        let called = self.session.clock.moment();
        let answer = batch.await;
        let returned = self.session.clock.moment();
        self.session.answered_write("batch", self.written, &answer);
        let action = Action::Batch { expected, written };
        match answer {
            Ok(answer) => {
                let revision = answer.header.revision;
                self.seen = seen.map(|mut held| {
                    for (held, written) in held.iter_mut().zip(written) {
                        *held = written.map_or(*held, |value| (value, revision));
                    }
                    (group, held)
                });
                self.record(group, action, called, Some(returned));
            }
            Err(Error::ConditionFailed { key, .. }) => {
                self.seen = None;
                let number = key.last().map_or(0, |digit| usize::from(digit - b'0'));
                self.record(group, Action::Refusal { expected, number }, called, Some(returned));
            }
            Err(Error::Unanswered { .. } | Error::NoCluster { .. } | Error::NoSpace { .. }) => {}
            Err(_) => {
                self.seen = None;
                self.record(group, action, called, None);
            }
        }
    }

    fn record(&self, group: u32, action: Action, called: Duration, returned: Option<Duration>) {
        let record = Record { client: self.number, group, action, called, returned };
        self.session.told(|told| told.groups.push(record));
    }

    fn next_value(&mut self) -> u64 {
        self.written += 1;
        (u64::from(self.number) + 1) << 32 | self.written
    }
}

/// The keys of a group are told apart by their last digit.
const _: () = assert!(GROUP_KEYS <= 10);
