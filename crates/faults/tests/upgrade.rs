//! Goal: a cluster is upgraded node by node, and back again while its feature level has not risen, without
//! a difference between members; once it has, the older release refuses the disk, and damages nothing.
//!
//! Method: three nodes under load change their release one after the other, with the stores compared after
//! each. The older release is this one, held down to level 1; and the first release, built from the
//! history where that is there.

use std::sync::Arc;
use std::time::Duration;

use kvorum_faults::process::{Node, Release};
use kvorum_faults::writers::{self, Style, Writers};
use kvorum_faults::{Cluster, Layout, Result, binary, ensure, rpc, wait};
use kvorum_proto::admin::v1 as admin;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// The first release, which knows nothing of levels.
const FIRST_RELEASE: &str = "d428b0a";
/// The leader looks every 2 s whether all know the next level, as each has said within a second.
const RISE_LIMIT: Duration = Duration::from_secs(20);
/// Longer than the leader needs to raise the level where it may.
const NO_RISE: Duration = Duration::from_secs(4);
/// A node that refuses its disk ends within this.
const REFUSE_LIMIT: Duration = Duration::from_secs(20);

/// One cluster at a time has the machine.
static MACHINE: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn a_node_that_is_held_down_keeps_the_level_down() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let old = Release { binary: None, flags: vec!["--feature-level-max".into(), "1".into()] };
    upgrade(&old, &["feature level 3", "knows up to level 1"]).await
}

#[tokio::test]
async fn the_first_release_is_upgraded_node_by_node_and_back() -> Result<()> {
    let _alone = MACHINE.lock().await;
    match binary::release(FIRST_RELEASE)? {
        Ok(binary) => {
            upgrade(&Release { binary: Some(binary), flags: Vec::new() }, &["format 3", "upgrade this node"])
                .await
        }
        Err(reason) => {
            eprintln!("SKIPPED: an upgrade from the first release was not tested: {reason}");
            Ok(())
        }
    }
}

/// Upgrades from the older release; `refusal` is what that says of a disk of level 3.
async fn upgrade(old: &Release, refusal: &[&str]) -> Result<()> {
    let new = Release::default();
    let layout = Layout { release: old.clone(), ..Layout::default() };
    let mut cluster = Cluster::found(3, layout).await?;
    let style = Style { pause: Duration::from_millis(5), ..Style::default() };
    let load = Writers::start(&cluster.endpoints(), 0, 2, style, Instant::now()).await?;
    let nodes = &cluster.nodes().to_vec();
    for node in &nodes[..2] {
        restart(&cluster, node, &new).await?;
    }
    sleep(NO_RISE).await;
    ensure!(levels(&nodes[..2]).await? == [1, 1], "the level rose before all members knew the next one");
    for node in &nodes[..2] {
        restart(&cluster, node, old).await?;
    }
    for node in nodes {
        restart(&cluster, node, &new).await?;
    }
    wait::until("the rise of the feature level", RISE_LIMIT, async || {
        let levels = levels(nodes).await?;
        ensure!(levels == [3, 3, 3], "the levels are {levels:?}");
        Ok(())
    })
    .await?;
    cluster.compare_stores(nodes).await?;

    let stranger = cluster.add_node().await?;
    refuses_to_add(&cluster, &stranger).await?;
    stranger.kill()?;

    // One has its state on disk, the other has to read its log.
    for (node, flushed) in [(&nodes[0], true), (&nodes[1], false)] {
        if flushed {
            node.terminate().await?
        } else {
            node.kill()?
        }
        node.set_release(old);
        node.spawn()?;
        let status = node.wait_ended(REFUSE_LIMIT).await?;
        let said = node.log_tail();
        ensure!(!status.success(), "{} started over a disk of level 3", node.name());
        ensure!(
            refusal.iter().all(|words| said.contains(words)),
            "{} was to say {refusal:?}:\n{said}",
            node.name()
        );
        node.set_release(&new);
        node.start().await?;
        cluster.wait_healthy().await?;
    }
    let ledgers = load.finish().await?;
    let revision = cluster.compare_stores(nodes).await?;
    writers::check(&ledgers, &rpc::RawClient::new(nodes[0].client_address())?.scan(revision).await?)?;
    cluster.close()
}

/// A node of the older release is no member any more.
async fn refuses_to_add(cluster: &Cluster, stranger: &Node) -> Result<()> {
    let node = admin::Node {
        node_id: stranger.status().await?.node_id,
        peer_address: stranger.peer_address().into(),
        client_address: stranger.client_address().into(),
    };
    let request = admin::AddLearnerRequest { node: Some(node), expected: None };
    let answer = cluster.leader().await?.admin().add_learner(request).await;
    let said = answer.err().map(|status| status.message().to_owned()).unwrap_or_default();
    ensure!(said.contains("feature level 3") && said.contains("knows up to 1"), "it was added, or: {said}");
    Ok(())
}

async fn restart(cluster: &Cluster, node: &Node, release: &Release) -> Result<()> {
    node.terminate().await?;
    node.set_release(release);
    node.start().await?;
    cluster.wait_healthy().await?;
    cluster.compare_stores(&cluster.nodes()[..3]).await.map(drop)
}

/// The cluster's feature level as each of these members has it.
async fn levels(nodes: &[Arc<Node>]) -> Result<Vec<u32>> {
    let mut levels = Vec::new();
    for node in nodes {
        levels.push(node.status().await?.feature_level);
    }
    Ok(levels)
}
