//! Gathers the commands that wait, so that they share the cost of what is done with them: one log
//! entry on the leader, one call to the leader elsewhere.
//!
//! It never waits to fill a batch, but lets what has arrived already come this far. While batches are under
//! way, new commands gather; so the busier the node, the more commands share a batch.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use kvorum_store::command::{Outcome, asks_for_records};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

use crate::error::RequestError;

/// Commands in one batch, and their bytes: enough to share the cost of a sync and a round trip, few
/// enough that nobody waits for a large one. One larger command is a batch of its own.
pub const BATCH_COMMANDS_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 512 << 10;

/// Commands in one batch that are answered with records, of up to 3 MiB each: the answers of a batch are in memory
/// together, and go to the member that it came from in one message.
const RECORDS_ASKED_MAX: usize = 5;

/// Batches under way: enough to keep log and network busy, few enough that commands gather
/// meanwhile. Four make smaller batches, which cost 5% more CPU per put and were not faster.
const BATCHES_IN_FLIGHT_MAX: usize = 2;

/// Turns of the runtime that pass before a batch is made of what waits. A request whose bytes have arrived
/// goes through its connection's task and one of its own before its command is in the queue. Batches of a
/// hundred clients so become a sixth larger, which costs 4% less CPU per put; more turns bring nothing.
const TURNS: usize = 3;

/// Commands that wait or are under way, and their bytes. Whoever comes later waits for room until
/// his deadline.
const COMMANDS_WAITING_MAX: usize = 8192;
const BYTES_WAITING_MAX: usize = 64 << 20;

/// What became of a proposed command.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The store's answer.
    pub outcome: Outcome,
    /// The term in which it was committed.
    pub term: u64,
}

/// What became of a command.
pub type Answer = Result<Applied, RequestError>;

/// A command, and the time that the one who wants it has.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The encoded command.
    pub command: Bytes,
    /// Nobody waits for its outcome any longer than this.
    pub deadline: Instant,
}

/// A proposal on its way.
struct Waiting {
    proposal: Proposal,
    asks_for_records: bool,
    reply: oneshot::Sender<Answer>,
    _room: OwnedSemaphorePermit,
}

/// A handle to the task that gathers, which ends when the last handle is dropped.
#[derive(Clone)]
pub struct Gather {
    queue: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
}

impl Gather {
    /// Starts the task. `submit` answers what became of each command of a batch, in order.
    pub fn start<S, F>(submit: S) -> Gather
    where
        S: Fn(Vec<Proposal>) -> F + Send + 'static,
        F: Future<Output = Vec<Answer>> + Send + 'static,
    {
        let (queue, commands) = mpsc::channel(COMMANDS_WAITING_MAX);
        tokio::spawn(work(submit, commands));
        Gather { queue, room: Arc::new(Semaphore::new(BYTES_WAITING_MAX)) }
    }

    /// Returns when nothing is waiting or under way.
    pub async fn idle(&self) {
        // The semaphore is never closed.
        let _ = self.room.acquire_many(BYTES_WAITING_MAX as u32).await;
    }

    /// Submits a command and waits for its answer.
    ///
    /// When the deadline comes before there was room for it, the answer is [`RequestError::Busy`]
    /// and nothing was done; after that the outcome is unknown. A command whose caller has gone, or whose
    /// deadline has come, before it was in a batch is not submitted any more.
    pub async fn submit(&self, command: Bytes, deadline: Instant) -> Answer {
        let (reply, answer) = oneshot::channel();
        let enqueue = async {
            let bytes = command.len().clamp(1, BYTES_WAITING_MAX) as u32;
            let room = self.room.clone().acquire_many_owned(bytes).await;
            let _room = room.map_err(|_| RequestError::ShuttingDown)?;
            let asks_for_records = asks_for_records(&command);
            let proposal = Proposal { command, deadline };
            let waiting = Waiting { proposal, asks_for_records, reply, _room };
            self.queue.send(waiting).await.map_err(|_| RequestError::ShuttingDown)
        };
        timeout_at(deadline, enqueue).await.map_err(|_| RequestError::Busy)??;
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(RequestError::OutcomeUnknown("the node is stopping".into())),
            Err(_) => Err(RequestError::Deadline { outcome_unknown: true }),
        }
    }
}

