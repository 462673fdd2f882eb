//! Goal: a member whose disk lacks what it has acknowledged elects nobody and ends no other member: it is told by its
//! leader, says what is wrong, and takes no part from then on.
//!
//! Method: a follower's disk is copied while it is down, the member catches up, and the copy is put back.

use std::process::Command;
use std::time::Duration;

use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, program};

/// The leader says so for a second before the member ends.
const END_LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_disk_that_was_put_back_takes_no_part() -> Result<()> {
    let cluster = Cluster::found(3, Layout::default()).await?;
    let set = async |key: &str| -> Result<()> {
        program::tool(&cluster.endpoints(), &["set", key, "v"]).await?.output()?;
        Ok(())
    };
    set("before").await?;
    cluster.wait_healthy().await?;
    let (leader, member) = (cluster.leader().await?, cluster.follower().await?);
    let term = leader.status().await?.term;
    member.terminate().await?;
    let copy = member.data().with_extension("copy");
    copied(member.data(), &copy)?;
    member.start().await?;
    for number in 0..20 {
        set(&format!("after/{number}")).await?;
    }
    cluster.wait_healthy().await?;
    member.terminate().await?;
    member.wipe()?;
    copied(&copy, member.data())?;

    member.spawn()?;
    let ended = member.wait_ended(END_LIMIT).await?;
    ensure!(!ended.success(), "it ended as if all were well");
    let log = member.log()?;
    ensure!(log.contains("the disk of this member went back: it has acknowledged"), "it said:\n{log}");
    leader.check_alive()?;
    let status = leader.status().await?;
    ensure!(status.term == term && status.leader_id == status.node_id, "the leader changed: {status:?}");

    member.start().await?;
    let status = member.status().await?;
    ensure!(status.status_only.contains("went back") && status.disk_went_back, "it takes part: {status:?}");
    set("last").await?;
    let third =
        cluster.nodes().iter().find(|node| node.name() != leader.name() && node.name() != member.name());
    third.context("there are three")?.kill()?;
    let one = [leader.client_address().to_owned()];
    let write = program::tool(&one, &["--timeout", "3s", "set", "k", "no majority"]).await?;
    ensure!(write.code == Some(1), "a disk that went back made a majority: {write:?}");
    cluster.close()
}

fn copied(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").args([from, to]).status().context("run cp")?;
    ensure!(status.success(), "{} was not copied", from.display());
    Ok(())
}
