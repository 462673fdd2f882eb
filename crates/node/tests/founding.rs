//! Goal: a disk that was joined to a cluster founds none, one whose founding was cut short finishes it, and no
//! forged message makes a member's term leap. Method: nodes in this process, on disks in every such state.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use clap::Parser as _;
use kvorum_node::config::{Cli, Config};
use kvorum_node::machine::Machine;
use kvorum_node::server::Node;
use kvorum_proto::peer::v1 as peer;
use kvorum_proto::peer::v1::peer_client::PeerClient;
use kvorum_store::data_dir::{DataDir, DataDirError, Identity, Origin};
use kvorum_store::log::{Log, LogOptions};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic::transport::Channel;

const CLUSTER_ID: u64 = 0xc1;

fn config(dir: &Path, bootstrap: &str, peer: &str) -> Config {
    let (dir, any) = (dir.to_str().unwrap(), "127.0.0.1:0");
    let args = ["kvorum-node", "--data-dir", dir, "--bootstrap", bootstrap, "--listen-client", any];
    let args = args.into_iter().chain(["--listen-peer", peer, "--listen-http", any]);
    Cli::parse_from(args).flags.validate().unwrap()
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test);
}

async fn stop(node: Node) {
    assert!(node.stop().await.is_closed());
}

/// A disk with an empty log, as a node left it that came by its cluster so.
fn disk(cluster: impl FnOnce(&DataDir) -> Result<Identity, DataDirError>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    data.create_identity(7).unwrap();
    drop(Log::open(dir.path(), 7, LogOptions::default()).unwrap());
    cluster(&data).unwrap();
    dir
}

async fn leads(node: &Node) {
    let mut overview = node.raft().watch_overview();
    let leads = overview.wait_for(|overview| overview.is_leader());
    timeout(Duration::from_secs(30), leads).await.expect("it founded its cluster").unwrap();
}

#[test]
fn a_disk_that_was_joined_founds_nothing() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let any = "127.0.0.1:0";
        let node = Node::start(config(dir.path(), "wait", any), Machine::real()).await.unwrap();
        node.raft().join(CLUSTER_ID, 1, 1).await.unwrap();
        for wanted in [0, CLUSTER_ID] {
            let error = node.raft().initialize(wanted, false).await.expect_err("it joined").to_string();
            assert!(error.contains("00000000000000c1") && error.contains("kvorum member add"), "{error}");
        }
        assert!(!node.raft().founding());
        stop(node).await;

        // The flag founds no more than the call does.
        let dir = disk(|data| data.set_cluster(CLUSTER_ID, 1, Origin::Joins));
        let node = Node::start(config(dir.path(), "single", any), Machine::real()).await.unwrap();
        node.raft().initialize(0, false).await.expect_err("it joined before the start");
        assert!(node.raft().overview().members.is_empty());
        stop(node).await;
    });
}

#[test]
fn founding_that_was_cut_short_is_finished() {
    run(async {
        let begun = || disk(|data| data.set_cluster(CLUSTER_ID, 1, Origin::Founds));
        let any = "127.0.0.1:0";
        let dir = begun();
        let node = Node::start(config(dir.path(), "single", any), Machine::real()).await.unwrap();
        leads(&node).await;
        assert_eq!((node.raft().overview().cluster_id, node.raft().founding()), (CLUSTER_ID, false));
        stop(node).await;

        let dir = begun();
        let node = Node::start(config(dir.path(), "wait", any), Machine::real()).await.unwrap();
        assert!(node.raft().founding());
        assert_eq!(node.raft().initialize(0, false).await.unwrap(), CLUSTER_ID);
        leads(&node).await;
        stop(node).await;
    });
}

#[test]
fn a_forged_vote_changes_no_term() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start(config(dir.path(), "single", "127.0.0.1:0"), Machine::real()).await.unwrap();
        leads(&node).await;
        let own = node.raft().overview();
        let address = format!("http://{}", node.addresses.peer);
        let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
        let mut peer = PeerClient::new(channel);
        let stranger = 0xbad;
        let forged = |term, index| peer::VoteRequest {
            envelope: Some(peer::Envelope {
                cluster_id: own.cluster_id,
                incarnation: own.incarnation,
                from: stranger,
                to: own.node_id,
            }),
            vote: Some(peer::Vote { term, node_id: stranger, committed: false }),
            last_log_id: Some(kvorum_proto::admin::v1::LogId { term: 1, index }),
            leadership_transfer: true,
        };
        // A log that is not ahead of this node's, or a term that no elections made.
        for (term, index) in [(2, 0), (u64::MAX, 1_000), (1 << 30, 1_000), (u64::MAX - 1, 0)] {
            let refused = peer.vote(forged(term, index)).await.expect_err("no member sends that");
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        }
        sleep(Duration::from_millis(100)).await;
        let now = node.raft().overview();
        assert_eq!((now.term, now.is_leader()), (own.term, true));
        stop(node).await;
    });
}
