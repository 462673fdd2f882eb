//! Goal: a member that hears from nobody it needs does not say that it is ready, nor that it knows or is the leader,
//! and takes no writes; so with one that was removed. It is as before once it hears of them again.
//!
//! Method: all others are paused, for a follower and for a leader in turn; and a member is removed while it runs.

use std::time::Duration;

use kvorum_faults::process::Node;
use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, program, rpc, wait};
use kvorum_proto::admin::v1::State;

/// Two election timeouts, the ten seconds in which a member without a leader is ready all the same, and room for a busy
/// machine.
const LOST_LIMIT: Duration = Duration::from_secs(40);
/// A member hears of the others again, or the others elect one of them.
const FOUND_LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn who_hears_from_nobody_is_not_ready() -> Result<()> {
    let cluster = Cluster::found(3, Layout::default()).await?;
    for leads in [false, true] {
        let node = if leads { cluster.leader().await? } else { cluster.follower().await? };
        let others: Vec<_> = cluster.nodes().iter().filter(|other| other.name() != node.name()).collect();
        others.iter().try_for_each(|other| other.pause())?;
        expect_lost(&node).await?;
        let one = [node.client_address().to_owned()];
        let write = program::tool(&one, &["--timeout", "2s", "set", "k", "v"]).await?;
        ensure!(write.code == Some(1), "without a majority it took a write: {write:?}");
        let began = write.stderr.contains("may or may not");
        ensure!(!began, "it began a write that nobody can take: {}", write.stderr);
        others.iter().try_for_each(|other| other.resume())?;
        wait::until("its return", FOUND_LIMIT, async || {
            let ready = rpc::health(node.http_address(), "/readyz").await?;
            ensure!(ready.is_ok(), "it is not ready: {ready:?}");
            ensure!(node.status().await?.leader_id != 0, "it knows no leader");
            Ok(())
        })
        .await?;
        cluster.wait_healthy().await?;
    }
    program::tool(&cluster.endpoints(), &["set", "k", "v"]).await?.output()?;
    cluster.compare_stores(cluster.nodes()).await?;
    cluster.close()
}

#[tokio::test]
async fn who_was_removed_is_not_ready_and_says_who_the_members_are() -> Result<()> {
    let cluster = Cluster::found(3, Layout::default()).await?;
    let node = cluster.follower().await?;
    let id = node.status().await?.node_id;
    cluster.remove_member(id).await?;
    let one = [node.client_address().to_owned()];
    let list = program::tool(&one, &["member", "list"]).await?;
    let list = String::from_utf8_lossy(list.output()?).into_owned();
    ensure!(!list.contains(&format!("{id:016x}")), "it counts itself among the members:\n{list}");
    ensure!(list.lines().count() == 3, "it does not know both members:\n{list}");
    expect_lost(&node).await?;
    cluster.close()
}

/// Waits until the member says, wherever one may ask, that it has no leader.
async fn expect_lost(node: &Node) -> Result<()> {
    let what = format!("what {} says without a leader", node.name());
    wait::until(&what, LOST_LIMIT, async || {
        let status = node.status().await?;
        ensure!(status.leader_id == 0, "it names {:016x} as the leader", status.leader_id);
        ensure!(status.state() != State::Leader, "it says that it leads");
        let has_leader = rpc::metric(node.http_address(), "kvorum_raft_has_leader").await?;
        ensure!(has_leader == 0.0, "its metric says that it has a leader");
        let ready = rpc::health(node.http_address(), "/readyz").await?;
        let reason = ready.err().context("it is ready")?;
        ensure!(reason.contains("no leader") || reason.contains("no member"), "it says {reason:?}");
        Ok(())
    })
    .await
}
