//! Machines that are gone for good, and cables that are pulled again and again.

use std::time::Duration;

use kvorum_e2e::command::kubectl;
use kvorum_e2e::machines::Machines;
use kvorum_e2e::{Cluster, Load, Result, ensure, run_alone, wait};
use tokio::time::sleep;

/// Goal: a machine that is gone for good is replaced by a fourth one; without one the operator waits and
/// says so. Method: machines are cordoned until three are left, then four; one with a member loses its
/// power, and its Node is deleted.
#[test]
#[ignore = "needs a Kubernetes: make e2e-full"]
fn a_machine_that_is_gone_is_replaced_by_a_fourth() {
    run_alone("gone_machine", Duration::from_secs(600), async |test| {
        let Some(machines) = Machines::at_hand() else { return Ok(()) };
        let cluster = Cluster::ready(test, "demo", 3).await?;
        let mut taken = Vec::new();
        for ordinal in 0..3 {
            taken.push(cluster.machine(ordinal).await?);
        }
        let spare = spare(&taken).await?;
        ensure!(!spare.is_empty(), "there is no fourth machine: KUBE_NODES=5");
        let ordinal = (cluster.leader().await? + 1) % 3;
        let (machine, node_id) = (cluster.machine(ordinal).await?, cluster.node_id(ordinal).await?);
        let load = Load::start(&cluster, 3).await?;
        for node in &spare {
            kubectl(["cordon", node]).await?;
        }
        let outcome = gone(&cluster, &machines, &machine, ordinal, &node_id, &spare).await;
        for node in &spare {
            kubectl(["uncordon", node]).await?;
        }
        outcome?;
        let report = load.finish().await?;
        test.say(report);
        Ok(())
    });
}

async fn gone(
    cluster: &Cluster<'_>,
    machines: &Machines,
    machine: &str,
    ordinal: u32,
    node_id: &str,
    spare: &[String],
) -> Result<()> {
    let test = cluster.test();
    let fault = machines.kill(machine).await?;
    kubectl(["delete", "node", machine]).await?;
    let waits = cluster.condition("StorageProblem", "True", Duration::from_secs(150)).await?;
    let says_so = wait::until("what it waits for", Duration::from_secs(90), async || {
        let told = cluster.condition("StorageProblem", "True", Duration::from_secs(10)).await?;
        ensure!(told.message.contains("add a machine"), "it says {}", told.message);
        Ok(told.message)
    });
    test.say(format!("{}: {}", waits.reason, says_so.await?));
    sleep(Duration::from_secs(10)).await;
    ensure!(cluster.claim(ordinal).await?.metadata.deletion_timestamp.is_none(), "a claim was deleted");
    kubectl(["uncordon", &spare[0]]).await?;
    let begun = tokio::time::Instant::now();
    cluster.has_another_disk(ordinal, node_id, Duration::from_secs(120)).await?;
    cluster.settled(Duration::from_secs(60)).await?;
    let took = begun.elapsed();
    ensure!(cluster.machine(ordinal).await? == spare[0], "it is on another machine");
    test.say(format!("replaced on a fourth machine {:.1} s after there was one", took.as_secs_f64()));
    fault.heal()?;
    wait::until("the machine's return", Duration::from_secs(60), async || {
        kubectl(["wait", "node", machine, "--for=condition=Ready", "--timeout=1s"]).await
    })
    .await?;
    Ok(())
}

async fn spare(taken: &[String]) -> Result<Vec<String>> {
    let nodes = kubectl(["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"]).await?;
    Ok(nodes
        .split_whitespace()
        .filter(|node| !taken.contains(&node.to_string()))
        .map(str::to_owned)
        .collect())
}

/// Goal: a pulled cable costs at most 3 s, and nothing is replaced. Method: five times for a minute, two
/// of them the leader's.
#[test]
#[ignore = "needs a Kubernetes: make e2e-full"]
fn cables_are_pulled_five_times() {
    run_alone("cables", Duration::from_secs(900), async |test| {
        let Some(machines) = Machines::at_hand() else { return Ok(()) };
        let cluster = Cluster::ready(test, "demo", 3).await?;
        let ids = cluster.node_ids(3).await?;
        for round in 0..5 {
            let load = Load::start(&cluster, 3).await?;
            let leader = cluster.leader().await?;
            let ordinal = if round % 2 == 1 { leader } else { (leader + 1) % 3 };
            sleep(Duration::from_secs(2)).await;
            let fault = machines.isolate(&cluster.machine(ordinal).await?).await?;
            sleep(Duration::from_secs(60)).await;
            fault.heal()?;
            cluster.settled(Duration::from_secs(60)).await?;
            let report = load.finish().await?;
            let whose = if ordinal == leader { "the leader's" } else { "a follower's" };
            test.say(format!("{whose} cable: {report}"));
            report.check_interruption(Duration::from_secs(3))?;
            for (ordinal, id) in ids.iter().enumerate() {
                ensure!(cluster.node_id(ordinal as u32).await? == *id, "disk {ordinal} was replaced");
            }
        }
        Ok(())
    });
}
