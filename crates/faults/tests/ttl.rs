//! Goal: keys go soon after their deadline, however many have the same one, and never before it.
//!
//! Method: 100,000 keys (`TTL_KEYS`) with one deadline beside clients that write all the time; a count of
//! the keys before the deadline and after it, and the latency of the writes. Then keys with deadlines of
//! their own, while the leader is killed, stopped, and all members are restarted: whoever finds a key
//! missing has to have asked after its deadline.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use kvorum_client::Client;
use kvorum_faults::latency::Distribution;
use kvorum_faults::process::Node;
use kvorum_faults::rpc::{Consistency, RawClient};
use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, rpc, settings};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// Keys of one batch.
const BATCH: usize = 1_000;
/// From the first key to the common deadline: time to write all of them on a busy machine.
const SAME_TTL: Duration = Duration::from_secs(25);
/// What the product promises; the latency can be scaled in per cent with `LATENCY_SCALE` where several
/// test runs share a machine.
const GONE_LIMIT: Duration = Duration::from_secs(5);
const P99_LIMIT: Duration = Duration::from_millis(200);
/// Clients that write beside, and their pause: some 200 writes a second.
const WRITERS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(20);

/// One cluster at a time has the machine.
static MACHINE: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn many_keys_with_one_deadline_go_at_once() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let keys = settings::number("TTL_KEYS", 100_000);
    let scale = settings::number("LATENCY_SCALE", 100);
    let cluster = Cluster::found(3, Layout::default()).await?;
    let client = cluster.client().await?;
    let begun = Instant::now();
    let deadline = begun + SAME_TTL;
    let from = begun.elapsed();
    for first in (0..keys).step_by(BATCH) {
        fill(&client, first..(first + BATCH).min(keys), deadline).await?;
    }
    let filled = begun.elapsed() - from;
    ensure!(filled < SAME_TTL - Duration::from_secs(3), "it took {filled:?} to write {keys} keys");
    let stop = watch::Sender::new(false);
    sleep_until(deadline - Duration::from_secs(2)).await;
    let writers = (0..WRITERS).map(|writer| tokio::spawn(write(client.clone(), writer, stop.subscribe())));
    let writers: Vec<_> = writers.collect();

    // The deadline is cluster time, which begins when the leader takes a batch: never before `begun`.
    sleep_until(deadline - Duration::from_millis(500)).await;
    for node in cluster.nodes() {
        let (held, all) = (held(node).await?, keys as f64 + of_writers());
        ensure!(held == all, "{held} keys of {all} are left 500 ms before their deadline");
    }
    sleep_until(deadline).await;
    let gone_limit = GONE_LIMIT * scale / 100;
    for node in cluster.nodes() {
        while held(node).await? > of_writers() {
            ensure!(deadline.elapsed() < gone_limit, "keys are left {:?} after it", deadline.elapsed());
            sleep(Duration::from_millis(10)).await;
        }
    }
    let gone = deadline.elapsed();
    stop.send_replace(true);
    let mut latencies = Vec::new();
    for writer in writers {
        latencies.extend(writer.await??);
    }
    let (count, of_writes) = (latencies.len(), Distribution::new(latencies));
    let (p99, longest) = (of_writes.percentile(99), of_writes.percentile(100));
    eprintln!(
        "ttl: {keys} keys, written in {filled:?}, were gone {gone:?} after their deadline; {count} writes \
         beside it took {p99:?} at p99, {longest:?} at most"
    );
    let limit = P99_LIMIT * scale / 100;
    ensure!(p99 < limit, "writes beside it took {p99:?} at p99, the limit is {limit:?}");
    cluster.compare_stores(cluster.nodes()).await?;
    cluster.close()
}

async fn fill(client: &Client, numbers: std::ops::Range<usize>, deadline: Instant) -> Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let put = |batch: kvorum_client::Batch, number| {
        batch.set_with_ttl(format!("due/{number:08}"), format!("value {number}"), left)
    };
    Ok(numbers.fold(client.batch(), put).await.map(drop)?)
}

/// Keys that the node holds.
async fn held(node: &Node) -> Result<f64> {
    rpc::metric(node.http_address(), "kvorum_store_keys").await
}

/// Keys that a writer writes in turn; they have no deadline.
const WRITER_KEYS: u32 = 10;

fn of_writers() -> f64 {
    f64::from(WRITERS * WRITER_KEYS)
}

async fn write(client: Client, writer: u32, stop: watch::Receiver<bool>) -> Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    for number in (0..WRITER_KEYS).cycle() {
        if *stop.borrow() {
            break;
        }
        let begun = Instant::now();
        client.set(format!("beside/{writer}/{number}"), "value").await?;
        latencies.push(begun.elapsed());
        sleep(PAUSE).await;
    }
    Ok(latencies)
}

/// Keys of the second test, and their times to live: some end before the first fault, most between.
const LONE_KEYS: usize = 60;
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_STEP: Duration = Duration::from_millis(250);
/// A key may stay so long after its deadline: the restart of all members, an election, and what cluster
/// time lost of the downtime.
const LATE_LIMIT: Duration = Duration::from_secs(20);

/// A key and the earliest moment at which it may be gone.
#[derive(Clone, Debug)]
struct Lone {
    key: Bytes,
    earliest: Instant,
}

