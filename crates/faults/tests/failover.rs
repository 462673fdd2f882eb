//! Goal: writes go on within 2 s at the 99th percentile after the leader was killed, and within 300 ms
//! after it was told to stop; in the second case no client of our crate sees an error.
//!
//! Method: three nodes with the default flags, and clients that write one key after another. The time
//! counts from the signal until the first acknowledgement of a write that was begun after it, by any
//! client, less what an append and its sync beside it waited for the machine's disk. 20 kills (`LEADER_KILLS`),
//! whose 99th percentile is their maximum, and 5 stops (`LEADER_STOPS`).
//!
//! Goal: an election that nobody won costs little more than one that somebody won.
//!
//! Method: both voters that a killed leader leaves behind are stopped by a signal until each would stand
//! for election, and go on at the same moment. A leader must be there before either would stand again on
//! account of its election timeout.

use std::time::Duration;

use kvorum_faults::latency::Distribution;
use kvorum_faults::timeline::Mark;
use kvorum_faults::witness::Witness;
use kvorum_faults::writers::{self, Ledger, Style, Writers};
use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, rpc, settings};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// What the product promises.
const KILL_LIMIT: Duration = Duration::from_secs(2);
const STOP_LIMIT: Duration = Duration::from_millis(300);

/// Writers at work. Their pause bounds how exactly an interruption is measured.
const WRITERS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(2);

/// Elections with two candidates, and the election timeout of their voters; its half is the least time until
/// one of them stands again by itself.
const SPLITS: usize = 4;
const SPLIT_ELECTION_TIMEOUT: Duration = Duration::from_secs(2);

/// After the cluster is well again and before the next fault.
const CALM: Duration = Duration::from_millis(500);

/// Both tests measure time; one at a time has the machine.
static MACHINE: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn writes_go_on_when_the_leader_is_killed() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let kills = settings::number("LEADER_KILLS", 20);
    let cluster = Cluster::found(3, Layout::default()).await?;
    let load = Load::start(&cluster).await?;
    let (mut killed, mut waited) = (Vec::new(), Vec::new());
    for _ in 0..kills {
        sleep(CALM).await;
        let leader = cluster.leader().await?;
        let witness = Witness::start(cluster.directory()?)?;
        killed.push(load.epoch.elapsed());
        leader.kill()?;
        // The others elect one of them before the killed one comes back.
        cluster.leader().await?;
        waited.push(witness.finish()?);
        leader.start().await?;
        cluster.wait_healthy().await?;
    }
    let gaps = less(gaps(&load.finish().await?, &killed)?, &waited);
    eprintln!("failover: leader killed {kills} times, writes went on after {gaps}");
    let p99 = gaps.percentile(99);
    ensure!(p99 <= KILL_LIMIT, "writes went on {p99:?} after a kill at p99, the limit is {KILL_LIMIT:?}");
    cluster.close()
}

#[tokio::test]
async fn nobody_notices_that_the_leader_is_stopped() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let stops = settings::number("LEADER_STOPS", 5);
    let cluster = Cluster::found(3, Layout::default()).await?;
    let load = Load::start(&cluster).await?;
    let (mut stopped, mut waited) = (Vec::new(), Vec::new());
    for _ in 0..stops {
        sleep(CALM).await;
        let leader = cluster.leader().await?;
        let witness = Witness::start(cluster.directory()?)?;
        stopped.push(load.epoch.elapsed());
        leader.terminate().await?;
        waited.push(witness.finish()?);
        leader.start().await?;
        cluster.wait_healthy().await?;
    }
    sleep(CALM).await;
    let ledgers = load.finish().await?;
    let gaps = less(gaps(&ledgers, &stopped)?, &waited);
    eprintln!("failover: leader stopped {stops} times, writes went on after {gaps}");
    writers::check_no_failure(&ledgers)?;
    let longest = gaps.percentile(100);
    ensure!(longest <= STOP_LIMIT, "writes went on {longest:?} after a stop, the limit is {STOP_LIMIT:?}");

    let last = cluster.leader().await?;
    let kvs = rpc::RawClient::new(last.client_address())?.scan(0).await?;
    writers::check(&ledgers, &kvs)?;
    cluster.close()
}

#[tokio::test]
async fn two_candidates_do_not_wait_for_another_election_timeout() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let millis = SPLIT_ELECTION_TIMEOUT.as_millis().to_string();
    let layout = Layout::with_flags(["--election-timeout-ms", &millis, "--heartbeat-interval-ms", "100"]);
    let cluster = Cluster::found(3, layout).await?;
    let (mut elections, mut waited) = (Vec::new(), Vec::new());
    for _ in 0..SPLITS {
        sleep(CALM).await;
        let leader = cluster.leader().await?;
        let voters: Vec<_> =
            cluster.nodes().iter().filter(|node| node.name() != leader.name()).cloned().collect();
        leader.kill()?;
        voters.iter().try_for_each(|voter| voter.pause())?;
        // The lease, and the longest election timeout after it.
        sleep(SPLIT_ELECTION_TIMEOUT * 2 + CALM).await;
        let witness = Witness::start(cluster.directory()?)?;
        let begun = Instant::now();
        voters.iter().try_for_each(|voter| voter.resume())?;
        cluster.leader().await?;
        elections.push(begun.elapsed());
        waited.push(witness.finish()?);
        leader.start().await?;
        cluster.wait_healthy().await?;
    }
    let elections = less(elections, &waited);
    eprintln!("failover: two candidates at once, {SPLITS} times, one led after {elections}");
    let (longest, limit) = (elections.percentile(100), SPLIT_ELECTION_TIMEOUT / 2);
    ensure!(longest < limit, "a leader was elected after {longest:?}, the limit is {limit:?}");
    cluster.close()
}

/// What is left of each without what the machine's disk took of it.
fn less(took: Vec<Duration>, waited: &[Duration]) -> Distribution {
    eprintln!("failover: an append beside it waited {waited:?} at most");
    Distribution::new(took.iter().zip(waited).map(|(took, waited)| took.saturating_sub(*waited)).collect())
}

/// Clients that write all the time.
struct Load {
    writers: Writers,
    epoch: Instant,
}

impl Load {
    async fn start(cluster: &Cluster) -> Result<Load> {
        let epoch = Instant::now();
        let style = Style { pause: PAUSE, ..Style::default() };
        let writers = Writers::start(&cluster.endpoints(), 0, WRITERS, style, epoch).await?;
        Ok(Load { writers, epoch })
    }

    async fn finish(self) -> Result<Vec<Ledger>> {
        self.writers.finish().await
    }
}

/// For each fault the time until a write that was begun after it was acknowledged. A write that was
/// begun before may have been answered by the leader's last breath, and says nothing.
fn gaps(ledgers: &[Ledger], faults: &[Duration]) -> Result<Vec<Duration>> {
    let mut marks: Vec<Mark> = ledgers.iter().flat_map(|ledger| ledger.marks()).collect();
    marks.sort_by_key(|mark| mark.returned);
    let gap = |fault: &Duration| {
        let next = marks.iter().find(|mark| mark.called >= *fault);
        next.map(|mark| mark.returned - *fault).context("no write was acknowledged after the last fault")
    };
    faults.iter().map(gap).collect()
}
