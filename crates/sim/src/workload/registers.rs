//! A few keys that clients read, write and conditionally write, so that they meet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kvorum_client::{Client, Error};
use kvorum_faults::linear::{ABSENT, Action, Record};
use kvorum_faults::timeline::{Kind, Mark};
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::Session;
use crate::world::clock::SECOND;
use crate::world::random::stream;

/// Registers in use at a time, and for how long: it bounds the history that is searched.
const REGISTERS: u32 = 3;
const GENERATION: u64 = 8 * SECOND;
/// Between two operations of a client.
const PAUSE: Duration = Duration::from_millis(150);

struct Worker {
    session: Arc<Session>,
    client: Client,
    number: u32,
    random: StdRng,
    written: u64,
    /// Value and revision of each register as it was seen last.
    seen: BTreeMap<u32, (u64, u64)>,
}

/// Works until told to stop.
pub async fn work(session: Arc<Session>, client: Client, number: u32) {
    let random = stream(session.seed, &format!("registers {number}"));
    let mut worker = Worker { session, client, number, random, written: 0, seen: BTreeMap::new() };
    while !worker.session.stops() {
        worker.session.rested().await;
        let generation = (worker.session.clock.now() / GENERATION) as u32;
        let register = generation * REGISTERS + worker.random.random_range(0..REGISTERS);
        worker.seen.retain(|known, _| register.abs_diff(*known) < REGISTERS);
        match (worker.random.random_range(0..10), worker.seen.get(&register).copied()) {
            (0..4, _) | (7..10, None) => worker.read(register).await,
            (7..10, Some((from, revision))) => worker.swap(register, from, revision).await,
            _ => worker.write(register).await,
        }
        let pause = worker.random.random_range(Duration::ZERO..=2 * PAUSE);
        sleep(pause).await;
    }
}

fn key(register: u32) -> String {
    format!("register/{register:08}")
}

impl Worker {
    async fn read(&mut self, register: u32) {
        let called = self.session.clock.moment();
        let answer = self.client.get(key(register)).await;
        let returned = self.session.clock.moment();
        self.session.answered("read", u64::from(register), &answer);
        // A read that failed proves nothing.
        let Ok(answer) = answer else { return };
        let (value, revision) = match &answer.kv {
            Some(kv) => (String::from_utf8_lossy(&kv.value).parse().unwrap_or(u64::MAX), kv.mod_revision),
            None => (ABSENT, 0),
        };
        self.seen.insert(register, (value, revision));
        self.record(register, Action::Read(value), called, Some(returned));
        let revision = answer.header.revision;
        self.session.told(|told| told.marks.push(Mark { called, returned, revision, kind: Kind::Read }));
    }

    async fn write(&mut self, register: u32) {
        let value = self.next_value();
        let called = self.session.clock.moment();
        let answer = self.client.set(key(register), value.to_string()).await;
        let answer = answer.map(|answer| answer.header.revision);
        self.take(register, Action::Write(value), value, called, answer);
    }

    async fn swap(&mut self, register: u32, from: u64, revision: u64) {
        let to = self.next_value();
        let set = self.client.set(key(register), to.to_string());
        let set = if from == ABSENT { set.if_absent() } else { set.if_revision(revision) };
        let called = self.session.clock.moment();
        let answer = set.await.map(|answer| answer.header.revision);
        self.take(register, Action::Swap { from, to }, to, called, answer);
    }

    fn take(
        &mut self,
        register: u32,
        action: Action,
        value: u64,
        called: Duration,
        answer: Result<u64, Error>,
    ) {
        let returned = self.session.clock.moment();
        self.session.answered_write("write", value, &answer);
        match answer {
            Ok(revision) => {
                self.seen.insert(register, (value, revision));
                self.record(register, action, called, Some(returned));
                let mark = Mark { called, returned, revision, kind: Kind::Write };
                self.session.told(|told| told.marks.push(mark));
            }
            Err(Error::ConditionFailed { .. }) => {
                self.seen.remove(&register);
                if let Action::Swap { from, .. } = action {
                    self.record(register, Action::Refusal(from), called, Some(returned));
                }
            }
            // It changed nothing.
            Err(Error::Unanswered { .. } | Error::NoCluster { .. } | Error::NoSpace { .. }) => {}
            Err(_) => {
                self.seen.remove(&register);
                self.record(register, action, called, None);
            }
        }
    }

    fn record(&self, register: u32, action: Action, called: Duration, returned: Option<Duration>) {
        let record = Record { client: self.number, register, action, called, returned };
        self.session.told(|told| told.records.push(record));
    }

    fn next_value(&mut self) -> u64 {
        self.written += 1;
        (u64::from(self.number) + 1) << 32 | self.written
    }
}
