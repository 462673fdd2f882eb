//! Goal: clients do not notice that much history is compacted.
//!
//! Method: revisions that supersede one another, `COMPACT_REVISIONS` of them (40,000; a million for the
//! figure), then 500 puts a second, each begun at its time whether or not the others were answered. Their
//! latency, counted from that time, while everything before is compacted, and until nothing is left of it,
//! is compared with that of a while before, and with what one append and its sync beside it waited.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use kvorum_client::Client;
use kvorum_faults::latency::Distribution;
use kvorum_faults::witness::Witness;
use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, settings};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// Keys that all revisions are of, and the size of their values.
const KEYS: usize = 1_000;
const VALUE_BYTES: usize = 256;
/// Clients that make the revisions.
const CLIENTS: usize = 64;
/// 500 puts a second.
const PUT_PERIOD: Duration = Duration::from_millis(2);
/// Puts before the compaction begins; they are measured for the comparison.
const BEFORE: Duration = Duration::from_secs(8);
/// RocksDB works on after the last change is forgotten.
const AFTER: Duration = Duration::from_secs(3);
/// What a compaction may add to the longest put; `LATENCY_SCALE` scales it in per cent.
const LIMIT: Duration = Duration::from_millis(100);
/// A step of 1,000 changes every 10 ms takes a million off in 10 s; a busy machine takes longer.
const COMPACTION_LIMIT: Duration = Duration::from_secs(300);

#[tokio::test]
async fn nobody_waits_for_a_compaction() -> Result<()> {
    let revisions = settings::number("COMPACT_REVISIONS", 40_000);
    let scale = settings::number("LATENCY_SCALE", 100);
    let cluster = Cluster::found(3, Layout::with_flags(["--auto-compaction-retention", "0"])).await?;
    let client = cluster.client().await?;
    let begun = Instant::now();
    try_join_all((0..CLIENTS).map(|at| fill(&client, (at..revisions).step_by(CLIENTS)))).await?;
    eprintln!("compaction: {revisions} revisions made in {:?}", begun.elapsed());

    let stop = watch::Sender::new(false);
    let epoch = Instant::now();
    let load = tokio::spawn(load(client.clone(), epoch, stop.subscribe()));
    sleep(BEFORE).await;
    let witness = Witness::start(cluster.directory()?)?;
    let compact_at = epoch.elapsed();
    let took = compact(&cluster, &client, revisions).await?;
    sleep(AFTER).await;
    stop.send_replace(true);
    let puts = load.await??;
    let waited = witness.finish()?;

    let (before, during): (Vec<Put>, Vec<Put>) = puts.into_iter().partition(|put| put.ended() < compact_at);
    let figures = |puts: &[Put]| Distribution::new(puts.iter().map(|put| put.latency).collect());
    let (before, during) = (figures(&before), figures(&during));
    eprintln!(
        "compaction: {revisions} revisions forgotten in {took:?}; 500 puts a second took {:?} at p99 and {:?} at \
         most, before it {:?} and {:?}; an append beside them waited {waited:?} at most",
        during.percentile(99),
        during.percentile(100),
        before.percentile(99),
        before.percentile(100)
    );
    let limit = LIMIT * scale / 100 + before.percentile(100) + waited;
    let longest = during.percentile(100);
    ensure!(longest <= limit, "a put took {longest:?} beside a compaction, the limit is {limit:?}");
    cluster.compare_stores(cluster.nodes()).await?;
    cluster.close()
}

async fn fill(client: &Client, numbers: impl Iterator<Item = usize>) -> Result<()> {
    for number in numbers {
        client.set(key(number), value()).timeout(Duration::from_secs(30)).await?;
    }
    Ok(())
}

fn key(number: usize) -> String {
    format!("often/{:04}", number % KEYS)
}

fn value() -> Bytes {
    vec![b'v'; VALUE_BYTES].into()
}

/// Compacts everything up to now, and answers after what time nothing was left to forget.
async fn compact(cluster: &Cluster, client: &Client, revisions: usize) -> Result<Duration> {
    let leader = cluster.leader().await?;
    let status = leader.status().await?;
    let begun = Instant::now();
    client.compact(status.revision).await?;
    // What is forgotten shows in the bytes that the store accounts for. They fall by about this much,
    // and then rise again by what is written meanwhile.
    let expected = (revisions.saturating_sub(KEYS) * VALUE_BYTES) as u64;
    let mut last = status.logical_bytes;
    loop {
        sleep(Duration::from_millis(200)).await;
        let bytes = leader.status().await?.logical_bytes;
        if bytes + expected / 2 < status.logical_bytes && bytes >= last {
            return Ok(begun.elapsed());
        }
        let left = bytes.saturating_sub(status.logical_bytes.saturating_sub(expected));
        ensure!(begun.elapsed() < COMPACTION_LIMIT, "after {COMPACTION_LIMIT:?}, {left} bytes are left");
        last = bytes;
    }
}

/// One put under steady load.
#[derive(Clone, Copy, Debug)]
struct Put {
    /// When it should have begun, from the start of the load.
    due: Duration,
    latency: Duration,
}

impl Put {
    fn ended(&self) -> Duration {
        self.due + self.latency
    }
}

/// Puts at a fixed rate until told to stop.
async fn load(client: Client, epoch: Instant, stop: watch::Receiver<bool>) -> Result<Vec<Put>> {
    let mut turns = interval(PUT_PERIOD);
    // A turn that was missed is made up for: its put was due all the same.
    turns.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way: Vec<JoinHandle<Result<Put>>> = Vec::new();
    let mut number = 0;
    while !*stop.borrow() {
        let due = turns.tick().await;
        let client = client.clone();
        number += 1;
        under_way.push(tokio::spawn(async move {
            client.set(key(number), value()).await?;
            Ok(Put { due: due.saturating_duration_since(epoch), latency: due.elapsed() })
        }));
    }
    let mut puts = Vec::new();
    for put in under_way {
        puts.push(put.await?.context("put beside the compaction")?);
    }
    Ok(puts)
}
