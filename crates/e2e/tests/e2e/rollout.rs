//! Rolling changes.

use std::time::Duration;

use kvorum_e2e::{Cluster, rollout, run};

/// Goal: an image and a configuration are changed and nobody notices. Method: see `rollout.rs`.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn three_members_change_one_after_the_other() {
    run("rollout", Duration::from_secs(240), async |test| {
        let cluster = Cluster::ready(test, "demo", 3).await?;
        rollout::rollouts(&cluster, 3).await
    });
}
