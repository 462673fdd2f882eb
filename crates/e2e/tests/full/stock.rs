//! Clients that are not ours, for longer.

use std::time::Duration;

use kvorum_e2e::cluster::{plain, spec_for_services};
use kvorum_e2e::stock::watched;
use kvorum_e2e::{Cluster, Result, run_alone};
use serde_json::json;

/// Goal: what rolls and drains do not cost clients that know nothing of Kvorum, a roll right after another, members that
/// come and go, and a new disk do not either. Method: as in `e2e`.
#[test]
#[ignore = "needs a Kubernetes: make e2e-full"]
fn clients_that_are_not_ours_notice_nothing_of_members_that_come_and_go() {
    run_alone("stock_clients_more", Duration::from_secs(480), async |test| {
        let cluster = Cluster::create(test, "demo", plain(spec_for_services(3))).await?;
        cluster.settled(Duration::from_secs(60)).await?;
        watched(&cluster, "two rolls", roll_twice).await?;
        watched(&cluster, "five members, and three again", scale).await?;
        watched(&cluster, "a lost disk", lose_disk).await
    });
}

async fn roll_twice(cluster: &Cluster<'_>) -> Result<()> {
    for level in ["warn", "info"] {
        cluster.change(json!({"node": {"logLevel": level}})).await?;
        cluster.settled(Duration::from_secs(120)).await?;
    }
    Ok(())
}

async fn scale(cluster: &Cluster<'_>) -> Result<()> {
    cluster.scale(5).await?;
    cluster.scale(3).await.map(drop)
}

async fn lose_disk(cluster: &Cluster<'_>) -> Result<()> {
    let ordinal = (cluster.leader().await? + 1) % 3;
    let node_id = cluster.node_id(ordinal).await?;
    cluster.lose_disk(ordinal).await?;
    cluster.has_another_disk(ordinal, &node_id, Duration::from_secs(60)).await?;
    cluster.settled(Duration::from_secs(60)).await.map(drop)
}
