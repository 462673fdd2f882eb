//! Goal: nobody notices that members are stopped one after the other, not even a client that tries nothing
//! twice and is sent to members by a list that is late; and a member is not listed again before it serves.
//!
//! Method: three nodes behind one address. Writers keep a connection each; newcomers make one for every write.
//! A node gets SIGTERM, stays listed for as long as it may, and is listed again when it says that it is ready.
//! It goes round the members, the leader among them. No call is tried again, but one that its node says it has not
//! begun, see `rpc::is_unprocessed`: any other that fails is a failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kvorum_faults::balancer::Balancer;
use kvorum_faults::process::Node;
use kvorum_faults::rpc::{self, RawClient};
use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, settings, wait};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// What the nodes are told, and what the list of members takes of it.
const SHUTDOWN_DELAY: &str = "2s";
const LISTED_FOR: Duration = Duration::from_millis(1500);

/// Writers that keep their connection, and newcomers that do not.
const WRITERS: usize = 8;
const NEWCOMERS: usize = 2;
/// Between two writes of one of them.
const PAUSE: Duration = Duration::from_millis(5);
/// Between two connections of a newcomer.
const NEWCOMER_PAUSE: Duration = Duration::from_millis(50);

/// How long a single write may take.
const SLOWEST: Duration = Duration::from_secs(1);
/// How long a member may take to be ready again.
const READY_LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_that_members_are_stopped_in_turn() -> Result<()> {
    let cluster = Cluster::found(3, Layout::with_flags(["--shutdown-delay", SHUTDOWN_DELAY])).await?;
    let balancer = Balancer::start(cluster.endpoints()).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<JoinHandle<Result<Seen>>> = (0..WRITERS + NEWCOMERS)
        .map(|n| tokio::spawn(write(n, balancer.address().to_owned(), n >= WRITERS, stop.clone())))
        .collect();
    sleep(LISTED_FOR).await;
    for _ in 0..settings::number("ROLLS", 1) {
        let leader = cluster.leader().await?;
        let followers = cluster.nodes().iter().filter(|node| node.name() != leader.name());
        for node in followers.chain([&leader]) {
            restart(node, &balancer).await?;
        }
    }
    sleep(LISTED_FOR).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Seen::default();
    for task in load {
        let seen = task.await??;
        all.writes += seen.writes;
        all.slowest = all.slowest.max(seen.slowest);
        all.failures.extend(seen.failures);
    }
    eprintln!(
        "leaving: {} writes, {} failed, the slowest took {:?}",
        all.writes,
        all.failures.len(),
        all.slowest
    );
    ensure!(all.failures.is_empty(), "{} of {} failed: {:#?}", all.failures.len(), all.writes, all.failures);
    let limit = SLOWEST * settings::number("LATENCY_SCALE", 100) / 100;
    ensure!(all.slowest < limit, "a write took {:?}, the limit is {limit:?}", all.slowest);
    cluster.close()
}

/// Stops a node while it is still listed, and starts it again.
async fn restart(node: &Arc<Node>, balancer: &Balancer) -> Result<()> {
    let unlist = async {
        sleep(LISTED_FOR).await;
        let ready = rpc::health(node.http_address(), "/readyz").await?;
        let said = ready.err().context("a node that was told to stop says that it is ready")?;
        ensure!(said.contains("shutting down"), "it says {said}");
        balancer.remove(node.client_address());
        Ok(())
    };
    let (unlisted, stopped) = tokio::join!(unlist, node.terminate());
    unlisted?;
    stopped?;
    node.spawn()?;
    let ready =
        async || rpc::health(node.http_address(), "/readyz").await?.map_err(kvorum_faults::Failure::new);
    wait::until("a node that is ready", READY_LIMIT, ready).await?;
    balancer.add(node.client_address());
    Ok(())
}

/// What a client saw.
#[derive(Debug, Default)]
struct Seen {
    writes: usize,
    slowest: Duration,
    failures: Vec<String>,
}

async fn write(n: usize, address: String, newcomer: bool, stop: Arc<AtomicBool>) -> Result<Seen> {
    let begun = Instant::now();
    let mut seen = Seen::default();
    let mut client = RawClient::new(&address)?;
    while !stop.load(Ordering::Relaxed) {
        if newcomer {
            client = RawClient::new(&address)?;
        }
        let called = Instant::now();
        let key = Bytes::from(format!("writer-{n}/{}", seen.writes));
        let mut written = client.set(key.clone(), "value".into(), None).await;
        if written.as_ref().is_err_and(rpc::is_unprocessed) {
            written = client.set(key, "value".into(), None).await;
        }
        if let Err(status) = written {
            seen.failures.push(format!("writer {n} at {:?}: {status:?}", begun.elapsed()));
        }
        seen.writes += 1;
        seen.slowest = seen.slowest.max(called.elapsed());
        sleep(if newcomer { NEWCOMER_PAUSE } else { PAUSE }).await;
    }
    Ok(seen)
}
