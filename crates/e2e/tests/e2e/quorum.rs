//! Below quorum: what heals by itself, and the recovery that a person asks for.

use std::time::Duration;

use kvorum_crd::KvCluster;
use kvorum_e2e::command::kubectl;
use kvorum_e2e::doors::Doors;
use kvorum_e2e::{Cluster, Context as _, Load, Result, ensure, proofs, run, run_alone, wait};
use kvorum_operator::names;
use serde_json::json;

/// The condition has to be there by then.
const NOTICED: Duration = Duration::from_secs(30);

/// Goal: a cluster whose members a bad spec breaks one after the other stops at the first; where two are
/// broken all the same, a corrected spec heals it. Method: a memory limit that no node can start with,
/// and a second member whose pod is deleted by hand.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn a_corrected_spec_heals_what_a_bad_one_broke() {
    run("bad_spec_heals", Duration::from_secs(240), async |test| {
        let cluster = Cluster::ready(test, "demo", 3).await?;
        let load = Load::start(&cluster, 3).await?;
        let memory = |limit: &str| json!({"pod": {"resources": {"limits": {"memory": limit}, "requests": {"memory": limit}}}});
        let leader = cluster.leader().await?;
        let lives = cluster.lives().await?;
        cluster.change(memory("6Mi")).await?;
        let degraded = cluster.condition("Degraded", "True", Duration::from_secs(60)).await?;
        test.say(format!("{}: {}", degraded.reason, degraded.message));
        let broken = wait::until("the first broken member", Duration::from_secs(30), async || {
            let now = cluster.lives().await?;
            let mut changed =
                (0..3).filter(|i| now.get(i).map(|life| &life.0) != lives.get(i).map(|life| &life.0));
            changed.next().context("all are as they were")
        })
        .await?;
        ensure!(broken != leader, "the leader was the first to go");
        let second = (0..3).find(|i| *i != broken && *i != leader).context("there are three members")?;
        let intact = cluster.lives().await?[&second].clone();
        tokio::time::sleep(Duration::from_secs(5)).await;
        ensure!(cluster.lives().await?[&second] == intact, "the change went on to a second member");
        cluster.delete_pod(second).await?;
        let lost = cluster.condition("QuorumLost", "True", NOTICED + Duration::from_secs(15)).await?;
        test.say(format!("two of three broken: {}", lost.message));
        cluster.change(memory("704Mi")).await?;
        let took = cluster.settled(Duration::from_secs(120)).await?;
        test.say(format!("healed {:.1} s after the spec was corrected", took.as_secs_f64()));
        test.say(load.finish().await?);
        Ok(())
    });
}

