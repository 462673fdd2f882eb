//! Goal: a revision too large for the ring is told to those whom it concerns at once, however many they are,
//! and nobody else is told later for it. A watch that reads it from disk sees all of it, once, in order.
//!
//! Method: `WATCHES` range watches (2,000), of which `CONCERNED` (300) watch some of 100,000 keys each
//! (`KEYS`); one delete takes all of the keys. The time counts from the delete's answer until the last of
//! them was told, and likewise from the answer to a write until the others were. The limit can be scaled in
//! per cent with `LATENCY_SCALE` where the machine is shared. Then one watch of all the keys from the
//! delete's revision on, and one from before it.

use std::time::Duration;

use bytes::Bytes;
use kvorum_faults::latency::Distribution;
use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, rpc, settings};
use kvorum_proto::kv::v1 as wire;
use kvorum_proto::kv::v1::kv_client::KvClient;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;
use tonic::{Request, Streaming};

/// What the product promises.
const LIMIT: Duration = Duration::from_millis(500);
/// Watches share connections, as those of a client do.
const WATCHES_PER_CONNECTION: usize = 100;
/// Keys of one write.
const BATCH: usize = 1_000;
/// Keys of each watch that the delete concerns.
const KEYS_OF_A_WATCH: usize = 10;
/// Nothing in here takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_revision_is_told_at_once() -> Result<()> {
    let watches: usize = settings::number("WATCHES", 2_000);
    let concerned: usize = settings::number("CONCERNED", 300);
    let keys: usize = settings::number("KEYS", 100_000);
    let limit = LIMIT * settings::number("LATENCY_SCALE", 100) / 100;
    let cluster = Cluster::found(1, Layout::default()).await?;
    let address = cluster.nodes()[0].client_address().to_owned();
    let kv = KvClient::new(rpc::channel(&address)?);
    for first in (0..keys).step_by(BATCH) {
        fill(kv.clone(), first..(first + BATCH).min(keys)).await.context("write the keys")?;
    }

    let mut channels = Vec::new();
    for _ in 0..watches.div_ceil(WATCHES_PER_CONNECTION) {
        channels.push(rpc::channel(&address)?);
    }
    let mut told = JoinSet::new();
    let mut others = JoinSet::new();
    for number in 0..watches {
        let channel = channels[number % channels.len()].clone();
        if number < concerned {
            let first = number * (keys / concerned);
            let range = range(gone(first), gone(first + KEYS_OF_A_WATCH));
            let watch = open(channel, range, 0).await.context("open a watch")?;
            told.spawn(events_of(watch, KEYS_OF_A_WATCH));
        } else {
            let watch = open(channel, range("other/".into(), format!("other/z{number:05}")), 0).await?;
            others.spawn(events_of(watch, 1));
        }
    }

    let delete = wire::DeleteRequest { range: Some(prefix("gone/".into())), ..Default::default() };
    let asked = Instant::now();
    let deleted = kv.clone().delete(limited(delete)).await.context("delete the keys")?.into_inner();
    let answered = Instant::now();
    ensure!(deleted.deleted == keys as u64, "{} keys were deleted", deleted.deleted);
    let revision = deleted.header.map_or(0, |header| header.revision);
    let write = wire::BatchRequest { conditions: Vec::new(), ops: vec![put("other/key".into(), "value")] };
    kv.clone().batch(limited(write)).await.context("write what the others watch")?;
    let written = Instant::now();

    let of_told = latencies(told, answered).await.context("those whom the delete concerns")?;
    let of_others = latencies(others, written).await.context("the others")?;
    let (longest, longest_other) = (of_told.percentile(100), of_others.percentile(100));
    eprintln!(
        "watch_reads: the delete of {keys} keys was answered after {:?}; {concerned} of {watches} watches were \
         told of it within {longest:?} (half of them within {:?}), the others of a write after it within \
         {longest_other:?}",
        answered - asked,
        of_told.percentile(50)
    );
    ensure!(longest < limit, "who is concerned was told after {longest:?}, the limit is {limit:?}");
    ensure!(longest_other < limit, "others were told after {longest_other:?}, the limit is {limit:?}");

    for from in [revision, revision - 1] {
        let watch = open(rpc::channel(&address)?, prefix("gone/".into()), from).await?;
        timeout(PATIENCE, all_of_it(watch, revision, keys))
            .await
            .context("a watch from the past")?
            .context(format!("a watch from {from}"))?;
    }
    cluster.close()
}

/// Each key of the delete once, in order, and then the word that it is complete.
async fn all_of_it(mut watch: Streaming<wire::WatchResponse>, revision: u64, keys: usize) -> Result<()> {
    let mut seen = 0;
    loop {
        let response = watch.message().await?.context("the watch ended")?;
        let mark = response.header.map_or(0, |header| header.revision);
        for event in response.events {
            let kv = event.kv.unwrap_or_default();
            if kv.mod_revision == revision {
                let wanted = gone(seen);
                ensure!(kv.key == wanted, "{} came instead of {wanted}", kv.key.escape_ascii());
                seen += 1;
            }
        }
        if mark >= revision && !response.fragment {
            ensure!(seen == keys, "{seen} of {keys} keys came, and {mark} is said to be complete");
            return Ok(());
        }
    }
}

async fn latencies(mut watches: JoinSet<Result<Instant>>, since: Instant) -> Result<Distribution> {
    let mut latencies = Vec::new();
    while let Some(told) = timeout(PATIENCE, watches.join_next()).await.context("wait for all of them")? {
        latencies.push(told??.saturating_duration_since(since));
    }
    Ok(Distribution::new(latencies))
}

/// When so many events were there.
async fn events_of(mut watch: Streaming<wire::WatchResponse>, events: usize) -> Result<Instant> {
    let mut seen = 0;
    while seen < events {
        seen += watch.message().await?.context("the watch ended")?.events.len();
    }
    ensure!(seen == events, "{seen} events came instead of {events}");
    Ok(Instant::now())
}

/// A watch that has begun.
async fn open(
    channel: Channel,
    range: wire::KeyRange,
    from_revision: u64,
) -> Result<Streaming<wire::WatchResponse>> {
    let request = wire::WatchRequest { range: Some(range), from_revision, previous: false };
    let mut stream = KvClient::new(channel).watch(request).await?.into_inner();
    stream.message().await?.context("the watch began with nothing")?;
    Ok(stream)
}

async fn fill(mut kv: KvClient<Channel>, numbers: std::ops::Range<usize>) -> Result<()> {
    let ops = numbers.map(|number| put(gone(number), "value")).collect();
    let write = wire::BatchRequest { conditions: Vec::new(), ops };
    Ok(kv.batch(limited(write)).await.map(drop)?)
}

fn put(key: String, value: &'static str) -> wire::BatchOp {
    let put = wire::batch_op::Put { key: key.into(), value: value.into(), ttl_ms: 0 };
    wire::BatchOp { op: Some(wire::batch_op::Op::Put(put)) }
}

fn gone(number: usize) -> String {
    format!("gone/{number:06}")
}

fn range(start: String, end: String) -> wire::KeyRange {
    wire::KeyRange { start: start.into(), end: end.into(), unbounded: false }
}

fn prefix(prefix: String) -> wire::KeyRange {
    let mut end = prefix.clone().into_bytes();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    wire::KeyRange { start: Bytes::from(prefix), end: end.into(), unbounded: false }
}

fn limited<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}
