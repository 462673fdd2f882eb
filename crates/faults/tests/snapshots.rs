//! Goal: a member that needs a snapshot is caught up by one, whatever is written meanwhile, and streams of
//! snapshots that nobody reads hold up nothing else.
//!
//! Method: three nodes that keep little log. One loses its disk and is added anew while writers go on that
//! replace the whole log several times over while a snapshot is sent, verified and installed, with a pause
//! of the receiver in its midst; the metrics count the snapshots. And more streams than a node has threads are opened and left alone.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use kvorum_client::Client;
use kvorum_faults::process::Node;
use kvorum_faults::rpc::{self, RawClient};
use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, settings, wait};
use kvorum_proto::admin::v1 as admin;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

/// Log that is kept: what is written within a fraction of a second.
const LOG_RETAIN: &str = "256KiB";
/// Keys in the store; `SNAPSHOT_KEYS` in the environment has the number for the lost disk.
const KEYS: u32 = 10_000;
const VALUE_BYTES: usize = 1024;
/// Keys of one request while the store is filled.
const BATCH: u32 = 200;
/// Writers during the transfer, and the size of what each writes at a time.
const WRITERS: usize = 8;
const WRITE_BYTES: usize = 16 * 1024;
/// The receiver stands still for so long, as one does whose disk is slow: the log is purged several times
/// meanwhile, and the connection lives.
const PAUSE: Duration = Duration::from_millis(1500);
/// Time for all of a transfer on a machine that is busy.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(90);

/// Streams that nobody reads: more than there are threads for what blocks.
const STREAMS: usize = 70;
/// Those of them that are served.
const STREAMS_MAX: usize = 4;
/// What everything else takes at most beside them; `LATENCY_SCALE` scales it in per cent.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// One cluster at a time has the machine.
static MACHINE: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn a_lost_disk_is_made_up_for_by_one_snapshot_under_load() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let retain = std::env::var("SNAPSHOT_LOG_RETAIN").unwrap_or_else(|_| LOG_RETAIN.into());
    let cluster = Cluster::found(3, Layout::with_flags(["--log-retain-bytes", &retain])).await?;
    let client = cluster.client().await?;
    fill(&client, settings::number("SNAPSHOT_KEYS", KEYS)).await?;
    let lost = cluster.follower().await?;
    let old_id = lost.status().await?.node_id;

    lost.kill()?;
    lost.wipe()?;
    cluster.remove_member(old_id).await?;
    lost.start().await?;
    let stop = watch::Sender::new(false);
    let load: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write(client.clone(), writer, stop.subscribe()))).collect();
    let begun = Instant::now();
    let hampered = async { tokio::try_join!(cluster.add_voter(&lost), pause_while_receiving(&lost)) };
    let added = timeout(CATCH_UP_LIMIT, hampered).await;
    let took = begun.elapsed();
    stop.send_replace(true);
    let written: usize = try_join_all(load).await?.into_iter().sum::<Result<usize>>()?;
    added.context("catching up under load")??;
    cluster.compare_stores(cluster.nodes()).await?;
    // A snapshot is counted when its sender has been answered, which may be after it is in use.
    let received = wait::until("the count of a snapshot", CATCH_UP_LIMIT, async || {
        let received = rpc::metric(lost.http_address(), "kvorum_snapshots_received_total").await?;
        ensure!(received >= 1.0, "it caught up without a snapshot, so that the log was not purged");
        Ok(received)
    })
    .await?;
    eprintln!(
        "snapshots: caught up in {took:?} by {received} snapshots, beside {} KiB written",
        written / 1024
    );
    ensure!(received == 1.0, "it took {received} snapshots");
    cluster.close()
}

#[tokio::test]
async fn streams_that_nobody_reads_hold_up_nothing() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let cluster = Cluster::found(1, Layout::with_flags(["--log-retain-bytes", LOG_RETAIN])).await?;
    let client = cluster.client().await?;
    // More than what a connection takes without being read.
    fill(&client, KEYS).await?;
    let [node] = cluster.nodes() else { unreachable!("one was founded") };
    let open = (0..STREAMS).map(|_| {
        let mut admin = admin::admin_client::AdminClient::new(rpc::channel(node.peer_address())?);
        Ok(async move {
            let stream = admin.snapshot(admin::SnapshotRequest {}).await;
            stream.map(|stream| (admin, stream))
        })
    });
    let before = applied(node).await?;
    let opened = join_all(open.collect::<Result<Vec<_>>>()?).await;
    // What the leader does by itself, now that it is founded, may come in between.
    let states = 1 + applied(node).await? - before;
    let refused: Vec<_> = opened.iter().filter_map(|stream| stream.as_ref().err()).collect();
    let limit = ANSWER_LIMIT * settings::number("LATENCY_SCALE", 100) / 100;
    let raw = RawClient::new(node.client_address())?;
    let everything_else = async {
        client.set("beside", "them").await?;
        let range = rpc::range("beside", "besidf");
        ensure!(raw.scan_range(range, 0).await?.len() == 1, "a scan found not what was written");
        rpc::metric(node.http_address(), "kvorum_store_keys").await?;
        let revision = node.status().await?.revision;
        node.hash(revision).await.map(drop)
    };
    timeout(limit, everything_else).await.context("everything else beside the streams")??;
    ensure!(refused.len() == STREAMS - STREAMS_MAX, "{} of {STREAMS} streams were refused", refused.len());
    for status in refused {
        ensure!(status.code() == Code::ResourceExhausted, "refused with {status}");
    }
    // They all read the same state. A place that is given up can be had again.
    let checkpoints = std::fs::read_dir(node.data().join("checkpoints"))?.count();
    ensure!(checkpoints as u64 <= states, "{checkpoints} checkpoints were made of {states} states");
    drop(opened);
    wait::until("a place for a snapshot", CATCH_UP_LIMIT, async || {
        node.admin().snapshot(admin::SnapshotRequest {}).await?;
        Ok(())
    })
    .await?;
    cluster.close()
}

/// The last entry that was applied.
async fn applied(node: &Node) -> Result<u64> {
    Ok(node.status().await?.applied.context("nothing is applied")?.index)
}

/// Pauses a node in the midst of the first snapshot that it receives.
async fn pause_while_receiving(node: &Node) -> Result<()> {
    while !node.is_receiving_snapshot() {
        sleep(Duration::from_millis(1)).await;
    }
    node.pause()?;
    sleep(PAUSE).await;
    node.resume()
}

/// Writes many keys, which no compression makes small.
async fn fill(client: &Client, keys: u32) -> Result<()> {
    let client = Arc::new(client);
    try_join_all((0..keys).step_by(BATCH as usize).map(|from| {
        let client = client.clone();
        async move {
            let mut batch = client.batch();
            for number in from..keys.min(from + BATCH) {
                let value: [u8; VALUE_BYTES] = rand::random();
                batch = batch.set(format!("filled/{number:08}"), value.to_vec());
            }
            batch.timeout(Duration::from_secs(60)).await.map(drop)
        }
    }))
    .await?;
    Ok(())
}

/// Writes one value after another until told to stop, and answers how many bytes that were.
async fn write(client: Client, writer: usize, stop: watch::Receiver<bool>) -> Result<usize> {
    let mut written = 0;
    while !*stop.borrow() {
        let value = vec![0; WRITE_BYTES];
        client.set(format!("load/{writer}"), value).timeout(Duration::from_secs(30)).await?;
        written += WRITE_BYTES;
        sleep(Duration::from_millis(2)).await;
    }
    Ok(written)
}
