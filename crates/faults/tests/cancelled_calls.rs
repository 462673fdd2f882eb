//! Goal: a node that stood still costs a client nothing but the time: its connection lives on, and a watch
//! on it misses nothing, though hundreds of calls on it were given up meanwhile. (A connection that brings
//! more cancelled calls than fit is still closed: a unit test of the transport.)
//!
//! Method: one watch of every key, and many callers with short deadlines, all on one connection; the node is
//! stopped for several of these deadlines, and goes on. The watch must tell each revision once, on the same
//! stream, those of calls included that had been given up.

use std::time::Duration;

use bytes::Bytes;
use kvorum_faults::journal::{Change, FIRST_REVISION, Journal};
use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, rpc, wait};
use kvorum_proto::kv::v1 as wire;
use kvorum_proto::kv::v1::kv_client::KvClient;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::Request;
use tonic::transport::Channel;

/// Callers on the connection, and what each of their calls may take. During the pause that makes some 2,000
/// cancelled calls: far more than HTTP/2 libraries let pass (20), and fewer than the node does (4,096).
const CALLERS: usize = 200;
const DEADLINE: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_secs(3);
/// Load before the pause, and after it.
const LOAD: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_pause_of_the_node_ends_no_watch() -> Result<()> {
    let cluster = Cluster::found(1, Layout::default()).await?;
    let node = cluster.nodes()[0].clone();
    let channel = rpc::channel(node.client_address())?;
    let mut kv = KvClient::new(channel.clone());
    let range = wire::KeyRange { unbounded: true, ..Default::default() };
    let request = wire::WatchRequest { range: Some(range), from_revision: FIRST_REVISION, previous: false };
    let stream = kv.watch(request).await.context("open the watch")?.into_inner();
    let target = watch::Sender::new(0);
    let watching = tokio::spawn(follow(stream, target.subscribe()));

    let stop = watch::Sender::new(false);
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(call(channel.clone(), caller, stop.subscribe()));
    }
    sleep(LOAD).await;
    node.pause()?;
    sleep(PAUSE).await;
    node.resume()?;
    sleep(LOAD).await;
    stop.send_replace(true);
    let mut given_up = 0;
    while let Some(failed) = callers.join_next().await {
        given_up += failed?;
    }
    ensure!(given_up >= CALLERS, "only {given_up} calls were given up");

    let last = wait::until("a write after the pause", LIMIT, async || {
        let request = wire::SetRequest { key: "last".into(), ..Default::default() };
        let answer = kv.clone().set(request).await?.into_inner();
        Ok(answer.header.map_or(0, |header| header.revision))
    })
    .await?;
    target.send_replace(last);
    let journal = timeout(LIMIT, watching).await.context("see the last write")???;
    ensure!(journal.next() == last + 1, "the watch ended before {}", journal.next());
    eprintln!("cancelled_calls: {given_up} calls were given up; the watch told all {last} revisions");
    cluster.close()
}

/// Calls until told to stop, and answers how many calls failed.
async fn call(channel: Channel, caller: usize, stop: watch::Receiver<bool>) -> usize {
    let mut kv = KvClient::new(channel);
    let mut failed = 0;
    while !*stop.borrow() {
        let key = Bytes::from(format!("caller/{caller:04}"));
        let mut request = Request::new(wire::SetRequest { key, ..Default::default() });
        request.set_timeout(DEADLINE);
        failed += usize::from(kv.set(request).await.is_err());
        sleep(Duration::from_millis(20)).await;
    }
    failed
}

/// Everything that the stream tells, until the revision that the target says.
async fn follow(
    mut stream: tonic::Streaming<wire::WatchResponse>,
    mut target: watch::Receiver<u64>,
) -> Result<Journal> {
    let mut journal = Journal::default();
    loop {
        let last = *target.borrow_and_update();
        if last != 0 && journal.next() > last {
            return Ok(journal);
        }
        let response = tokio::select! {
            response = stream.message() => response.context("the watch broke off")?,
            changed = target.changed() => {
                changed?;
                continue;
            }
        };
        for event in response.context("the watch ended")?.events {
            let kv = event.kv.unwrap_or_default();
            let deleted = event.kind == i32::from(wire::event::Kind::Delete);
            let change = Change { deleted, key: &kv.key, value: &kv.value, version: kv.version };
            journal.take(kv.mod_revision, [change])?;
        }
    }
}