/// Goal: two disks of three are lost for good. The operator says so and does nothing, refuses every
/// token but the right one, and recovers from the survivor with that, even if its pod is made anew in the
/// midst of it: what the survivor had is there, and old disks cannot form a quorum beside it.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn a_lost_quorum_is_recovered_from_the_survivor_that_a_person_names() {
    run("recovery", Duration::from_secs(240), async |test| {
        let cluster = Cluster::ready(test, "demo", 3).await?;
        let id = cluster.id().await?;
        cluster.tool(0, ["set", "from", "before"]).await?;
        cluster.change(json!({"paused": true})).await?;
        let survivor = cluster.node_id(0).await?;
        for ordinal in [1, 2] {
            cluster.lose_disk(ordinal).await?;
        }
        cluster.change(json!({"paused": false})).await?;
        let lost = cluster.condition("QuorumLost", "True", NOTICED + Duration::from_secs(15)).await?;
        let since = wait::until("the token of a survivor", Duration::from_secs(30), async || {
            let message = cluster.condition("QuorumLost", "True", NOTICED).await?.message;
            let token = message.split("recover-from=").nth(1).context(format!("no token: {message}"))?;
            Ok(token.to_owned())
        });
        let token = since.await?;
        test.say(format!("{}: {}", lost.reason, lost.message));
        ensure!(token.contains(&survivor), "the token {token} does not name the survivor {survivor}");

        let wrong = token.replacen("1/", "2/", 1);
        annotate(&cluster, &wrong).await?;
        let refused = cluster.condition("Degraded", "True", Duration::from_secs(20)).await?;
        ensure!(
            refused.reason == "RecoverRefused",
            "the wrong token met {}: {}",
            refused.reason,
            refused.message
        );
        ensure!(cluster.node_id(0).await? == survivor, "something was done about it");

        annotate(&cluster, &token).await?;
        let raised = |cluster: &KvCluster| {
            let incarnation = cluster.status.as_ref().and_then(|status| status.incarnation);
            ensure!(incarnation == Some(2), "it is {incarnation:?}");
            Ok(())
        };
        cluster.until("the next incarnation", Duration::from_secs(20), raised).await?;
        // Its new pod is for an incarnation that the survivor's disk has perhaps not begun yet.
        cluster.delete_pod(0).await?;
        let took = cluster.settled(Duration::from_secs(120)).await?;
        let status = cluster.get().await?.status.unwrap_or_default();
        ensure!(status.incarnation == Some(2), "the incarnation is {:?}", status.incarnation);
        ensure!(cluster.id().await? == id, "the cluster id has changed");
        ensure!(
            cluster.tool(2, ["get", "from"]).await?.trim_end() == "before",
            "the survivor's data is lost"
        );
        let doors = Doors::open(test, "demo", 3).await?;
        let written = wait::until("a write", Duration::from_secs(10), async || {
            let client = proofs::root(&cluster).await?.client(doors.addresses()).await?;
            Ok(client.set("from", "after").await?)
        })
        .await?;
        ensure!(written.header.revision > 1_000_000_000, "the revision is {}", written.header.revision);
        test.say(format!("three members again {:.1} s after the annotation", took.as_secs_f64()));
        Ok(())
    });
}

async fn annotate(cluster: &Cluster<'_>, token: &str) -> Result<()> {
    let annotation = format!("kvorum.io/recover-from={token}");
    let namespace = &cluster.test().namespace;
    kubectl(["annotate", "--overwrite", "-n", namespace, "kvc", cluster.name(), &annotation]).await.map(drop)
}

/// Goal: a quorum that is away comes back by itself. Method: no machine may be scheduled to, while two pods
/// are made anew; then all may be again.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn a_quorum_that_comes_back_goes_on_by_itself() {
    run_alone("quorum_back", Duration::from_secs(180), async |test| {
        let cluster = Cluster::ready(test, "demo", 3).await?;
        let (lives, load) = (cluster.lives().await?, Load::start(&cluster, 3).await?);
        let claims = [cluster.claim(1).await?.metadata.uid, cluster.claim(2).await?.metadata.uid];
        let nodes = kubectl(["get", "nodes", "-o", "name"]).await?;
        for node in nodes.lines() {
            kubectl(["cordon", node]).await?;
        }
        let lost = lose_quorum(&cluster).await;
        for node in nodes.lines() {
            kubectl(["uncordon", node]).await?;
        }
        test.say(lost?);
        let took = cluster.settled(Duration::from_secs(90)).await?;
        ensure!(cluster.lives().await?.get(&0) == lives.get(&0), "the member that stayed was restarted");
        let now = [cluster.claim(1).await?.metadata.uid, cluster.claim(2).await?.metadata.uid];
        ensure!(now == claims, "a disk was replaced");
        let report = load.finish().await?;
        test.say(format!("whole again after {:.1} s; {report}", took.as_secs_f64()));
        Ok(())
    });
}

/// Deletes two pods that find no machine again; answers what the operator says of it.
async fn lose_quorum(cluster: &Cluster<'_>) -> Result<String> {
    for ordinal in [1, 2] {
        cluster.delete_pod(ordinal).await?;
    }
    let said = cluster.condition("QuorumLost", "True", NOTICED + Duration::from_secs(15)).await?.message;
    // Their disks are well, and may have what the third one lacks.
    ensure!(!said.contains("recover-from="), "a recovery is offered: {said}");
    for ordinal in [1, 2] {
        let claim = names::claim(cluster.name(), ordinal);
        ensure!(said.contains(&claim) && said.contains("kubectl uncordon"), "no way back of {claim}: {said}");
    }
    Ok(said)
}
