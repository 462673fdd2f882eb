//! Goal: a leader that was stopped for longer than an election, and wakes up among answers of its old
//! followers, serves no linearizable read that a new leader's writes have overtaken.
//!
//! Method: SIGSTOP to the leader in the midst of many writes, so that acknowledgements of its followers
//! wait in its sockets. When another leader has acknowledged writes, linearizable reads are sent to the
//! stopped one. SIGCONT: each read that it answers must show a revision at least as high as the one that
//! was acknowledged before the read began. `PAUSES` times (10).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use kvorum_faults::process::Node;
use kvorum_faults::rpc::{Consistency, RawClient};
use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, settings, wait};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Writers to the leader, one write after the other each.
const WRITERS: usize = 32;
/// Reads that wait for the leader to wake up, on so many connections.
const READS: usize = 200;
const CONNECTIONS: usize = 4;
/// Short elections, so that many pauses fit into a run.
const ELECTION_TIMEOUT_MS: &str = "400";
/// Another leader is elected within this.
const ELECTION_LIMIT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_leader_that_was_stopped_serves_no_stale_read() -> Result<()> {
    let pauses = settings::number("PAUSES", 10);
    let layout = Layout::with_flags(["--election-timeout-ms", ELECTION_TIMEOUT_MS]);
    let cluster = Cluster::found(3, layout).await?;
    let mut answered = 0;
    for pause in 0..pauses {
        answered += pause_leader(&cluster).await.context(format!("pause {pause}"))?;
    }
    eprintln!("pause: {answered} of {} reads were answered, none stale", pauses * READS);
    ensure!(answered > 0, "no read was answered at all");
    cluster.close()
}

/// Stops the leader, lets another one take its place, and answers how many reads the woken one answered.
async fn pause_leader(cluster: &Cluster) -> Result<usize> {
    let old = cluster.leader().await?;
    let readers: Vec<_> =
        (0..CONNECTIONS).map(|_| RawClient::new(old.client_address())).collect::<Result<_>>()?;
    for reader in &readers {
        reader.get(key(), Consistency::Linearizable).await.context("a read before the pause")?;
    }
    let writers = Writers::start(&old)?;
    sleep(Duration::from_millis(200)).await;
    old.pause()?;
    let acknowledged = write_elsewhere(cluster, &old).await;
    // Whatever came of it, the process must not stay stopped.
    let reads = (0..READS).map(|read| readers[read % CONNECTIONS].get(key(), Consistency::Linearizable));
    let wake = async {
        // The reads are in the sockets by now.
        sleep(Duration::from_millis(50)).await;
        old.resume()
    };
    let (reads, woken) = tokio::join!(join_all(reads), wake);
    woken?;
    let acknowledged = acknowledged?;
    writers.stop().await;
    let mut answered = 0;
    for read in reads.into_iter().flatten() {
        let revision = read.header.map_or(0, |header| header.revision);
        ensure!(
            revision >= acknowledged,
            "revision {revision} was served, {acknowledged} was acknowledged before the read began"
        );
        answered += 1;
    }
    cluster.wait_healthy().await?;
    Ok(answered)
}

/// Writes by another leader than the one that is stopped, and answers the last revision.
async fn write_elsewhere(cluster: &Cluster, stopped: &Arc<Node>) -> Result<u64> {
    let other = cluster.nodes().iter().find(|node| node.name() != stopped.name()).context("one node")?;
    let client = RawClient::new(other.client_address())?;
    wait::until("a write without the stopped leader", ELECTION_LIMIT, async || {
        Ok(client.set(key(), Bytes::from_static(b"new"), None).await?)
    })
    .await
}

fn key() -> Bytes {
    Bytes::from_static(b"pause")
}

/// Clients of the leader that write as fast as they can.
struct Writers {
    running: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Writers {
    fn start(leader: &Node) -> Result<Writers> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let running = Arc::new(AtomicBool::new(true));
        let mut tasks = JoinSet::new();
        for _ in 0..WRITERS {
            let (running, client) = (running.clone(), RawClient::new(leader.client_address())?);
            tasks.spawn(async move {
                while running.load(Ordering::Relaxed) {
                    let key = format!("write/{}", NEXT.fetch_add(1, Ordering::Relaxed) % 1000);
                    // What becomes of a write is not the question here.
                    let _ = client.set(key.into(), Bytes::from_static(b"value"), None).await;
                }
            });
        }
        Ok(Writers { running, tasks })
    }

    async fn stop(mut self) {
        self.running.store(false, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
    }
}