async fn work<S, F>(submit: S, mut commands: mpsc::Receiver<Waiting>)
where
    S: Fn(Vec<Proposal>) -> F,
    F: Future<Output = Vec<Answer>>,
{
    let mut waiting: Vec<Waiting> = Vec::with_capacity(BATCH_COMMANDS_MAX);
    let mut in_flight = FuturesUnordered::new();
    let mut open = true;
    while open || !waiting.is_empty() || !in_flight.is_empty() {
        if !waiting.is_empty() && in_flight.len() < BATCHES_IN_FLIGHT_MAX {
            for _ in 0..TURNS {
                yield_now().await;
            }
            // What came in meanwhile joins without waiting for more.
            while waiting.len() < BATCH_COMMANDS_MAX {
                let Ok(command) = commands.try_recv() else { break };
                waiting.push(command);
            }
            // While batches are held up, callers go. What nobody waits for any more is not begun.
            waiting.retain(|waiting| !waiting.reply.is_closed());
            if !waiting.is_empty() {
                let batch = take_batch(&mut waiting);
                let proposals = batch.iter().map(|waiting| waiting.proposal.clone()).collect();
                in_flight.push(answer(batch, submit(proposals)));
            }
        }
        let room = BATCH_COMMANDS_MAX - waiting.len();
        let more = !waiting.is_empty() && in_flight.len() < BATCHES_IN_FLIGHT_MAX;
        tokio::select! {
            biased;
            Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
            received = commands.recv_many(&mut waiting, room), if open && room > 0 => open = received > 0,
            () = std::future::ready(()), if more => {}
        }
    }
}

/// Takes what fits into one batch off the front of what waits.
fn take_batch(waiting: &mut Vec<Waiting>) -> Vec<Waiting> {
    let (mut bytes, mut asked) = (0, 0);
    let fits = waiting.iter().take_while(|waiting| {
        bytes += waiting.proposal.command.len();
        asked += usize::from(waiting.asks_for_records);
        bytes <= BATCH_BYTES_MAX && asked <= RECORDS_ASKED_MAX
    });
    let count = fits.count().max(1);
    let rest = waiting.split_off(count);
    std::mem::replace(waiting, rest)
}

