//! Clients that are not ours.

use std::time::Duration;

use kvorum_e2e::command::kubectl;
use kvorum_e2e::stock::Stock;
use kvorum_e2e::{Cluster, Result, Test, run};
use serde_json::json;

/// Goal: whatever the operator does to members, and whoever drains their machines, a client that knows nothing of
/// Kvorum sees no failed write and none that takes a second. Method: Python's grpcio with the usual retry policy and
/// tonic's plain channel, whose calls are made once more only where the node says that it has not begun them,
/// through the Service, while members are rolled, drained, added, taken away and given other disks.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn clients_that_are_not_ours_notice_nothing() {
    run("stock_clients", Duration::from_secs(480), async |test| {
        let cluster = Cluster::ready(test, "demo", 3).await?;
        watched(test, &cluster, "two rolls", roll_twice).await?;
        watched(test, &cluster, "a drain of the leader's machine", drain).await?;
        watched(test, &cluster, "five members, and three again", scale).await?;
        watched(test, &cluster, "a lost disk", lose_disk).await
    });
}

/// Does something while the clients are at work; false where they cannot be had.
async fn watched<'c>(
    test: &Test,
    cluster: &'c Cluster<'c>,
    what: &str,
    change: impl AsyncFnOnce(&'c Cluster<'c>) -> Result<()>,
) -> Result<()> {
    let Some(stock) = Stock::start(cluster).await? else { return Ok(()) };
    // Their connections are there, and to all members.
    tokio::time::sleep(Duration::from_secs(3)).await;
    change(cluster).await?;
    // The last member that went is gone by then.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let report = stock.finish().await?;
    test.say(format!("{what}: {report}"));
    report.check()
}

async fn roll_twice(cluster: &Cluster<'_>) -> Result<()> {
    for level in ["warn", "info"] {
        cluster.change(json!({"node": {"logLevel": level}})).await?;
        cluster.settled(Duration::from_secs(120)).await?;
    }
    Ok(())
}

async fn drain(cluster: &Cluster<'_>) -> Result<()> {
    let machine = cluster.machine(cluster.leader().await?).await?;
    let arguments = ["--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s"];
    let [daemonsets, data, force, limit] = arguments;
    let drained = kubectl(["drain", &machine, daemonsets, data, force, limit]).await;
    kubectl(["uncordon", &machine]).await?;
    drained?;
    cluster.settled(Duration::from_secs(90)).await.map(drop)
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
