//! Disks that are lost while they hold much.

use std::time::Duration;

use kvorum_e2e::load::Voters;
use kvorum_e2e::machines::Machines;
use kvorum_e2e::{Cluster, Context as _, Load, Result, ensure, run_alone, wait};
use tokio::time::Instant;

const VALUE_BYTES: usize = 1 << 20;
const VALUES: usize = 1 << 10;

/// Goal: three voters again within a minute after a claim of a cluster with 1 GiB of data was deleted
/// with its pod, never fewer than two on the way. Method: as in `e2e`, after 1,024 writes of 1 MiB.
#[test]
#[ignore = "needs a Kubernetes: make e2e-full"]
fn a_disk_with_a_gibibyte_is_replaced_within_a_minute() {
    run_alone("lost_gibibyte", Duration::from_secs(600), async |test| {
        let mut spec = kvorum_e2e::cluster::spec(3);
        spec["storage"]["size"] = serde_json::json!("10Gi");
        let cluster = Cluster::create(test, "demo", spec).await?;
        cluster.settled(Duration::from_secs(60)).await?;
        let load = Load::start(&cluster, 3).await?;
        let begun = Instant::now();
        fill(&load).await?;
        test.say(format!("1 GiB written in {:.0} s", begun.elapsed().as_secs_f64()));
        let voters = Voters::follow(load.client().await?);
        let ordinal = (cluster.leader().await? + 1) % 3;
        let node_id = cluster.node_id(ordinal).await?;
        let begun = Instant::now();
        cluster.lose_disk(ordinal).await?;
        wait::until("another disk that votes", Duration::from_secs(120), async || {
            let id = cluster.node_id(ordinal).await?;
            ensure!(id != node_id, "it has the old disk");
            let voters = cluster.voters().await?;
            let id = u64::from_str_radix(&id, 16).context("read a node id")?;
            ensure!(voters.len() == 3 && voters.contains(&id), "{voters:x?} vote");
            Ok(())
        })
        .await?;
        let took = begun.elapsed();
        test.say(format!("three voters again after {:.1} s with 1 GiB", took.as_secs_f64()));
        cluster.settled(Duration::from_secs(60)).await?;
        let fewest = voters.finish().await?;
        test.say(format!("never fewer than {fewest} voters; {}", load.finish().await?));
        ensure!(fewest >= 2, "there were {fewest} voters at a time");
        ensure!(took < Duration::from_secs(60), "it took {took:?}");
        Ok(())
    });
}

/// Values that do not compress.
async fn fill(load: &Load) -> Result<()> {
    let client = load.client().await?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for n in 0..VALUES {
        let value: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .take(VALUE_BYTES / 8)
        .flatten()
        .collect();
        client.set(format!("bulk/{n:05}"), value).timeout(Duration::from_secs(20)).await?;
    }
    Ok(())
}

/// Goal: a disk that is emptied under its member, so that the claim is the same, is noticed and replaced.
/// Method: a machine loses its power, its volumes are emptied, it boots again.
#[test]
#[ignore = "needs a Kubernetes: make e2e-full"]
fn a_disk_that_comes_back_empty_is_replaced() {
    run_alone("emptied", Duration::from_secs(300), async |test| {
        let Some(machines) = Machines::at_hand() else { return Ok(()) };
        let cluster = Cluster::ready(test, "demo", 3).await?;
        let load = Load::start(&cluster, 3).await?;
        let ordinal = (cluster.leader().await? + 1) % 3;
        let (node_id, machine) = (cluster.node_id(ordinal).await?, cluster.machine(ordinal).await?);
        let fault = machines.kill(&machine).await?;
        machines.wipe(&machine).await?;
        fault.heal()?;
        cluster.has_another_disk(ordinal, &node_id, Duration::from_secs(120)).await?;
        cluster.settled(Duration::from_secs(120)).await?;
        ensure!(cluster.voters().await?.len() == 3, "not all vote");
        test.say(load.finish().await?);
        Ok(())
    });
}
