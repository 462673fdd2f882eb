//! A lost disk is replaced.

use std::time::Duration;

use kvorum_e2e::load::Voters;
use kvorum_e2e::{Cluster, Load, ensure, run};

/// Goal: three voters again soon after a claim was deleted with its pod, and never fewer than two on the
/// way. Method: first a follower's disk, then the leader's, with clients at work.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn a_claim_that_is_deleted_with_its_pod_is_replaced() {
    run("lost_claim", Duration::from_secs(240), async |test| {
        let cluster = Cluster::ready(test, "demo", 3).await?;
        let load = Load::start(&cluster, 3).await?;
        let voters = Voters::follow(load.client().await?);
        for leader in [false, true] {
            let led = cluster.leader().await?;
            let ordinal = if leader { led } else { (led + 1) % 3 };
            let node_id = cluster.node_id(ordinal).await?;
            let begun = tokio::time::Instant::now();
            cluster.lose_disk(ordinal).await?;
            cluster.has_another_disk(ordinal, &node_id, Duration::from_secs(60)).await?;
            cluster.settled(Duration::from_secs(60)).await?;
            ensure!(cluster.voters().await?.len() == 3, "not all vote");
            let whose = if leader { "the leader's" } else { "a follower's" };
            let took = begun.elapsed();
            ensure!(took < Duration::from_secs(60), "three voters again after {took:?}");
            test.say(format!("{whose} disk replaced after {:.1} s", took.as_secs_f64()));
        }
        let fewest = voters.finish().await?;
        ensure!(fewest >= 2, "there were {fewest} voters at a time");
        test.say(format!("never fewer than {fewest} voters; {}", load.finish().await?));
        Ok(())
    });
}
