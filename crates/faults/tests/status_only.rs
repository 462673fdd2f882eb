//! Goal: a disk that its cluster no longer counts on says what it holds, and does nothing else: it serves
//! no key, elects nobody and acknowledges nothing.
//!
//! Method: a voter comes up again with `--incarnation-min` above its own incarnation; every call of every
//! port is tried on it. Then the third voter is stopped: were the first one to take part, there would be
//! a majority. And a copy of a member's disk, made of a member that was killed before its store was
//! flushed, comes up at another address.

use std::process::Command;
use std::time::Duration;

use kvorum_faults::process::{Node, Setup};
use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, program, rpc};
use kvorum_proto::kv::v1 as wire;
use kvorum_proto::kv::v1::cluster_client::ClusterClient;
use kvorum_proto::kv::v1::kv_client::KvClient;
use kvorum_proto::peer::v1 as peer;
use kvorum_proto::peer::v1::peer_client::PeerClient;
use kvorum_proto::{admin::v1 as admin, admin::v1::State};
use tokio::time::sleep;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Several elections, if there is one to be had.
const ELECTIONS: Duration = Duration::from_secs(4);

#[tokio::test]
async fn a_disk_of_an_older_incarnation_tells_its_status_and_takes_no_part() -> Result<()> {
    let cluster = Cluster::found(3, Layout::default()).await?;
    program::tool(&cluster.endpoints(), &["set", "k", "v"]).await?.output()?;
    cluster.wait_healthy().await?;
    let (leader, member) = (cluster.leader().await?, cluster.follower().await?);
    let before = member.status().await?;
    member.kill()?;

    let aside = member.with_flags(["--incarnation-min", "2"]);
    aside.start().await?;
    let status = aside.status().await?;
    ensure!(status.status_only.contains("--incarnation-min"), "it says {:?}", status.status_only);
    ensure!(status.state() == State::Unspecified, "it is {:?}", status.state());
    let identity = |status: &admin::StatusResponse| (status.node_id, status.cluster_id, status.incarnation);
    ensure!(identity(&status) == identity(&before), "it forgot who it is: {status:?}");
    ensure!(status.last_log == before.last_log && status.term == before.term, "it lost its log: {status:?}");
    ensure!(status.membership == before.membership, "it forgot the members: {:?}", status.membership);
    check_refusals(&aside).await?;
    check_health(&aside).await?;
    let table = program::tool(&[leader.client_address().to_owned()], &["status"]).await?;
    let table = String::from_utf8_lossy(table.output()?);
    ensure!(table.contains("status-only"), "the tool says {table}");

    let third = cluster.nodes().iter().find(|node| node.is_running() && node.name() != leader.name());
    let third = third.context("two nodes run")?;
    third.kill()?;
    let one = [leader.client_address().to_owned()];
    let write = program::tool(&one, &["--timeout", "3s", "set", "k", "no majority"]).await?;
    ensure!(write.code == Some(1), "a disk that is set aside made a majority: {write:?}");
    sleep(ELECTIONS).await;
    let now = aside.status().await?;
    ensure!((now.term, now.last_log) == (status.term, status.last_log), "it took part: {now:?}");

    // Nothing was done to the disk: without the flag it is a member like before.
    aside.terminate().await?;
    member.start().await?;
    third.start().await?;
    cluster.wait_healthy().await?;
    cluster.compare_stores(cluster.nodes()).await?;
    cluster.close()
}

#[tokio::test]
async fn a_copy_of_a_disk_is_known_by_its_address() -> Result<()> {
    let cluster = Cluster::found(1, Layout::default()).await?;
    let node = &cluster.nodes()[0];
    let before = node.status().await?;
    node.kill()?;
    let data = node.data().with_extension("copy");
    let copied = Command::new("cp").arg("-a").args([node.data(), &data]).status()?;
    ensure!(copied.success(), "the data directory was not copied");
    let log = data.with_extension("log");
    let setup = Setup { name: "copy".into(), data, log, flags: Vec::new(), omitted_syscall: None, tls: None };
    let copy = Node::new(setup)?;
    copy.start().await?;
    node.start().await?;

    let status = copy.status().await?;
    for word in [node.peer_address(), copy.peer_address(), "copy"] {
        ensure!(status.status_only.contains(word), "it says {:?}", status.status_only);
    }
    ensure!(status.membership == before.membership, "it forgot the members: {:?}", status.membership);
    check_refusals(&copy).await?;
    check_health(&copy).await?;
    let recover = admin::RecoverRequest {
        node_id: status.node_id,
        last_log_id: status.last_log,
        from_incarnation: status.incarnation,
        to_incarnation: status.incarnation + 1,
    };
    ensure!(copy.admin().recover(recover).await.is_err(), "a copy becomes a cluster beside the original's");
    let refused = program::tool(&[copy.client_address().to_owned()], &["get", "k"]).await?;
    refused.expect(1, &["--advertise-peer", node.peer_address()])?;

    cluster.wait_healthy().await?;
    program::tool(&cluster.endpoints(), &["set", "k", "v"]).await?.output()?;
    ensure!(node.status().await?.status_only.is_empty(), "the original is set aside");
    copy.terminate().await?;
    cluster.close()
}

