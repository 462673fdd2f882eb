//! The register workload: clients that read, write and conditionally write the same few keys, each
//! through the raw API, and record what they were told.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kvorum_proto::kv::v1 as wire;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tonic::Status;

use crate::linear::{ABSENT, Action, Record};
use crate::outcome::{Unacknowledged, judge};
use crate::rpc::{Consistency, Expect, RawClient};
use crate::timeline::{Kind, Mark};
use crate::{Context as _, Failure, Result};

/// Registers in use at a time: few, so that clients meet.
const REGISTERS: u32 = 3;
/// Between two operations of a client. It bounds the history that has to be searched.
const PAUSE: Duration = Duration::from_millis(8);
/// After a failed operation, so that a node that is down is not asked all the time, and fewer outcomes
/// are unknown: each of them multiplies the orders that have to be searched.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);

/// Which registers are in use. A new generation now and then keeps each history short enough to be
/// searched, however long the run.
#[derive(Clone, Debug, Default)]
pub struct Generation(Arc<AtomicU32>);

impl Generation {
    /// Leaves the present registers behind.
    pub fn advance(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One of the registers in use.
    pub fn pick(&self, rng: &mut StdRng) -> u32 {
        self.0.load(Ordering::Relaxed) * REGISTERS + rng.random_range(0..REGISTERS)
    }
}

/// Under this prefix are the registers.
pub const PREFIX: &str = "register/";

/// The key of a register.
pub fn key(register: u32) -> Bytes {
    format!("{PREFIX}{register:08}").into()
}

/// What a client recorded.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// For [`crate::linear::check`].
    pub records: Vec<Record>,
    /// For [`crate::timeline::check`].
    pub marks: Vec<Mark>,
}

/// What all these clients recorded, once they have ended.
pub async fn gather(clients: Vec<JoinHandle<Result<History>>>) -> Result<History> {
    let mut history = History::default();
    for client in clients {
        let of_client = client.await??;
        history.records.extend(of_client.records);
        history.marks.extend(of_client.marks);
    }
    Ok(history)
}

/// A client of the registers.
pub struct Worker {
    client: u32,
    nodes: Vec<RawClient>,
    /// The node in use; another one after a failure.
    node: usize,
    rng: StdRng,
    /// How many values it wrote, which makes each of them unique.
    written: u64,
    /// What it knows of the register it saw last, for conditional writes: its value and revision.
    seen: HashMap<u32, (u64, u64)>,
    epoch: Instant,
    history: History,
}

impl Worker {
    /// A client with a number of its own; it begins at one node and moves on when that fails. Times are
    /// counted from `epoch`.
    pub fn new(client: u32, endpoints: &[String], seed: u64, epoch: Instant) -> Result<Worker> {
        Ok(Worker::by(client, RawClient::of_each(endpoints)?, seed, epoch))
    }

    /// The same over clients of the caller's, one of each node.
    pub fn by(client: u32, nodes: Vec<RawClient>, seed: u64, epoch: Instant) -> Worker {
        Worker {
            client,
            node: client as usize % nodes.len(),
            nodes,
            rng: StdRng::seed_from_u64(seed ^ u64::from(client)),
            written: 0,
            seen: HashMap::new(),
            epoch,
            history: History::default(),
        }
    }

    /// Works until told to stop. It fails when an answer makes no sense.
    pub async fn run(mut self, generation: Generation, mut stop: watch::Receiver<bool>) -> Result<History> {
        while !*stop.borrow_and_update() {
            let register = generation.pick(&mut self.rng);
            self.seen.retain(|known, _| register.abs_diff(*known) < REGISTERS);
            let answered = match (self.rng.random_range(0..10), self.seen.get(&register).copied()) {
                (0..4, _) | (7..10, None) => self.read(register).await?,
                (7..10, Some((from, revision))) => self.swap(register, from, revision).await,
                _ => self.write(register).await,
            };
            if !answered {
                self.node = (self.node + 1) % self.nodes.len();
                sleep(FAILURE_PAUSE).await;
            }
            sleep(PAUSE).await;
        }
        Ok(self.history)
    }

    async fn read(&mut self, register: u32) -> Result<bool> {
        let called = self.epoch.elapsed();
        // A read that failed proves nothing.
        let Ok(answer) = self.nodes[self.node].get(key(register), Consistency::Linearizable).await else {
            return Ok(false);
        };
        let returned = self.epoch.elapsed();
        let (value, mod_revision) = content(&answer)?;
        self.seen.insert(register, (value, mod_revision));
        self.record(register, Action::Read(value), called, Some(returned));
        let revision = answer.header.map_or(0, |header| header.revision);
        self.history.marks.push(Mark { called, returned, revision, kind: Kind::Read });
        Ok(true)
    }

    async fn write(&mut self, register: u32) -> bool {
        let value = self.next_value();
        let called = self.epoch.elapsed();
        let answer = self.nodes[self.node].set(key(register), text(value), None).await;
        self.take(register, Action::Write(value), value, called, answer)
    }

    async fn swap(&mut self, register: u32, from: u64, revision: u64) -> bool {
        let to = self.next_value();
        let expect = match from {
            ABSENT => Expect::Absent(true),
            _ => Expect::ModRevision(revision),
        };
        let called = self.epoch.elapsed();
        let answer = self.nodes[self.node].set(key(register), text(to), Some(expect)).await;
        self.take(register, Action::Swap { from, to }, to, called, answer)
    }

    /// Records the answer to a write of `value`; false when there was none.
    fn take(
        &mut self,
        register: u32,
        action: Action,
        value: u64,
        called: Duration,
        answer: Result<u64, Status>,
    ) -> bool {
        let returned = self.epoch.elapsed();
        match answer.map_err(|status| judge(&status)) {
            Ok(revision) => {
                self.seen.insert(register, (value, revision));
                self.record(register, action, called, Some(returned));
                self.history.marks.push(Mark { called, returned, revision, kind: Kind::Write });
                return true;
            }
            Err(Unacknowledged::ConditionFailed) => {
                self.seen.remove(&register);
                if let Action::Swap { from, .. } = action {
                    self.record(register, Action::Refusal(from), called, Some(returned));
                    return true;
                }
            }
            Err(Unacknowledged::Unknown) => self.record(register, action, called, None),
            Err(Unacknowledged::NotDone) => {}
        }
        false
    }

    fn record(&mut self, register: u32, action: Action, called: Duration, returned: Option<Duration>) {
        self.history.records.push(Record { client: self.client, register, action, called, returned });
    }

    /// A value that nobody wrote before; not [`ABSENT`].
    fn next_value(&mut self) -> u64 {
        self.written += 1;
        (u64::from(self.client) + 1) << 40 | self.written
    }
}

fn text(value: u64) -> Bytes {
    value.to_string().into()
}

/// Value and revision of a register.
fn content(answer: &wire::GetResponse) -> Result<(u64, u64)> {
    let Some(kv) = &answer.kv else { return Ok((ABSENT, 0)) };
    let text = std::str::from_utf8(&kv.value).context("read a register")?;
    let value = text.parse().map_err(|_| Failure::new(format!("a register holds {text:?}")))?;
    Ok((value, kv.mod_revision))
}
