//! Five members.

use std::time::Duration;

use kvorum_e2e::{Cluster, rollout, run};

/// Goal: the rolling changes of `e2e`, with five members.
#[test]
#[ignore = "needs a Kubernetes: make e2e-full"]
fn five_members_change_one_after_the_other() {
    run("rollout_five", Duration::from_secs(420), async |test| {
        let cluster = Cluster::ready(test, "demo", 5).await?;
        rollout::rollouts(&cluster, 5).await
    });
}
