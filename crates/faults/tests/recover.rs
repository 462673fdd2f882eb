//! Goal: a cluster whose quorum is lost for good goes on from one survivor, with what that had; what the
//! new history says cannot be mistaken for the old; the old disks take no part in it; and the order is
//! refused unless everything is as the caller saw it.
//!
//! Method: three members, keys, two members killed. Wrong orders are refused, the right one is not. The
//! survivor ends and is started again. The killed ones come back, with and without the flag that tells
//! them of the new incarnation.

use std::time::Duration;

use bytes::Bytes;
use kvorum_client::admin::v1;
use kvorum_faults::rpc::RawClient;
use kvorum_faults::{Cluster, Layout, Result};
use tokio::time::sleep;
use tonic::Code;

/// Keys before the loss.
const KEYS: usize = 100;
/// A node stops within ten seconds of SIGTERM.
const STOP_MAX: Duration = Duration::from_secs(15);
/// Long enough for several elections.
const ELECTIONS: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_survivor_goes_on_alone() -> Result<()> {
    let cluster = Cluster::found(3, Layout::default()).await?;
    let client = cluster.client().await?;
    for i in 0..KEYS {
        client.set(format!("key {i}"), "old").await?;
    }
    let survivor = cluster.leader().await?;
    let others: Vec<_> =
        cluster.nodes().iter().filter(|node| !std::sync::Arc::ptr_eq(node, &survivor)).cloned().collect();
    let mut admin = survivor.admin();
    let status = survivor.status().await?;
    let cluster_id = status.cluster_id;
    let right = v1::RecoverRequest {
        node_id: status.node_id,
        last_log_id: status.last_log,
        from_incarnation: 1,
        to_incarnation: 2,
    };
    assert!(admin.recover(right).await.is_err(), "a quorum is there");

    for node in &others {
        node.kill()?;
    }
    let right = settled(&survivor).await?;
    let at = right.last_log_id.unwrap_or_default();
    let wrong = [
        v1::RecoverRequest { node_id: right.node_id + 1, ..right },
        v1::RecoverRequest { last_log_id: Some(v1::LogId { index: at.index + 1, ..at }), ..right },
        v1::RecoverRequest { from_incarnation: 2, to_incarnation: 3, ..right },
        v1::RecoverRequest { to_incarnation: 0, ..right },
        v1::RecoverRequest { from_incarnation: 0, ..right },
    ];
    for request in wrong {
        assert!(admin.recover(request).await.is_err(), "{request:?}");
    }
    admin.recover(right).await?;
    assert!(survivor.wait_ended(STOP_MAX).await?.success());
    survivor.start().await?;

    let raw = RawClient::new(survivor.client_address())?;
    let kvs = raw.scan(0).await?;
    assert_eq!(kvs.len(), KEYS, "what the survivor had is there");
    let new = raw.set(Bytes::from("new"), Bytes::from("new"), None).await?;
    assert!(new > 1_000_000_000, "revision {new}");
    let old = raw.scan(kvs.iter().map(|kv| kv.mod_revision).max().unwrap_or_default()).await;
    assert_eq!(old.map(|kvs| kvs.len()).map_err(|status| status.code()), Err(Code::OutOfRange));
    let status = survivor.status().await?;
    assert_eq!((status.incarnation, status.cluster_id), (2, cluster_id));

    // The old disks elect each other, as nobody told them; but the new incarnation is not theirs.
    for node in &others {
        node.start().await?;
    }
    sleep(ELECTIONS).await;
    let status = survivor.status().await?;
    assert_eq!((status.state(), status.incarnation), (v1::State::Leader, 2));
    assert_eq!(status.membership.map(|membership| membership.nodes.len()), Some(1));
    cluster.close()
}

/// Goal: a recovery while the quorum lives is refused, however soon after the leader's end it is asked for.
#[tokio::test]
async fn a_recovery_with_a_live_majority_is_refused() -> Result<()> {
    let cluster = Cluster::found(3, Layout::default()).await?;
    cluster.client().await?.set("key", "old").await?;
    let (leader, follower) = (cluster.leader().await?, cluster.follower().await?);
    let status = follower.status().await?;
    let request = v1::RecoverRequest {
        node_id: status.node_id,
        last_log_id: status.last_log,
        from_incarnation: 1,
        to_incarnation: 2,
    };
    leader.kill()?;
    let refused = follower.admin().recover(request).await.expect_err("two of three live");
    assert!(refused.message().contains("a majority of the voters lives"), "{refused}");
    cluster.client().await?.set("key", "new").await?;
    assert_eq!(follower.status().await?.incarnation, 1);
    leader.start().await?;
    cluster.close()
}

/// It was restarted for an incarnation that it had not begun yet, and so serves nothing but its status.
#[tokio::test]
async fn a_survivor_that_was_set_aside_goes_on_alone() -> Result<()> {
    let cluster = Cluster::found(3, Layout::default()).await?;
    cluster.client().await?.set("key", "old").await?;
    let survivor = cluster.leader().await?;
    for node in cluster.nodes() {
        node.kill()?;
    }
    let aside = survivor.with_flags(["--incarnation-min", "3"]);
    aside.start().await?;
    let status = aside.status().await?;
    assert_ne!(status.status_only, "");
    let right = v1::RecoverRequest {
        node_id: status.node_id,
        last_log_id: status.last_log,
        from_incarnation: 1,
        to_incarnation: 3,
    };
    let mut admin = aside.admin();
    let taken = v1::RecoverRequest { to_incarnation: 2, ..right };
    assert!(admin.recover(taken).await.is_err(), "another disk may be of incarnation 2");
    admin.recover(right).await?;
    assert!(aside.wait_ended(STOP_MAX).await?.success());
    aside.start().await?;
    let raw = RawClient::new(aside.client_address())?;
    raw.set(Bytes::from("new"), Bytes::from("new"), None).await?;
    assert_eq!(raw.scan(0).await?.len(), 2, "what the survivor had is there, and it takes writes");
    let status = aside.status().await?;
    assert_eq!((status.incarnation, status.status_only.as_str()), (3, ""));
    aside.kill()?;
    cluster.close()
}

/// The order for a survivor whose log no longer changes.
async fn settled(node: &kvorum_faults::process::Node) -> Result<v1::RecoverRequest> {
    sleep(ELECTIONS).await;
    let status = node.status().await?;
    Ok(v1::RecoverRequest {
        node_id: status.node_id,
        last_log_id: status.last_log,
        from_incarnation: status.incarnation,
        to_incarnation: status.incarnation + 1,
    })
}
