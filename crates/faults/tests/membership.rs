//! Goal: a cluster grows and shrinks under load, 1 -> 3 -> 5 -> 3 -> 1 members; each change completes, the
//! leader is among those removed, and no acknowledged write is lost.
//!
//! Method: writers with unique keys go on through all changes. Members are added, and the last two
//! removed, as the tool does it: a leader hands over before it goes. The step from five to three is one
//! joint change in which the leader is left out while it leads. Whoever was removed is stopped. What the
//! last member holds is compared with what the writers were told.

use std::sync::Arc;
use std::time::Duration;

use kvorum_faults::process::Node;
use kvorum_faults::rpc::{self, RawClient};
use kvorum_faults::writers::{self, Style, Writers};
use kvorum_faults::{Cluster, Layout, Result, timeline};
use kvorum_proto::peer::v1 as peer;
use kvorum_proto::peer::v1::peer_client::PeerClient;
use tokio::time::{Instant, sleep};

/// Writers at work all the time.
const WRITERS: u32 = 4;
/// Load between two changes, so that each meets a log that grew.
const LOAD: Duration = Duration::from_secs(2);

#[tokio::test]
async fn no_acknowledged_write_is_lost_while_members_come_and_go() -> Result<()> {
    let mut cluster = Cluster::found(1, Layout::default()).await?;
    let mut voters = cluster.nodes().to_vec();
    for _ in 1..5 {
        cluster.add_node().await?;
    }
    let started = Instant::now();
    let load = Writers::start(&cluster.endpoints(), 0, WRITERS, Style::default(), started).await?;

    for members in [3, 5] {
        sleep(LOAD).await;
        for node in &cluster.nodes()[voters.len()..members] {
            cluster.add_voter(node).await?;
        }
        voters = cluster.nodes()[..members].to_vec();
        complete(&cluster, &voters).await?;
        cluster.compare_stores(&voters).await?;
    }

    sleep(LOAD).await;
    let leaving = leader_and_others(&cluster, &mut voters, 2).await?;
    cluster.change_voters(&voters).await?;
    complete(&cluster, &voters).await?;
    for node in leaving {
        node.terminate().await?;
    }

    sleep(LOAD).await;
    for node in leader_and_others(&cluster, &mut voters, 2).await? {
        cluster.remove_member(node.status().await?.node_id).await?;
        node.terminate().await?;
    }
    complete(&cluster, &voters).await?;
    sleep(LOAD).await;

    let ledgers = load.finish().await?;
    let failures: usize = ledgers.iter().map(|ledger| ledger.failures().len()).sum();
    let last = &voters[0];
    let kvs = RawClient::new(last.client_address())?.scan(0).await?;
    let tally = writers::check(&ledgers, &kvs)?;
    timeline::check(&ledgers.iter().flat_map(|ledger| ledger.marks()).collect::<Vec<_>>())?;
    eprintln!("membership: {tally:?}; {failures} writes failed");
    for (at, how) in ledgers.iter().flat_map(|ledger| ledger.failures()) {
        eprintln!("membership: failed after {at:?}: {how}");
    }
    cluster.close()
}

/// Takes the leader and others out of the voters, `count` in all.
async fn leader_and_others(
    cluster: &Cluster,
    voters: &mut Vec<Arc<Node>>,
    count: usize,
) -> Result<Vec<Arc<Node>>> {
    let leader = cluster.leader().await?;
    voters.retain(|node| !Arc::ptr_eq(node, &leader));
    let others = voters.split_off(voters.len() + 1 - count);
    Ok([leader].into_iter().chain(others).collect())
}

/// Waits until the change is complete and the cluster is well.
async fn complete(cluster: &Cluster, voters: &[Arc<Node>]) -> Result<()> {
    let begun = Instant::now();
    cluster.wait_voters(voters).await?;
    cluster.wait_healthy().await?;
    eprintln!("membership: {} voters are well {:?} after the change", voters.len(), begun.elapsed());
    Ok(())
}

/// Goal: a leader that is killed after it had a node join, and before the members know of it, costs nothing: whoever
/// asks again adds the node, whether it was restarted meanwhile or not. Method: the leader's call is made in its place,
/// since no kill hits that moment.
#[tokio::test]
async fn a_node_that_joined_and_was_not_added_is_added_when_asked_again() -> Result<()> {
    let mut cluster = Cluster::found(1, Layout::default()).await?;
    let founder = cluster.leader().await?;
    cluster.client().await?.set("k", "v").await?;
    for restarted in [false, true] {
        let node = cluster.add_node().await?;
        let (own, theirs) = (node.status().await?, founder.status().await?);
        let join = peer::JoinRequest {
            cluster_id: theirs.cluster_id,
            node_id: own.node_id,
            incarnation: theirs.incarnation,
            feature_level: theirs.feature_level,
        };
        PeerClient::new(rpc::channel(node.peer_address())?).join(join).await?;
        founder.kill()?;
        if restarted {
            node.kill()?;
            node.start().await?;
        }
        founder.start().await?;
        cluster.add_voter(&node).await?;
    }
    let voters = cluster.nodes().to_vec();
    complete(&cluster, &voters).await?;
    cluster.compare_stores(&voters).await?;
    cluster.close()
}