/// Every call but `Status` and `Recover` is refused, and the refusal says why.
async fn check_refusals(node: &Node) -> Result<()> {
    let mut refusals: Vec<(&str, Option<Status>)> = Vec::new();
    let mut kv = KvClient::new(rpc::channel(node.client_address())?);
    let key = || bytes::Bytes::from_static(b"k");
    let range = || Some(wire::KeyRange { start: key(), ..Default::default() });
    let get = wire::GetRequest { key: key(), revision: 0, serializable: true };
    refusals.push(("Get", kv.get(get).await.err()));
    let set = wire::SetRequest { key: key(), value: key(), ..Default::default() };
    refusals.push(("Set", kv.set(set).await.err()));
    let scan = wire::ScanRequest { range: range(), serializable: true, ..Default::default() };
    refusals.push(("Scan", kv.scan(scan).await.err()));
    let watch = wire::WatchRequest { range: range(), ..Default::default() };
    refusals.push(("Watch", kv.watch(watch).await.err()));
    let mut cluster = ClusterClient::new(rpc::channel(node.client_address())?);
    refusals.push(("Members", cluster.members(wire::MembersRequest {}).await.err()));

    let mut admin = node.admin();
    refusals.push(("Initialize", admin.initialize(admin::InitializeRequest::default()).await.err()));
    refusals.push(("AddLearner", admin.add_learner(admin::AddLearnerRequest::default()).await.err()));
    let remove = admin::RemoveLearnerRequest::default();
    refusals.push(("RemoveLearner", admin.remove_learner(remove).await.err()));
    let change = admin::ChangeMembershipRequest::default();
    refusals.push(("ChangeMembership", admin.change_membership(change).await.err()));
    let transfer = admin::TransferLeaderRequest::default();
    refusals.push(("TransferLeader", admin.transfer_leader(transfer).await.err()));
    refusals.push(("admin Snapshot", admin.snapshot(admin::SnapshotRequest {}).await.err()));

    let mut peer = PeerClient::new(rpc::channel(node.peer_address())?);
    refusals.push(("Join", peer.join(peer::JoinRequest::default()).await.err()));
    refusals.push(("Vote", peer.vote(peer::VoteRequest::default()).await.err()));
    refusals.push(("PreVote", peer.pre_vote(peer::VoteRequest::default()).await.err()));
    refusals.push(("Append", peer.append(futures_util::stream::empty()).await.err()));
    refusals.push(("peer Snapshot", peer.snapshot(futures_util::stream::empty()).await.err()));
    refusals.push(("Term", peer.term(futures_util::stream::empty()).await.err()));
    let lead = peer::TransferLeaderRequest::default();
    refusals.push(("peer TransferLeader", peer.transfer_leader(lead).await.err()));
    refusals.push(("Propose", peer.propose(peer::ProposeRequest::default()).await.err()));
    refusals.push(("ReadIndex", peer.read_index(peer::ReadIndexRequest::default()).await.err()));

    for (call, refusal) in refusals {
        let status = refusal.context(format!("{call} was answered"))?;
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.as_str());
        let fits = status.code() == Code::FailedPrecondition && reason == Some("STATUS_ONLY");
        ensure!(fits && status.message().contains("status"), "{call} was refused by {status:?}");
    }
    Ok(())
}

/// It is alive, and not ready for clients.
async fn check_health(node: &Node) -> Result<()> {
    let http = node.http_address();
    ensure!(rpc::health(http, "/livez").await?.is_ok(), "it is said to be dead");
    let reason = rpc::health(http, "/readyz").await?.err().context("it is said to be ready")?;
    ensure!(reason.contains("this node serves nothing but its status"), "not ready: {reason}");
    Ok(())
}
