//! Goal: a member whose data differs from the others', though every checksum holds, is found: it is marked as
//! CORRUPT, serves no reads, does not lead, and is well again once its disk is replaced. The others serve on.
//!
//! Method: three real processes that compare all the time. A value is changed in a stopped member's store
//! through RocksDB. Once it is a follower, once a leader, which the two others outvote.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvorum_faults::corruption::{flip, flip_row};
use kvorum_faults::process::Node;
use kvorum_faults::rpc::{self, Consistency, RawClient};
use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, wait};
use kvorum_proto::admin::v1 as admin;

/// Keys enough for several slices.
const KEYS: usize = 30_000;
/// Writes that go together.
const BATCH: usize = 64;
/// A member that differs is found within this: a pass takes a second or two.
const FOUND_LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_follower_that_differs_is_found_and_replaced() -> Result<()> {
    let cluster = Cluster::found(3, Layout::with_flags(["--compare-interval", "1s"])).await?;
    fill(&cluster).await?;
    expect_equal(&cluster).await?;
    let odd = cluster.follower().await?;
    odd.terminate().await?;
    flip(odd.data(), &key(KEYS * 2 / 3))?;
    odd.start().await?;
    let id = odd.status().await?.node_id;
    expect_corrupt(&cluster, &odd, id).await?;
    expect_served(&cluster, &odd).await?;

    // It stays so, whatever the process does.
    odd.kill()?;
    odd.start().await?;
    expect_corrupt(&cluster, &odd, id).await?;
    let refused =
        cluster.leader().await?.admin().transfer_leader(admin::TransferLeaderRequest { to: id }).await;
    ensure!(refused.is_err(), "it was made the leader");

    cluster.remove_member(id).await?;
    odd.terminate().await?;
    odd.wipe()?;
    odd.start().await?;
    cluster.add_voter(&odd).await?;
    wait::until("the end of the alarm", FOUND_LIMIT, async || {
        for node in cluster.nodes() {
            let status = node.status().await?;
            ensure!(status.corrupt_node_ids.is_empty(), "{:x?} are corrupt", status.corrupt_node_ids);
            ensure!(status.alarms.is_empty(), "the alarms are {:?}", status.alarms);
        }
        Ok(())
    })
    .await?;
    cluster.compare_stores(cluster.nodes()).await?;
    cluster.close()
}

#[tokio::test]
async fn a_leader_that_differs_is_outvoted() -> Result<()> {
    let cluster = Cluster::found(3, Layout::with_flags(["--compare-interval", "1s"])).await?;
    fill(&cluster).await?;
    let odd = cluster.follower().await?;
    let leader = cluster.leader().await?;
    let is_other = |node: &&Arc<Node>| !Arc::ptr_eq(node, &odd) && !Arc::ptr_eq(node, &leader);
    let absent = cluster.nodes().iter().find(is_other).cloned().context("there is no third member")?;
    // With two of three nobody can say which one is right.
    for node in [&absent, &odd] {
        node.terminate().await?;
    }
    flip(odd.data(), &key(7))?;
    odd.start().await?;
    cluster.wait_healthy().await?;
    let id = odd.status().await?.node_id;
    wait::until("the differing member to lead", FOUND_LIMIT, async || {
        let leader = cluster.leader().await?;
        leader.admin().transfer_leader(admin::TransferLeaderRequest { to: id }).await?;
        ensure!(Arc::ptr_eq(&cluster.leader().await?, &odd), "another one leads");
        Ok(())
    })
    .await?;
    ensure!(odd.status().await?.alarms.is_empty(), "one of two was blamed");

    absent.start().await?;
    expect_corrupt(&cluster, &odd, id).await?;
    expect_served(&cluster, &odd).await?;
    cluster.close()
}

/// Users are compared as keys are: nobody's rights may be others on one member.
#[tokio::test]
async fn a_member_whose_users_differ_is_found() -> Result<()> {
    let cluster = Cluster::found(3, Layout::with_flags(["--compare-interval", "1s"])).await?;
    let client = cluster.client().await?;
    client.set(key(1), "value").await?;
    wait::until("the feature level of users", FOUND_LIMIT, async || {
        client.auth().user_add("alice", None).await.context("add a user")
    })
    .await?;
    expect_equal(&cluster).await?;
    let odd = cluster.follower().await?;
    odd.terminate().await?;
    flip_row(odd.data(), "default", b"auth-user/alice")?;
    odd.start().await?;
    let id = odd.status().await?.node_id;
    expect_corrupt(&cluster, &odd, id).await?;
    expect_served(&cluster, &odd).await?;
    cluster.close()
}

fn key(number: usize) -> Bytes {
    format!("key/{number:06}").into()
}

/// Writes all keys.
async fn fill(cluster: &Cluster) -> Result<()> {
    let client = cluster.client().await?;
    for first in (0..KEYS).step_by(BATCH) {
        let last = KEYS.min(first + BATCH);
        let sets = (first..last).map(|number| {
            let client = client.clone();
            async move { client.set(key(number), format!("value {number}")).await }
        });
        futures_util::future::try_join_all(sets).await?;
    }
    Ok(())
}

/// Waits until the leader has compared all keys, and found no difference.
async fn expect_equal(cluster: &Cluster) -> Result<()> {
    wait::until("a whole comparison", FOUND_LIMIT, async || {
        let leader = cluster.leader().await?;
        let passes = rpc::metric(leader.http_address(), "kvorum_store_compare_passes_total").await?;
        ensure!(passes >= 2.0, "{passes} comparisons");
        let found = rpc::metric(leader.http_address(), "kvorum_store_differences_total").await?;
        ensure!(found == 0.0, "{found} differences between members that are equal");
        Ok(())
    })
    .await
}

/// Waits until the member, and all others, say of it that it is corrupt, and until it leads nobody.
async fn expect_corrupt(cluster: &Cluster, odd: &Node, id: u64) -> Result<()> {
    wait::until("the alarm", FOUND_LIMIT, async || {
        for node in cluster.nodes() {
            let status = node.status().await?;
            let name = node.name();
            ensure!(status.corrupt_node_ids == [id], "{name} says that {:x?} are", status.corrupt_node_ids);
        }
        let status = odd.status().await?;
        ensure!(status.alarms == ["CORRUPT"], "its alarms are {:?}", status.alarms);
        ensure!(status.leader_id != id && status.leader_id != 0, "it follows {:016x}", status.leader_id);
        let ready = rpc::health(odd.http_address(), "/readyz").await?;
        ensure!(ready.is_err_and(|reason| reason.contains("CORRUPT")), "it is ready");
        for consistency in [Consistency::Serializable, Consistency::Linearizable] {
            let read = RawClient::new(odd.client_address())?.get(key(1), consistency).await;
            let refused = read.err().context("it serves reads")?;
            ensure!(refused.message().contains("CORRUPT"), "it refuses a read so: {refused}");
        }
        Ok(())
    })
    .await
}

/// The others take writes, the member takes them to where they belong, and a client that asks it is served.
async fn expect_served(cluster: &Cluster, odd: &Node) -> Result<()> {
    let client = cluster.client().await?;
    client.set("after", "it was found").await?;
    let read = client.get("after").await?;
    ensure!(read.kv.as_ref().is_some_and(|kv| kv.value == "it was found"), "the others answer {read:?}");
    let written = RawClient::new(odd.client_address())?.set("through it".into(), "x".into(), None).await;
    written.context("a write through it")?;
    Ok(())
}
