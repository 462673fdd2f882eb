//! Goal: nothing that was acknowledged is lost, no read goes back in time, registers are linearizable,
//! watchers see each event once, and all stores are equal, however often members are killed.
//!
//! Method: three real processes under load. The leader, a follower, then all three are killed with
//! SIGKILL, again and again, `KILLS` times (30), down for a random time and killed again sometimes before
//! they have recovered. What clients were told is recorded on their side and compared at the end.
//! `SEED` repeats the random choices of a run; what the processes make of them differs.

use std::sync::Arc;
use std::time::Duration;

use kvorum_faults::process::Node;
use kvorum_faults::workload::Workload;
use kvorum_faults::{Cluster, Layout, Result, settings};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::sleep;

/// The registers change so often, which bounds the history of each.
const KILLS_PER_GENERATION: usize = 5;
/// Short elections, so that many kills fit into a run.
const ELECTION_TIMEOUT_MS: &str = "400";

#[tokio::test]
async fn nothing_acknowledged_is_lost_to_sigkill() -> Result<()> {
    let (kills, seed) = (settings::number("KILLS", 30), settings::seed());
    eprintln!("torture: KILLS={kills} SEED={seed}");
    let layout = Layout::with_flags(["--election-timeout-ms", ELECTION_TIMEOUT_MS]);
    let cluster = Cluster::found(3, layout).await?;
    let mut workload = Workload::start(&cluster, seed).await?;
    let mut rng = StdRng::seed_from_u64(seed);
    for kill in 0..kills {
        kill_some(&cluster, kill, &mut rng).await?;
        workload.check_clients().await?;
        if kill % KILLS_PER_GENERATION == KILLS_PER_GENERATION - 1 {
            workload.advance();
        }
    }
    let report = workload.finish(&cluster).await?;
    eprintln!("torture: after {kills} kills, {report}");
    cluster.close()
}

/// Kills the leader, a follower or all, in turn, and starts them again.
async fn kill_some(cluster: &Cluster, kill: usize, rng: &mut StdRng) -> Result<()> {
    let victims: Vec<Arc<Node>> = match kill % 3 {
        0 => vec![cluster.leader().await?],
        1 => vec![cluster.follower().await?],
        _ => cluster.nodes().to_vec(),
    };
    Node::kill_all(victims.iter().map(Arc::as_ref))?;
    sleep(Duration::from_millis(rng.random_range(0..600))).await;
    for victim in &victims {
        victim.start().await?;
    }
    // Mostly the next kill finds a cluster that is well; now and then one that just recovers.
    if rng.random_bool(0.7) {
        cluster.wait_healthy().await?;
    }
    sleep(Duration::from_millis(rng.random_range(0..600))).await;
    cluster.check_alive()
}
