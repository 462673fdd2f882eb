//! Clients at work throughout a test, and the check of all that they were told.

use std::fmt;
use std::time::Duration;

use kvorum_client::{Client, KeyRange};
use kvorum_faults::registers::{self, Generation, History, Worker};
use kvorum_faults::rpc::{self, Consistency, RawClient};
use kvorum_faults::timeline::{Kind, Mark};
use kvorum_faults::workload;
use kvorum_faults::writers::{self, Ledger, Style, Writers};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::doors::Doors;
use crate::proofs::{self, Root};
use crate::{Cluster, Result, ensure, settings, wait};

/// Writers of unique keys through the client crate. With the registers' clients they leave most of two
/// cores to what is tested.
const WRITERS: u32 = 4;
/// Between two writes of a writer.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a write may take, the client's own retries included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Clients that read, write and conditionally write a few registers through the raw API.
const REGISTER_CLIENTS: u32 = 2;
/// New registers are used so often, which keeps the history of each short enough to be searched.
const GENERATION: Duration = Duration::from_secs(5);
/// How long the search through one register's history may take; a good one takes milliseconds.
const SEARCH_LIMIT: Duration = Duration::from_secs(60);
/// How long the last look may wait for a member that answers.
const LAST_LOOK_LIMIT: Duration = Duration::from_secs(30);

/// Between two looks at the voters.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// Clients at work.
pub struct Load {
    doors: Doors,
    root: Root,
    writers: Writers,
    registers: Vec<JoinHandle<Result<History>>>,
    generations: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

/// What clients saw, after all of it was found to be right.
#[derive(Debug)]
pub struct Report {
    /// Writes that were acknowledged, all of which are there.
    pub acknowledged: usize,
    /// Operations on registers, which are linearizable.
    pub operations: usize,
    /// Writes that failed after the client's own retries: when, and how.
    pub failures: Vec<(Duration, String)>,
    /// The longest time in which no write was acknowledged, and when it began.
    pub interruption: (Duration, Duration),
    /// The slowest write that was acknowledged.
    pub slowest: Duration,
}

impl Load {
    /// Starts clients of a cluster that has at most `members` members while they work.
    pub async fn start(cluster: &Cluster<'_>, members: u32) -> Result<Load> {
        let doors = Doors::open(cluster.test(), cluster.name(), members).await?;
        let (endpoints, root) = (doors.addresses(), proofs::root(cluster).await?);
        let nodes = endpoints.iter().map(|endpoint| root.raw(endpoint)).collect::<Result<Vec<_>>>()?;
        let (epoch, stop, generation) = (Instant::now(), watch::Sender::new(false), Generation::default());
        let mut registers = Vec::new();
        for client in 0..REGISTER_CLIENTS {
            let worker = Worker::by(client, nodes.clone(), kvorum_faults::settings::seed(), epoch);
            registers.push(tokio::spawn(worker.run(generation.clone(), stop.subscribe())));
        }
        let generations = tokio::spawn(async move {
            loop {
                sleep(GENERATION).await;
                generation.advance();
            }
        });
        let style = Style { pause: PAUSE, timeout: TIMEOUT, ..Style::default() };
        let connected = async || {
            root.client(endpoints.clone()).await?;
            Ok(())
        };
        wait::until("the first answer to a client", LAST_LOOK_LIMIT, connected).await?;
        let mut clients = Vec::new();
        for _ in 0..WRITERS {
            clients.push(root.client(endpoints.clone()).await?);
        }
        let writers = Writers::by(clients, 0, style, epoch);
        Ok(Load { doors, root, writers, registers, generations, stop })
    }

    /// A client that knows the members by their doors.
    pub async fn client(&self) -> Result<Client> {
        self.root.client(self.doors.addresses()).await
    }