async fn answer(batch: Vec<Waiting>, submitted: impl Future<Output = Vec<Answer>>) {
    for (waiting, answer) in batch.into_iter().zip(submitted.await) {
        // Whoever asked may have given up waiting.
        let _ = waiting.reply.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use kvorum_store::command::{Command, Kind, Write};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    /// Commands that come in while batches are under way share the next one, each gets its own
    /// answer, and a large one does not drag others over the limit.
    #[tokio::test]
    async fn what_waits_shares_a_batch() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let seen = sizes.clone();
        let gather = Gather::start(move |batch: Vec<Proposal>| {
            seen.lock().expect("nobody panics").push(batch.len());
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let of = |proposal: Proposal| {
                    let outcome = Outcome { revision: proposal.command.len() as u64, answer: None };
                    Ok(Applied { outcome, term: 1 })
                };
                batch.into_iter().map(of).collect()
            }
        });
        let one = async |bytes: usize| {
            let answer = gather.submit(vec![0; bytes].into(), soon()).await.expect("it is answered");
            assert_eq!(answer.outcome.revision, bytes as u64);
        };
        let sizes_in = (1..1000).chain([BATCH_BYTES_MAX + 1, BATCH_BYTES_MAX, 7]);
        futures_util::future::join_all(sizes_in.map(one)).await;
        let sizes = sizes.lock().expect("nobody panics");
        assert_eq!(sizes.iter().sum::<usize>(), 1002);
        assert!(sizes.len() < 20, "{sizes:?}");
        assert!(sizes.iter().all(|size| *size <= BATCH_COMMANDS_MAX), "{sizes:?}");
    }

    /// Few of those that are answered with records share a batch, and others join them.
    #[tokio::test]
    async fn few_that_ask_for_records_share_a_batch() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let seen = sizes.clone();
        let gather = Gather::start(move |batch: Vec<Proposal>| {
            let asked = batch.iter().filter(|proposal| asks_for_records(&proposal.command)).count();
            seen.lock().expect("nobody panics").push((batch.len(), asked));
            std::future::ready(vec![Err(RequestError::NoLeader); batch.len()])
        });
        let write = |return_previous| {
            let command = Command::from(Kind::Write(Write { return_previous, ..Write::default() })).encoded();
            gather.submit(command, soon())
        };
        let all = (0..40).map(|number| write(number % 2 == 0));
        futures_util::future::join_all(all).await;
        let sizes = sizes.lock().expect("nobody panics");
        assert_eq!(sizes.iter().map(|(size, _)| size).sum::<usize>(), 40);
        assert!(sizes.iter().all(|(_, asked)| *asked <= RECORDS_ASKED_MAX), "{sizes:?}");
        assert!(sizes.iter().any(|(size, asked)| size > asked), "{sizes:?}");
    }

    /// Commands that are still in the tasks of their requests when the first one is in the queue share its
    /// batch.
    #[tokio::test]
    async fn what_has_arrived_joins() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let seen = sizes.clone();
        let gather = Gather::start(move |batch: Vec<Proposal>| {
            seen.lock().expect("nobody panics").push(batch.len());
            std::future::ready(vec![Err(RequestError::NoLeader); batch.len()])
        });
        let request = |number: usize| {
            let gather = gather.clone();
            tokio::spawn(async move {
                let submit = async move { gather.submit(Bytes::from_static(b"x"), soon()).await };
                // Of one connection the task runs first, of the other the request is only read now.
                let answer = if number < 10 { submit.await } else { tokio::spawn(submit).await.unwrap() };
                assert!(matches!(answer, Err(RequestError::NoLeader)));
            })
        };
        for done in futures_util::future::join_all((0..50).map(request)).await {
            done.expect("nobody panics");
        }
        assert_eq!(*sizes.lock().expect("nobody panics"), [50]);
    }

    /// A command that finds no answer in time has an unknown outcome; one that finds no room has not
    /// been submitted.
    #[tokio::test]
    async fn time_runs_out_in_two_ways() {
        let gather = Gather::start(|_| std::future::pending());
        let deadline = Instant::now() + Duration::from_millis(50);
        let command = Bytes::from(vec![0; BYTES_WAITING_MAX]);
        let (first, second) = tokio::join!(gather.submit(command, deadline), async {
            tokio::task::yield_now().await;
            gather.submit(Bytes::from_static(b"x"), deadline).await
        });
        assert!(matches!(first, Err(RequestError::Deadline { outcome_unknown: true })), "{first:?}");
        assert!(matches!(second, Err(RequestError::Busy)), "{second:?}");
    }

    /// While batches are held up, callers run out of time or go away: what they wanted is not begun, and
    /// each that stays comes with its own deadline.
    #[tokio::test]
    async fn what_nobody_waits_for_is_not_begun() {
        let begun = Arc::new(Mutex::new(Vec::new()));
        let (seen, open) = (begun.clone(), Arc::new(Semaphore::new(0)));
        let opened = open.clone();
        let gather = Gather::start(move |batch: Vec<Proposal>| {
            seen.lock().expect("nobody panics").extend(batch.iter().cloned());
            let opened = opened.clone();
            async move {
                let _ = opened.acquire().await;
                vec![Err(RequestError::NoLeader); batch.len()]
            }
        });
        let submit = |command: &'static str, deadline: Instant| {
            let gather = gather.clone();
            tokio::spawn(async move { gather.submit(Bytes::from_static(command.as_bytes()), deadline).await })
        };
        let late = Instant::now() + Duration::from_secs(60);
        let mut held_up = Vec::new();
        for command in ["first", "second"] {
            held_up.push(submit(command, late));
            while begun.lock().expect("nobody panics").len() < held_up.len() {
                yield_now().await;
            }
        }
        let later = late + Duration::from_secs(60);
        held_up.push(submit("stays", later));
        let (too_late, gone) =
            (submit("too late", Instant::now() + Duration::from_millis(20)), submit("gone", late));
        let answer = too_late.await.expect("nobody panics");
        assert!(matches!(answer, Err(RequestError::Deadline { outcome_unknown: true })), "{answer:?}");
        gone.abort();
        assert!(gone.await.is_err_and(|error| error.is_cancelled()));
        open.add_permits(10);
        futures_util::future::join_all(held_up).await;
        let begun = begun.lock().expect("nobody panics");
        let begun: Vec<_> = begun.iter().map(|of| (&of.command[..], of.deadline)).collect();
        assert_eq!(begun, [(&b"first"[..], late), (b"second", late), (b"stays", later)]);
    }
}
