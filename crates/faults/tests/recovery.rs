//! Goal: a member that lost its disk disturbs nobody and is replaced; a member that missed more than the
//! log holds catches up by a snapshot, also when it is killed while it receives one.
//!
//! Method: three nodes that keep little log (`--log-retain-bytes`), so that the log is purged soon; one
//! of them is down meanwhile. That a snapshot came is read off its metrics.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use kvorum_client::Client;
use kvorum_faults::process::Node;
use kvorum_faults::writers::{self, Style, Writers};
use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, rpc, settings, wait};
use kvorum_proto::admin::v1::State;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// Log that is kept: far less than what is written while a member is down.
const LOG_RETAIN: &str = "4MiB";
/// Writes while a member is down; `WRITES` in the environment.
const WRITES: u32 = 100_000;
/// Nodes look every second whether their log is too long, and purge it in two of these looks.
const PURGE_PAUSE: Duration = Duration::from_secs(4);
/// Clients that make them at the same time; values as large as in the benchmarks.
const CLIENTS: u32 = 100;
const VALUE_BYTES: usize = 256;
/// How long a snapshot of all that, and the log behind it, may take on a machine that is busy.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);
/// How long the cluster is watched for a disturbance: several elections.
const CALM: Duration = Duration::from_secs(5);

/// One cluster at a time has the machine.
static MACHINE: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn a_member_that_lost_its_disk_disturbs_nobody() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let cluster = Cluster::found(3, Layout::default()).await?;
    let load = Writers::start(&cluster.endpoints(), 0, 2, Style::default(), Instant::now()).await?;
    let leader = cluster.leader().await?;
    let lost = cluster.follower().await?;
    let (old_id, term) = (lost.status().await?.node_id, leader.status().await?.term);

    lost.kill()?;
    lost.wipe()?;
    lost.start().await?;
    let begun = Instant::now();
    while begun.elapsed() < CALM {
        let status = lost.status().await?;
        ensure!(status.state() == State::Unjoined, "without a disk it is {:?}", status.state());
        ensure!(status.node_id != old_id, "an empty disk came up under the lost one's id");
        let now = leader.status().await?;
        ensure!(now.state() == State::Leader, "the leader became {:?}", now.state());
        ensure!(now.term == term, "the term rose from {term} to {}", now.term);
        sleep(Duration::from_millis(100)).await;
    }
    let ledgers = load.finish().await?;
    writers::check_no_failure(&ledgers)?;

    cluster.remove_member(old_id).await?;
    cluster.add_voter(&lost).await?;
    cluster.wait_voters(cluster.nodes()).await?;
    cluster.compare_stores(cluster.nodes()).await?;
    let kvs = rpc::RawClient::new(lost.client_address())?.scan(0).await?;
    writers::check(&ledgers, &kvs)?;
    cluster.close()
}

#[tokio::test]
async fn a_member_that_missed_the_log_catches_up_by_snapshot() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let cluster = Cluster::found(3, Layout::with_flags(["--log-retain-bytes", LOG_RETAIN])).await?;
    let behind = cluster.follower().await?;
    behind.kill()?;
    let writes = settings::number("WRITES", WRITES);
    fill(&cluster, writes).await?;
    sleep(PURGE_PAUSE).await;

    // Killed again and again while a snapshot comes in; each time it starts and is sent another one.
    let mut interrupted = 0;
    for delay_ms in [0, 5, 20] {
        behind.start().await?;
        if wait_receiving(&behind).await? {
            sleep(Duration::from_millis(delay_ms)).await;
            interrupted += u32::from(behind.is_receiving_snapshot());
        }
        behind.kill()?;
    }
    let begun = Instant::now();
    behind.start().await?;
    wait_caught_up(&cluster, &behind).await?;
    eprintln!(
        "recovery: {writes} writes behind, caught up {:?} after its start, after {interrupted} interruptions",
        begun.elapsed()
    );
    ensure!(interrupted > 0, "no kill met a snapshot on its way; it takes more WRITES");
    wait::until("the count of a snapshot", CATCH_UP_LIMIT, async || {
        let received = rpc::metric(behind.http_address(), "kvorum_snapshots_received_total").await?;
        ensure!(received >= 1.0, "it caught up without a snapshot, so that the log was not purged");
        Ok(())
    })
    .await?;
    ensure!(!behind.is_receiving_snapshot(), "a half-received snapshot was left behind");
    cluster.compare_stores(cluster.nodes()).await?;
    cluster.close()
}

/// Writes many keys, each by a call of its own.
async fn fill(cluster: &Cluster, writes: u32) -> Result<()> {
    let begun = Instant::now();
    let client = cluster.client().await?;
    try_join_all((0..CLIENTS).map(|at| fill_some(&client, (at..writes).step_by(CLIENTS as usize)))).await?;
    eprintln!("recovery: {writes} writes in {:?}", begun.elapsed());
    Ok(())
}

async fn fill_some(client: &Client, numbers: impl Iterator<Item = u32>) -> Result<()> {
    for number in numbers {
        // Random, or the snapshot would be compressed to nothing.
        let value: [u8; VALUE_BYTES] = rand::random();
        client.set(format!("filled/{number:08}"), value.to_vec()).await?;
    }
    Ok(())
}

/// Waits for the beginning of a snapshot; false when the node caught up without one being seen.
async fn wait_receiving(node: &Arc<Node>) -> Result<bool> {
    let deadline = Instant::now() + CATCH_UP_LIMIT;
    let mut applied = 0;
    while Instant::now() < deadline {
        // A look at the directory is cheap and a snapshot short, so that there are many looks to one
        // question.
        for _ in 0..100 {
            if node.is_receiving_snapshot() {
                return Ok(true);
            }
            sleep(Duration::from_millis(1)).await;
        }
        let now = node.status().await?.applied.map_or(0, |id| id.index);
        if applied != 0 && now > applied {
            return Ok(false);
        }
        applied = now;
    }
    Err(kvorum_faults::Failure::new("no snapshot was sent"))
}

async fn wait_caught_up(cluster: &Cluster, node: &Node) -> Result<()> {
    wait::until("catching up", CATCH_UP_LIMIT, async || {
        let leader = cluster.leader().await?.status().await?.applied.context("the leader applied nothing")?;
        let applied = node.status().await?.applied.map_or(0, |id| id.index);
        ensure!(applied >= leader.index, "applied {applied} of {}", leader.index);
        Ok(())
    })
    .await
}