    /// Stops the clients and checks: nothing acknowledged is missing or was applied twice, no read went
    /// back in time, every register is linearizable.
    pub async fn finish(self) -> Result<Report> {
        self.stop.send_replace(true);
        self.generations.abort();
        let ledgers = self.writers.finish().await?;
        let history = registers::gather(self.registers).await?;
        let endpoints = self.doors.addresses();
        let kvs = wait::until("a look at all keys", LAST_LOOK_LIMIT, async || {
            let mut problem = None;
            for endpoint in &endpoints {
                match scan(self.root.raw(endpoint)?).await {
                    Ok(kvs) => return Ok(kvs),
                    Err(failure) => problem = Some(failure),
                }
            }
            Err(problem.unwrap_or_else(|| crate::Failure::new("there are no endpoints")))
        })
        .await?;
        let operations = history.records.len();
        let tally = workload::check(&ledgers, history, &kvs, SEARCH_LIMIT).await?;
        // The next load on this cluster begins with keys that were never written.
        let client = self.root.client(endpoints).await?;
        for prefix in [writers::PREFIX, registers::PREFIX] {
            client.delete_range(KeyRange::prefix(prefix)).timeout(LAST_LOOK_LIMIT).await?;
        }
        let writes: Vec<Mark> = ledgers.iter().flat_map(Ledger::marks).collect();
        Ok(Report {
            acknowledged: tally.acknowledged,
            operations,
            failures: ledgers.iter().flat_map(|ledger| ledger.failures().to_vec()).collect(),
            interruption: interruption(&writes),
            slowest: writes.iter().map(|mark| mark.returned - mark.called).max().unwrap_or_default(),
        })
    }
}

/// The writers' keys as one member has them, after it has caught up with everything acknowledged.
pub(crate) async fn scan(node: RawClient) -> Result<Vec<rpc::KeyValue>> {
    let answer = node.get("any".into(), Consistency::Linearizable).await?;
    let revision = answer.header.map_or(0, |header| header.revision);
    let keys = rpc::range(writers::PREFIX, writers::PREFIX_END);
    Ok(node.scan_range(keys, revision).await?)
}

/// The longest time between two acknowledgements, and when it began.
fn interruption(writes: &[Mark]) -> (Duration, Duration) {
    let mut returned: Vec<Duration> =
        writes.iter().filter(|mark| mark.kind == Kind::Write).map(|mark| mark.returned).collect();
    returned.sort_unstable();
    let gaps = returned.windows(2).map(|pair| (pair[1] - pair[0], pair[0]));
    gaps.max().unwrap_or_default()
}

impl Report {
    /// Fails if a write failed, though the client repeats what is safe to repeat.
    pub fn check_no_failure(&self) -> Result<()> {
        ensure!(
            self.failures.is_empty(),
            "{} writes failed, the first after {:.1} s: {}",
            self.failures.len(),
            self.failures[0].0.as_secs_f64(),
            self.failures[0].1
        );
        Ok(())
    }

    /// Fails if no write was acknowledged for longer than this.
    pub fn check_interruption(&self, limit: Duration) -> Result<()> {
        check(self.interruption.0, limit, "no write was acknowledged for")
    }

    /// Fails if an acknowledged write took longer than this.
    pub fn check_slowest(&self, limit: Duration) -> Result<()> {
        check(self.slowest, limit, "the slowest write took")
    }
}

fn check(found: Duration, limit: Duration, what: &str) -> Result<()> {
    let scaled = limit * settings::latency_scale() / 100;
    ensure!(found <= scaled, "{what} {found:?}, and {scaled:?} is the limit");
    Ok(())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (gap, since) = self.interruption;
        write!(
            f,
            "{} acknowledged writes, 0 lost; {} failed; {} operations on registers linearizable; longest \
             interruption {} ms (at {:.1} s), slowest write {} ms",
            self.acknowledged,
            self.failures.len(),
            self.operations,
            gap.as_millis(),
            since.as_secs_f64(),
            self.slowest.as_millis()
        )
    }
}

/// Looks again and again how many voters answer.
pub struct Voters {
    task: JoinHandle<usize>,
    stop: watch::Sender<bool>,
}

impl Voters {
    /// Looks until [`Voters::finish`].
    pub fn follow(client: Client) -> Voters {
        let stop = watch::Sender::new(false);
        let mut stopped = stop.subscribe();
        let task = tokio::spawn(async move {
            let (mut fewest, mut before) = (usize::MAX, usize::MAX);
            while !*stopped.borrow_and_update() {
                // Without an answer nothing is known; how long that lasts is the writers' to measure.
                if let Ok(seen) = client.members().await
                    && seen.leader_id.is_some()
                {
                    let voters = seen.members.iter().filter(|member| member.voter && member.reachable);
                    let now = voters.count();
                    // One question that is not answered in time is no member that is away.
                    fewest = fewest.min(now.max(before));
                    before = now;
                }
                sleep(BETWEEN_LOOKS).await;
            }
            fewest
        });
        Voters { task, stop }
    }

    /// The fewest that were seen to answer at a time.
    pub async fn finish(self) -> Result<usize> {
        self.stop.send_replace(true);
        Ok(self.task.await?)
    }
}

#[cfg(test)]
mod tests {
    //! Goal: the interruption is the longest time without an acknowledgement of anybody.
    use super::*;

    #[test]
    fn the_longest_gap_between_any_two_answers_counts() {
        let write = |called: u64, returned: u64| Mark {
            called: Duration::from_millis(called),
            returned: Duration::from_millis(returned),
            revision: returned,
            kind: Kind::Write,
        };
        let writes = [write(0, 10), write(5, 400), write(11, 30), write(390, 420)];
        assert_eq!(interruption(&writes), (Duration::from_millis(370), Duration::from_millis(30)));
        assert_eq!(interruption(&[]), (Duration::ZERO, Duration::ZERO));
    }
}
