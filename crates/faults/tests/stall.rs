//! Goal: a leader whose disk hangs does not lead on. Writes go on within 5 s, the member says that it is
//! not ready and why, and takes part again once its disk does. A follower whose disk hangs disturbs nobody,
//! and a disk that only stutters, 300 ms a sync, every sync, costs no election. So it is with a leader whose apply
//! thread stands still.
//!
//! Method: three nodes under load; strace holds up the syncs of one node's log thread, or the waits of its apply
//! thread. The time counts from the hang until the first acknowledgement of a write that was begun after it, by any
//! client. What hangs for a minute ends by itself: that is awaited beside the rest.

use std::sync::Arc;
use std::time::Duration;

use kvorum_faults::process::Node;
use kvorum_faults::slow_disk::SlowDisk;
use kvorum_faults::writers::{self, Style, Writers};
use kvorum_faults::{Cluster, Context as _, Failure, Layout, Result, ensure, rpc, wait};
use kvorum_proto::admin::v1::State;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// What the product promises.
const WRITES_LIMIT: Duration = Duration::from_secs(5);
/// Writers at work.
const WRITERS: u32 = 4;
/// A member that stands still says so within this, and one that does not any more.
const SAID_LIMIT: Duration = Duration::from_secs(10);
/// What a disk that stutters takes for each sync, and how long it does: several election timeouts.
const STUTTER: Duration = Duration::from_millis(300);
const STUTTERING: Duration = Duration::from_secs(4);

/// What stands still for a minute is gone within this.
const END_LIMIT: Duration = Duration::from_secs(90);

/// One cluster under load at a time has the machine.
static MACHINE: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn a_leader_whose_disk_hangs_does_not_lead_on() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let Some((cluster, load, epoch)) = under_load().await? else { return Ok(()) };

    // It stutters.
    let leader = cluster.leader().await?;
    let term = leader.status().await?.term;
    let stutters = SlowDisk::delay(&leader, STUTTER)?;
    let begun = Instant::now();
    while begun.elapsed() < STUTTERING {
        let status = leader.status().await?;
        let leads = (status.state(), status.term) == (State::Leader, term);
        ensure!(leads, "its disk stutters, and it is {:?} in term {}", status.state(), status.term);
        let ready = rpc::health(leader.http_address(), "/readyz").await?;
        ensure!(ready.is_ok(), "its disk stutters, and it is not ready: {ready:?}");
        sleep(Duration::from_millis(50)).await;
    }
    drop(stutters);

    // A follower's hangs.
    let follower = cluster.follower().await?;
    let hangs = SlowDisk::hang(&follower)?;
    expect_stalled(&follower, DISK).await?;
    let status = cluster.leader().await?.status().await?;
    ensure!(status.term == term, "a follower's disk hangs, and the term rose to {}", status.term);
    drop(hangs);
    expect_ready(&follower).await?;
    cluster.wait_healthy().await?;

    // The leader's hangs.
    let leader = cluster.leader().await?;
    let hung = epoch.elapsed();
    let hangs = SlowDisk::hang(&leader)?;
    expect_stalled(&leader, DISK).await?;
    let next = other_leader(&cluster, &leader).await?;
    let status = next.status().await?;
    ensure!(status.term > term, "{} leads in term {}", next.name(), status.term);
    let seen = leader.status().await?;
    ensure!(seen.state() != State::Leader, "two members say that they lead");
    sleep(Duration::from_secs(1)).await;
    drop(hangs);
    expect_ready(&leader).await?;
    cluster.wait_healthy().await?;

    check_load(cluster, load, hung, &leader).await
}

#[tokio::test]
async fn a_leader_whose_apply_thread_stands_still_does_not_lead_on() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let Some((cluster, load, epoch)) = under_load().await? else { return Ok(()) };

    let leader = cluster.leader().await?;
    let hung = epoch.elapsed();
    let hangs = SlowDisk::hang_apply(&leader)?;
    expect_stalled(&leader, APPLY).await?;
    other_leader(&cluster, &leader).await?;
    sleep(Duration::from_secs(1)).await;
    drop(hangs);
    expect_ready(&leader).await?;
    cluster.wait_healthy().await?;
    check_load(cluster, load, hung, &leader).await
}

