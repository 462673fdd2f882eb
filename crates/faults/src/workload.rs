//! Everything that clients do to a cluster while it is tormented, and every check afterwards.

use std::fmt;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use kvorum_client::Client;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::journal::Journal;
use crate::registers::{self, Generation, History, Worker};
use crate::rpc::{self, RawClient};
use crate::writers::{self, Ledger, Style, Tally, Writers};
use crate::{
    Cluster, Context as _, Failure, Result, chains, ensure, inserts, linear, readers, timeline, ttls,
    watchers,
};

/// Clients of each kind. Together they keep two cores busy and leave room for nodes that start.
const WRITERS: u32 = 4;
const REGISTER_CLIENTS: u32 = 6;
const CHAIN_CLIENTS: u32 = 3;
const INSERT_CLIENTS: u32 = 3;
const TTL_CLIENTS: u32 = 6;
/// How long the search through one register's history may take. A history that is linearizable takes
/// milliseconds.
const SEARCH_LIMIT: Duration = Duration::from_secs(120);
/// How long watchers may take to see what there is once all nodes are well.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);

/// Clients at work.
pub struct Workload {
    epoch: Instant,
    generation: Generation,
    writers: Writers,
    registers: Vec<JoinHandle<Result<History>>>,
    readers: Vec<JoinHandle<Result<u64>>>,
    watchers: Vec<JoinHandle<Result<Journal>>>,
    chains: Vec<JoinHandle<Result<Vec<chains::Told>>>>,
    inserts: Vec<JoinHandle<Result<Vec<inserts::Told>>>>,
    ttls: Vec<JoinHandle<Result<ttls::Seen>>>,
    stop: watch::Sender<bool>,
    target: watch::Sender<u64>,
}

impl Workload {
    /// Starts all clients on a cluster that holds nothing yet.
    pub async fn start(cluster: &Cluster, seed: u64) -> Result<Workload> {
        let epoch = Instant::now();
        let endpoints = cluster.endpoints();
        let generation = Generation::default();
        let (stop, target) = (watch::Sender::new(false), watch::Sender::new(0));
        let mut registers = Vec::new();
        for client in 0..REGISTER_CLIENTS {
            let worker = Worker::new(client, &endpoints, seed, epoch)?;
            registers.push(tokio::spawn(worker.run(generation.clone(), stop.subscribe())));
        }
        let mut readers = Vec::new();
        let mut watchers = Vec::new();
        for address in &endpoints {
            let reader = readers::read(address.clone(), generation.clone(), seed, stop.subscribe());
            readers.push(tokio::spawn(reader));
            watchers.push(tokio::spawn(watchers::follow_raw(address.clone(), target.subscribe())));
        }
        let client = Client::connect(endpoints.clone()).await?;
        watchers.push(tokio::spawn(watchers::follow_client(client, target.subscribe())));
        let (mut chains, mut inserts, mut ttls) = (Vec::new(), Vec::new(), Vec::new());
        for client in 0..CHAIN_CLIENTS {
            chains.push(tokio::spawn(chains::forge(client, endpoints.clone(), seed, stop.subscribe())));
        }
        let next = watch::Sender::new(0);
        for client in 0..INSERT_CLIENTS {
            let inserted = inserts::insert(client, endpoints.clone(), next.clone(), stop.subscribe());
            inserts.push(tokio::spawn(inserted));
        }
        for number in 0..TTL_CLIENTS {
            let client = Client::connect(endpoints.clone()).await?;
            let outlived = ttls::outlive(client, number, endpoints.clone(), seed, stop.subscribe());
            ttls.push(tokio::spawn(outlived));
        }
        let writers = Writers::start(&endpoints, 0, WRITERS, Style::default(), epoch).await?;
        Ok(Workload {
            epoch,
            generation,
            writers,
            registers,
            readers,
            watchers,
            chains,
            inserts,
            ttls,
            stop,
            target,
        })
    }

