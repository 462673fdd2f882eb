//! Clients that are not ours.

use std::time::Duration;

use kvorum_e2e::cluster::{plain, spec_for_services};
use kvorum_e2e::command::kubectl;
use kvorum_e2e::stock::watched;
use kvorum_e2e::{Cluster, Result, run_alone};
use serde_json::json;

/// Goal: whatever the operator does to members, and whoever drains their machines, a client that knows nothing of
/// Kvorum sees no failed write and none that takes a second. Method: Python's grpcio with the usual retry policy and
/// tonic's plain channel, whose calls are made once more only where the node says that it has not begun them,
/// through the Service, while members are rolled and drained; `full` has more of it.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn clients_that_are_not_ours_notice_nothing() {
    run_alone("stock_clients", Duration::from_secs(300), async |test| {
        let cluster = Cluster::create(test, "demo", plain(spec_for_services(3))).await?;
        cluster.settled(Duration::from_secs(60)).await?;
        watched(&cluster, "a roll", roll).await?;
        watched(&cluster, "a drain of the leader's machine", drain).await
    });
}

async fn roll(cluster: &Cluster<'_>) -> Result<()> {
    cluster.change(json!({"node": {"logLevel": "warn"}})).await?;
    cluster.settled(Duration::from_secs(120)).await.map(drop)
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
