//! Work on machines, and cables that are pulled.

use std::time::Duration;

use kvorum_e2e::command::kubectl;
use kvorum_e2e::machines::Machines;
use kvorum_e2e::{Cluster, Load, ensure, run_alone};
use tokio::time::sleep;

/// Goal: machines are drained one after the other, and no write fails: the disruption budget is
/// respected. Method: `kubectl drain` of each, uncordoned before the next, with clients at work.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn machines_are_drained_in_turn() {
    run_alone("drain", Duration::from_secs(300), async |test| {
        let cluster = Cluster::ready(test, "demo", 3).await?;
        let load = Load::start(&cluster, 3).await?;
        let nodes = kubectl(["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"]).await?;
        for node in nodes.split_whitespace() {
            let drained = kubectl([
                "drain",
                node,
                "--ignore-daemonsets",
                "--delete-emptydir-data",
                "--force",
                "--timeout=90s",
            ])
            .await;
            kubectl(["uncordon", node]).await?;
            drained?;
            cluster.settled(Duration::from_secs(60)).await?;
        }
        let report = load.finish().await?;
        test.say(&report);
        report.check_no_failure()
    });
}

/// Goal: a leader that is cut off costs seconds and nothing is replaced. Method: its machine's cable is
/// pulled; `full` has more of it, for longer.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn a_leader_that_is_cut_off_costs_seconds() {
    run_alone("cable", Duration::from_secs(180), async |test| {
        let Some(machines) = Machines::at_hand() else { return Ok(()) };
        let cluster = Cluster::ready(test, "demo", 3).await?;
        let ids = cluster.node_ids(3).await?;
        let load = Load::start(&cluster, 3).await?;
        sleep(Duration::from_secs(2)).await;
        let fault = machines.isolate(&cluster.machine(cluster.leader().await?).await?).await?;
        sleep(Duration::from_secs(15)).await;
        fault.heal()?;
        cluster.settled(Duration::from_secs(60)).await?;
        let report = load.finish().await?;
        test.say(&report);
        let now = cluster.node_ids(3).await?;
        ensure!(now == ids, "a disk was replaced");
        report.check_interruption(Duration::from_secs(3))
    });
}
