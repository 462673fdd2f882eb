//! Goal: voters that leave in a change whose leader dies in the midst of it stay as members that do not
//! vote. The joint configuration does not tell whether they were to stay, and who is dropped loses what it
//! has; who is kept can be removed later.
//!
//! Method: five voters are to become three. Two of these three are stopped, so that the joint configuration
//! is in the logs of the two that leave and cannot be committed; then the leader is killed for good, and the
//! stopped ones go on. One that leaves is elected, as it alone has the newest entry, and finishes the change.

use std::time::Duration;

use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, wait};
use kvorum_proto::admin::v1 as admin;
use tokio::time::sleep;

/// Time for the entry to be written by those who get it.
const REPLICATION: Duration = Duration::from_millis(800);
/// An election or two, and the change.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn leavers_of_an_interrupted_change_stay_as_learners() -> Result<()> {
    let cluster = Cluster::found(5, Layout::default()).await?;
    cluster.client().await?.set("key", "value").await?;
    let leader = cluster.leader().await?;
    let others: Vec<_> =
        cluster.nodes().iter().filter(|node| node.name() != leader.name()).cloned().collect();
    let (stay, leave) = others.split_at(2);
    let mut voters = Vec::new();
    for node in [&leader].into_iter().chain(stay) {
        voters.push(node.status().await?.node_id);
    }
    voters.sort_unstable();
    let mut leavers = Vec::new();
    for node in leave {
        leavers.push(node.status().await?.node_id);
    }
    leavers.sort_unstable();

    for node in stay {
        node.pause()?;
    }
    let request = admin::ChangeMembershipRequest { voter_ids: voters.clone(), expected: None, retain: true };
    let mut client = leader.admin();
    let change = tokio::spawn(async move { client.change_membership(request).await });
    let in_log = wait::until("the joint configuration in the logs", LIMIT, async || {
        for node in leave {
            let membership = node.status().await?.membership.context("no membership")?;
            ensure!(membership.configs.len() == 2, "{} has {membership:?}", node.name());
        }
        Ok(())
    });
    let in_log = in_log.await;
    sleep(REPLICATION).await;
    leader.kill()?;
    for node in stay {
        node.resume()?;
    }
    in_log?;
    ensure!(change.await?.is_err(), "the change was answered, though it could not be committed");

    wait::until("the end of the change", LIMIT, async || {
        let status = cluster.leader().await?.status().await?;
        let membership = status.membership.context("the leader has no membership")?;
        let [config] = &membership.configs[..] else {
            return Err(kvorum_faults::Failure::new("the change is under way"));
        };
        let mut left = config.node_ids.clone();
        left.sort_unstable();
        ensure!(left == voters, "the voters are {left:x?}, not {voters:x?}");
        let mut learners: Vec<u64> = membership.nodes.iter().map(|node| node.node_id).collect();
        learners.retain(|id| !voters.contains(id));
        learners.sort_unstable();
        ensure!(learners == leavers, "the learners are {learners:x?}, not {leavers:x?}");
        Ok(())
    })
    .await?;
    leader.start().await?;
    cluster.wait_healthy().await?;
    cluster.compare_stores(cluster.nodes()).await?;
    cluster.close()
}
