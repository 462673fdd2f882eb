//! Goal: `kvorum status` says since when a member lags, and which disk answers in its place, with commands that put
//! it right as they are printed.
//!
//! Method: a follower is killed, and the table asked for until the leader has noticed. Its data directory is
//! emptied, so that a new disk answers at its address, and what the table says to type is typed.
//!
//! And a member that is left alone says whom it does not reach: in its log by address, to its probe by number.

use std::time::Duration;

use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, program, rpc, wait};
use serde_json::Value;

/// A leader notices a dead peer within 3 s, on a machine that is not busy.
const NOTICED: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_lost_disk_is_replaced_as_the_status_says() -> Result<()> {
    let cluster = Cluster::found(3, Layout::default()).await?;
    let endpoints = cluster.endpoints();
    let lost = cluster.follower().await?;
    let lost_id = format!("{:016x}", lost.status().await?.node_id);
    wait::until("a status that has nothing to say", NOTICED, || nothing_is_wrong(&endpoints)).await?;

    lost.kill()?;
    let lagging = wait::until("the notice that it lags", NOTICED, async || {
        let object = status(&endpoints).await?;
        let lagging_ms = member(&object, &lost_id)?["lagging_ms"].as_u64();
        lagging_ms.filter(|ms| *ms > 0).context(format!("it does not lag: {object}"))
    });
    let before = lagging.await?;
    lost.wipe()?;
    lost.start().await?;
    let new_id = format!("{:016x}", lost.status().await?.node_id);
    let object = status(&endpoints).await?;
    let told = member(&object, &lost_id)?;
    ensure!(told["other_disk"]["id"] == new_id.as_str(), "another disk is there: {object}");
    ensure!(told["other_disk"]["cluster_id"].is_null(), "it is unjoined: {object}");
    ensure!(told["lagging_ms"].as_u64() > Some(before), "it was {before} ms before: {object}");

    let table = program::tool(&endpoints, &["status"]).await?;
    let table = String::from_utf8_lossy(table.output()?).into_owned();
    ensure!(table.contains("other disk") && !table.contains("unreachable"), "the table says {table}");
    let (_, commands) = table.split_once("is lost: ").context(format!("it says what to type: {table}"))?;
    let commands = commands.lines().next().unwrap_or_default();
    for command in commands.split(" && ") {
        let arguments: Vec<_> = command.split(' ').skip(1).collect();
        program::tool(&endpoints, &arguments).await?.output().context(command.to_owned())?;
    }
    cluster.wait_healthy().await?;
    let object = wait::until("the end of what was wrong", NOTICED, || nothing_is_wrong(&endpoints)).await?;
    ensure!(member(&object, &lost_id).is_err(), "the lost disk is a member still: {object}");
    ensure!(member(&object, &new_id)?["voter"] == true, "the new disk votes: {object}");
    cluster.close()
}

#[tokio::test]
async fn a_member_without_a_leader_says_who_does_not_answer() -> Result<()> {
    let cluster = Cluster::found(3, Layout::default()).await?;
    let follower = cluster.follower().await?;
    let others = || cluster.nodes().iter().filter(|node| node.name() != follower.name());
    for other in others() {
        other.kill()?;
    }
    wait::until("a line of the log", NOTICED, async || {
        let log = follower.log()?;
        let line = log.lines().find(|line| line.contains("no leader for")).context("nothing is said")?;
        let named = others().all(|other| line.contains(other.peer_address()));
        ensure!(named && line.contains("connection refused"), "it says only: {line}");
        Ok(())
    })
    .await?;
    wait::until("what the probe is told", NOTICED, async || {
        let ready = rpc::health(follower.http_address(), "/readyz").await?;
        let reason = ready.err().context("it is ready")?;
        ensure!(reason.contains("2 other voters do not answer"), "it is told: {reason}");
        Ok(())
    })
    .await?;
    for other in others() {
        other.start().await?;
    }
    cluster.wait_healthy().await?;
    cluster.close()
}

async fn status(endpoints: &[String]) -> Result<Value> {
    let answer = program::tool(endpoints, &["status", "-o", "json"]).await?;
    serde_json::from_slice(answer.output()?).context("read the status")
}

fn member<'a>(object: &'a Value, id: &str) -> Result<&'a Value> {
    let members = object["members"].as_array().context("there are members")?;
    members.iter().find(|member| member["id"] == id).context(format!("{id} is no member: {object}"))
}

/// The status, if it has no notes: of no member, and of no clock, though nobody writes.
async fn nothing_is_wrong(endpoints: &[String]) -> Result<Value> {
    let object = status(endpoints).await?;
    ensure!(object["notes"] == Value::Array(Vec::new()), "something is wrong: {object}");
    Ok(object)
}
