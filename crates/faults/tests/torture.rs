//! Goal: nothing that was acknowledged is lost, no read goes back in time, registers are linearizable, no
//! conditional write passes over another, no key with a TTL ends early, watchers see each event once, and
//! all stores are equal, whatever is done to the members.
//!
//! Method: three real processes under load, each on a host of its own where there may be network
//! namespaces. Members are killed, stopped and made to abort; their disks hang and stutter; their
//! connections are cut, one way too, and lose packets. `KILLS` faults are done (20), or as many as fit into
//! `MINUTES`, of the kinds in `FAULTS` (kill,pause,disk,net,core; all of them by default), in turn. What
//! clients were told is recorded on their side and compared at the end, and a table says what the faults
//! cost. `SEED` repeats the random choices of a run; what the processes make of them differs.

use std::sync::Arc;
use std::time::Duration;

use kvorum_faults::costs::{Costs, Done};
use kvorum_faults::faults::Kind;
use kvorum_faults::network::Network;
use kvorum_faults::workload::Workload;
use kvorum_faults::{Cluster, Layout, Result, ensure, settings};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::sleep;

/// Short elections, so that many faults fit into a run.
const ELECTION_TIMEOUT_MS: &str = "400";
const MEMBERS: usize = 3;
/// How long the cluster is left alone between two faults, in milliseconds, at most.
const REST_MS: u64 = 600;

#[tokio::test]
async fn nothing_acknowledged_is_lost_to_faults() -> Result<()> {
    let (kills, seed) = (settings::number("KILLS", 20), settings::seed());
    let limit = Duration::from_secs(60 * settings::number("MINUTES", 0));
    let kinds = kinds()?;
    let names: Vec<_> = kinds.iter().map(Kind::to_string).collect();
    eprintln!(
        "torture: KILLS={kills} MINUTES={} FAULTS={} SEED={seed}",
        limit.as_secs() / 60,
        names.join(",")
    );
    let mut layout = Layout::with_flags(["--election-timeout-ms", ELECTION_TIMEOUT_MS]);
    if kinds.contains(&Kind::Net) {
        layout.network = Some(Arc::new(Network::make(MEMBERS)?));
    }
    let cluster = Cluster::found(MEMBERS, layout).await?;
    let mut workload = Workload::start(&cluster, seed).await?;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut done: Vec<Done> = Vec::new();
    for kind in kinds.iter().cycle() {
        let enough = if limit.is_zero() { done.len() >= kills } else { workload.elapsed() >= limit };
        if enough {
            break;
        }
        let begun = workload.elapsed();
        let fault = kind.inflict(&cluster, &mut rng).await?;
        // Mostly the next fault finds a cluster that is well; now and then one that just recovers.
        if rng.random_bool(0.7) {
            cluster.wait_healthy().await?;
        }
        sleep(Duration::from_millis(rng.random_range(0..REST_MS))).await;
        cluster.check_alive()?;
        done.push(Done { fault, begun, over: workload.elapsed() });
        workload.check_clients().await?;
        // A fault leaves outcomes that nobody knows: each of them makes a register's history harder to search.
        workload.advance();
    }
    let minutes = workload.elapsed().as_secs_f64() / 60.0;
    let report = workload.finish(&cluster).await?;
    eprintln!("torture: after {} faults in {minutes:.1} minutes, {report}", done.len());
    eprintln!("{}", Costs::of(&done, report.answered().to_vec()));
    cluster.close()
}

/// The kinds that were asked for and can be done here.
fn kinds() -> Result<Vec<Kind>> {
    let mut kinds = Kind::parse(&std::env::var("FAULTS").unwrap_or_default())?;
    kinds.retain(|kind| match kind.missing() {
        None => true,
        Some(reason) => {
            eprintln!("SKIPPED torture: no faults of kind {kind}: {reason}");
            false
        }
    });
    ensure!(!kinds.is_empty(), "none of the kinds of faults can be done here");
    Ok(kinds)
}