    /// The time since the start, as the clients count it.
    pub fn elapsed(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Lets the register clients go on to new registers.
    pub fn advance(&self) {
        self.generation.advance();
    }

    /// Fails as soon as a client has seen what must not be, rather than at the end of a long run.
    pub async fn check_clients(&mut self) -> Result<()> {
        async fn check<T>(tasks: &mut Vec<JoinHandle<Result<T>>>, what: &str) -> Result<()> {
            match tasks.iter().position(JoinHandle::is_finished) {
                Some(at) => {
                    let ended = tasks.swap_remove(at).await?;
                    ended.and(Err(Failure::new(format!("a {what} ended before its time"))))
                }
                None => Ok(()),
            }
        }
        check(&mut self.registers, "register client").await?;
        check(&mut self.readers, "reader").await?;
        check(&mut self.chains, "client of the chains").await?;
        check(&mut self.inserts, "client of the inserts").await?;
        check(&mut self.ttls, "client of the TTLs").await?;
        check(&mut self.watchers, "watcher").await
    }

    /// Stops the clients, lets the cluster recover, and checks everything.
    pub async fn finish(self, cluster: &Cluster) -> Result<Report> {
        self.stop.send_replace(true);
        let ledgers = self.writers.finish().await?;
        let history = registers::gather(self.registers).await?;
        let mut stale_reads = 0;
        for task in self.readers {
            stale_reads += task.await??;
        }
        let links = gather(self.chains).await?;
        let inserts = gather(self.inserts).await?;
        let mut ended = ttls::Seen::default();
        for task in self.ttls {
            let ttls::Seen { ended: count, latest } = task.await??;
            (ended.ended, ended.latest) = (ended.ended + count, ended.latest.max(latest));
        }

        let revision = cluster.compare_stores(cluster.nodes()).await?;
        self.target.send_replace(revision);
        check_watchers(cluster, self.watchers, revision).await?;
        let raw = RawClient::new(cluster.nodes()[0].client_address())?;
        let chain = raw.history(rpc::range(chains::PREFIX, CHAINS_END), last_of_chains(&links)).await?;
        let linked = chains::check(&links, &chain)?;
        let kvs = raw.scan(revision).await?;
        let inserted = inserts::check(&inserts, &kvs)?;
        let unknown = history.records.iter().filter(|record| record.returned.is_none()).count();
        let operations = history.records.len();
        let answered = ledgers.iter().flat_map(Ledger::marks).map(|mark| mark.returned).collect();
        let tally = check(&ledgers, history, &kvs, SEARCH_LIMIT).await?;
        let checked = Checked { linked, inserted, ended };
        Ok(Report { revision, tally, operations, unknown, stale_reads, checked, answered })
    }
}

/// The first key behind the chains.
const CHAINS_END: &str = "chain0";

/// The last revision that a client of the chains was told: up to there every node has their history.
fn last_of_chains(links: &[chains::Told]) -> u64 {
    let written = links.iter().filter_map(|link| match link.outcome {
        chains::Outcome::Written(revision) => Some(revision),
        chains::Outcome::NotWritten | chains::Outcome::Unknown => None,
    });
    written.max().unwrap_or(0)
}

async fn gather<T>(tasks: Vec<JoinHandle<Result<Vec<T>>>>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    Ok(all)
}

/// Fails unless every acknowledged write is there once, no answer went back in time, and the registers
/// are linearizable. `kvs` holds at least all keys of the writers; the search through one register's
/// history may take so long.
pub async fn check(
    ledgers: &[Ledger],
    history: History,
    kvs: &[rpc::KeyValue],
    search_limit: Duration,
) -> Result<Tally> {
    let tally = writers::check(ledgers, kvs)?;
    let History { records, mut marks } = history;
    marks.extend(ledgers.iter().flat_map(Ledger::marks));
    timeline::check(&marks)?;
    tokio::task::spawn_blocking(move || linear::check(&records, search_limit)).await??;
    Ok(tally)
}

/// Every watcher saw what every node tells now.
async fn check_watchers(
    cluster: &Cluster,
    watchers: Vec<JoinHandle<Result<Journal>>>,
    revision: u64,
) -> Result<()> {
    let replays = cluster.nodes().iter().map(|node| {
        let address = node.client_address();
        watchers::replay(address, revision, CATCH_UP_LIMIT)
    });
    let mut journals = try_join_all(replays).await?;
    let aborts: Vec<_> = watchers.iter().map(JoinHandle::abort_handle).collect();
    let Ok(watched) = timeout(CATCH_UP_LIMIT, join_all(watchers)).await else {
        aborts.iter().for_each(|task| task.abort());
        return Err(Failure::new(format!("a watcher did not see revision {revision} in {CATCH_UP_LIMIT:?}")));
    };
    for journal in watched {
        journals.push(journal??);
    }
    for (at, journal) in journals.iter().enumerate().skip(1) {
        journals[0].check_equal(journal).context(format!("the first node's journal and number {at}"))?;
    }
    ensure!(journals[0].next() > revision, "the journals end before revision {revision}");
    Ok(())
}

/// What was checked, for the one who runs the test.
#[derive(Clone, Debug)]
pub struct Report {
    revision: u64,
    tally: Tally,
    operations: usize,
    unknown: usize,
    stale_reads: u64,
    checked: Checked,
    answered: Vec<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Checked {
    linked: usize,
    inserted: usize,
    ended: ttls::Seen,
}

impl Report {
    /// When writes of unique keys were acknowledged, on the clock of [`Workload::elapsed`].
    pub fn answered(&self) -> &[Duration] {
        &self.answered
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { revision, tally, operations, unknown, stale_reads, checked, .. } = self;
        let Tally { acknowledged, unacknowledged } = tally;
        let Checked { linked, inserted, ended } = checked;
        let ttls::Seen { ended, latest } = ended;
        write!(
            f,
            "{revision} revisions equal on all nodes and seen once by all watchers; {acknowledged} acknowledged \
             writes of unique keys are there ({unacknowledged} more were never acknowledged); {operations} \
             operations on registers are linearizable ({unknown} of unknown outcome); {stale_reads} serializable \
             reads never went back; {linked} links of conditional writes follow each other; {inserted} keys were \
             inserted once; {ended} keys with a TTL did not end early, the last of them {latest:?} late"
        )
    }
}