#[tokio::test]
async fn members_that_hang_for_a_minute_end_and_say_why() -> Result<()> {
    if let Some(reason) = SlowDisk::missing() {
        eprintln!("SKIPPED stall: {reason}");
        return Ok(());
    }
    let cluster = Cluster::found(3, Layout::default()).await?;
    let leader = cluster.leader().await?;
    let followers: Vec<_> = cluster.nodes().iter().filter(|node| node.name() != leader.name()).collect();
    let [disk, store] = followers[..] else { return Err(Failure::new("there are not two followers")) };
    let hang = [SlowDisk::hang(disk)?, SlowDisk::hang_apply(store)?];
    // Both have something to do that they do not end; who appends is enough for a majority.
    let client = cluster.client().await?;
    client.set("hangs", "while").await?;
    let ends = tokio::try_join!(disk.wait_ended(END_LIMIT), store.wait_ended(END_LIMIT))?;
    drop(hang);
    for (node, ended, why) in [(disk, ends.0, "takes no writes"), (store, ends.1, "makes no progress")] {
        ensure!(!ended.success(), "{} ended with {ended}", node.name());
        let last = node.last_words()?;
        eprintln!("stall: {last}");
        ensure!(last.contains(why) && last.contains("for 60 s"), "{} ended with: {last}", node.name());
    }
    // With the leader alone nothing is acknowledged; with them all is as before.
    for node in followers {
        node.start().await?;
    }
    cluster.wait_healthy().await?;
    client.set("hangs", "no more").await?;
    cluster.compare_stores(cluster.nodes()).await?;
    cluster.close()
}

/// A cluster with writers at work, whose times count from the epoch; nothing where nobody can be held up here.
async fn under_load() -> Result<Option<(Cluster, Writers, Instant)>> {
    if let Some(reason) = SlowDisk::missing() {
        eprintln!("SKIPPED stall: {reason}");
        return Ok(None);
    }
    let cluster = Cluster::found(3, Layout::default()).await?;
    let epoch = Instant::now();
    let load = Writers::start(&cluster.endpoints(), 0, WRITERS, Style::default(), epoch).await?;
    sleep(Duration::from_millis(500)).await;
    Ok(Some((cluster, load, epoch)))
}

/// Waits until another member leads.
async fn other_leader(cluster: &Cluster, than: &Node) -> Result<Arc<Node>> {
    let next = wait::until("another leader", SAID_LIMIT, async || {
        let next = cluster.leader().await?;
        ensure!(next.name() != than.name(), "{} still leads", than.name());
        Ok(next)
    });
    next.await
}

/// Writes went on soon after the leader hung, and nothing that was acknowledged is lost.
async fn check_load(cluster: Cluster, load: Writers, hung: Duration, leader: &Node) -> Result<()> {
    let ledgers = load.finish().await?;
    let mut marks: Vec<_> = ledgers.iter().flat_map(|ledger| ledger.marks()).collect();
    marks.sort_by_key(|mark| mark.returned);
    let first = marks.iter().find(|mark| mark.called >= hung).context("no write went on")?;
    let gap = first.returned.saturating_sub(hung);
    eprintln!("stall: writes went on {gap:?} after the leader hung");
    ensure!(gap < WRITES_LIMIT, "writes went on after {gap:?}, the limit is {WRITES_LIMIT:?}");
    cluster.compare_stores(cluster.nodes()).await?;
    let kvs = rpc::RawClient::new(leader.client_address())?.scan(0).await?;
    writers::check(&ledgers, &kvs)?;
    cluster.close()
}

/// What stands still: its alarm, a word of what the member says of itself, and its metric.
type Standstill = [&'static str; 3];
const DISK: Standstill = ["DISK_STALLED", "disk", "kvorum_log_stall_seconds"];
const APPLY: Standstill = ["APPLY_STALLED", "store", "kvorum_apply_stall_seconds"];

/// Waits until the member says, wherever one may ask, what stands still.
async fn expect_stalled(node: &Node, [alarm, word, metric]: Standstill) -> Result<()> {
    let what = format!("the alarm of {}", node.name());
    wait::until(&what, SAID_LIMIT, async || {
        let alarms = node.status().await?.alarms;
        ensure!(alarms == [alarm], "it stands still, and its alarms are {alarms:?}");
        let ready = rpc::health(node.http_address(), "/readyz").await?;
        ensure!(ready.is_err_and(|reason| reason.contains(word)), "it stands still, and it is ready");
        let seconds = rpc::metric(node.http_address(), metric).await?;
        ensure!(seconds >= 2.0, "it waits for {seconds} s only");
        Ok(())
    })
    .await
}

/// Waits until the member is as before.
async fn expect_ready(node: &Node) -> Result<()> {
    let what = format!("the return of {}", node.name());
    wait::until(&what, SAID_LIMIT, async || {
        let alarms = node.status().await?.alarms;
        ensure!(alarms.is_empty(), "its alarms are {alarms:?}");
        let ready = rpc::health(node.http_address(), "/readyz").await?;
        ensure!(ready.is_ok(), "it is not ready: {ready:?}");
        Ok(())
    })
    .await
}