#[tokio::test]
async fn no_key_goes_early_across_changes_of_the_leader_and_a_restart_of_all() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let layout = Layout::with_flags(["--election-timeout-ms", "400"]);
    let cluster = Cluster::found(3, layout).await?;
    let client = cluster.client().await?;
    let mut keys = Vec::new();
    for number in 0..LONE_KEYS {
        let (key, ttl) = (Bytes::from(format!("lone/{number:04}")), TTL_MIN + TTL_STEP * number as u32);
        // Its time is counted by the leader, from a moment after this one.
        let earliest = Instant::now() + ttl;
        client.set(key.clone(), "value").ttl(ttl).await?;
        keys.push(Lone { key, earliest });
    }
    let watchers: Vec<_> = cluster
        .endpoints()
        .into_iter()
        .map(|address| tokio::spawn(watch_keys(address, keys.clone())))
        .collect();
    faults(&cluster).await?;
    let latest = try_join_all(watchers).await?.into_iter().collect::<Result<Vec<_>>>()?;
    eprintln!(
        "ttl: {LONE_KEYS} keys stayed until their deadline through a kill, a stop and a restart of all; \
         they went up to {:?} after it",
        latest.iter().max().context("there are three nodes")?
    );
    cluster.wait_healthy().await?;
    cluster.close()
}

/// How long a member is down while nothing is written, and the time of a key that it writes as leader.
const IDLE: Duration = Duration::from_secs(4);
const SHORT_TTL: Duration = Duration::from_secs(6);
/// How much later than its deadline the key may be there, as the product promises, and what a busy machine
/// adds.
const SHORT_LATE_LIMIT: Duration = Duration::from_millis(1_500);

/// Goal: a key that was written by a leader that was down before lives as long as it should when the old
/// leader leads again. Method: a follower is killed, nothing is written for a while, it starts and leads
/// for as long as one write takes.
#[tokio::test]
async fn no_key_goes_early_when_a_member_that_was_down_leads_for_a_moment() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let cluster = Cluster::found(3, Layout::default()).await?;
    let client = cluster.client().await?;
    client.set("before", "value").await?;
    let (leader, follower) = (cluster.leader().await?, cluster.follower().await?);
    let (leader_id, follower_id) = (leader.status().await?.node_id, follower.status().await?.node_id);
    follower.kill()?;
    sleep(IDLE).await;
    follower.start().await?;
    cluster.wait_healthy().await?;
    transfer(&cluster, follower_id).await?;
    let begun = Instant::now();
    client.set("short", "value").ttl(SHORT_TTL).await?;
    let written = Instant::now();
    transfer(&cluster, leader_id).await?;
    let raw = RawClient::new(leader.client_address())?;
    while raw.get("short".into(), Consistency::Linearizable).await?.found {
        let late = written.elapsed().saturating_sub(SHORT_TTL);
        ensure!(late < SHORT_LATE_LIMIT, "the key is there {late:?} after its deadline");
        sleep(Duration::from_millis(20)).await;
    }
    let lived = begun.elapsed();
    ensure!(lived >= SHORT_TTL, "a key with a TTL of {SHORT_TTL:?} was gone after {lived:?}");
    eprintln!("ttl: a key with {SHORT_TTL:?} to live went after {lived:?}, under two leaders");
    cluster.close()
}

async fn transfer(cluster: &Cluster, to: u64) -> Result<()> {
    kvorum_faults::wait::until("the hand-over", Duration::from_secs(10), async || {
        let leader = cluster.leader().await?;
        let request = kvorum_proto::admin::v1::TransferLeaderRequest { to };
        Ok(leader.admin().transfer_leader(request).await.map(drop)?)
    })
    .await
}

/// Kills the leader, stops the next one, and restarts all members.
async fn faults(cluster: &Cluster) -> Result<()> {
    for kill in [true, false] {
        sleep(Duration::from_secs(2)).await;
        let leader = cluster.leader().await?;
        match kill {
            true => leader.kill()?,
            false => leader.terminate().await?,
        }
        leader.start().await?;
        cluster.wait_healthy().await?;
    }
    sleep(Duration::from_secs(1)).await;
    Node::kill_all(cluster.nodes().iter().map(std::sync::Arc::as_ref))?;
    sleep(Duration::from_secs(1)).await;
    for node in cluster.nodes() {
        node.start().await?;
    }
    cluster.wait_healthy().await
}

/// Looks for every key at one node until all are gone, and answers how late the latest went. A node that
/// is down answers nothing, which proves nothing.
async fn watch_keys(address: String, mut keys: Vec<Lone>) -> Result<Duration> {
    let raw = RawClient::new(&address)?;
    let mut latest = Duration::ZERO;
    let mut consistency = Consistency::Serializable;
    while !keys.is_empty() {
        let mut left = Vec::new();
        for lone in keys {
            let answer = raw.get(lone.key.clone(), consistency).await;
            let now = Instant::now();
            match answer {
                Ok(answer) if !answer.found => {
                    let early = lone.earliest.saturating_duration_since(now);
                    ensure!(early.is_zero(), "{:?} went {early:?} early at {address}", lone.key);
                    latest = latest.max(now - lone.earliest);
                }
                _ => {
                    let late = now.saturating_duration_since(lone.earliest);
                    ensure!(late < LATE_LIMIT, "{:?} is left {late:?} after its deadline", lone.key);
                    left.push(lone);
                }
            }
        }
        keys = left;
        consistency = match consistency {
            Consistency::Serializable => Consistency::Linearizable,
            Consistency::Linearizable => Consistency::Serializable,
        };
        sleep(Duration::from_millis(20)).await;
    }
    Ok(latest)
}
