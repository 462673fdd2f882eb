//! What every node says of itself; and, where no leader is reached, what it says of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kvorum_client::admin::{AdminClient, v1};
use kvorum_client::{Client, ConnectOptions};

use crate::fence::LogId;
use crate::memory::{Memory, host_port};
use crate::names::{self, CLIENT_PORT};
use crate::observed::{Membership, Node, Progress, Role};

/// How long a member may take to find out which others it reaches; it gives each a second.
const REACH_MAX: Duration = Duration::from_secs(2);

/// See the module.
pub struct Asked {
    /// What the nodes that answered said, by ordinal.
    pub nodes: BTreeMap<u32, Node>,
    /// The pods' addresses.
    pub addresses: BTreeMap<u32, String>,
    /// Disks that answer a member. Asked only where no leader has answered.
    pub reached: BTreeSet<u64>,
}

/// Asks all pods that have an address, at the same time; and has whoever leads confirm it. Where nobody who leads is
/// reached, the others are asked whether they know of a quorum, and whom they reach.
pub async fn ask(pods: &BTreeMap<u32, Pod>, namespace: &str, name: &str, memory: &mut Memory) -> Asked {
    let address = |pod: &Pod| pod.status.as_ref()?.pod_ip.clone().filter(|address| !address.is_empty());
    let addresses: BTreeMap<u32, String> =
        pods.iter().filter_map(|(ordinal, pod)| Some((*ordinal, address(pod)?))).collect();
    memory.keep_nodes(&addresses.values().cloned().collect::<Vec<_>>());
    let asked = addresses.iter().map(|(ordinal, address)| {
        let node = memory.node(address);
        async move { Some((*ordinal, read(status(node?).await?, namespace, name))) }
    });
    let mut nodes: BTreeMap<u32, Node> = join_all(asked).await.into_iter().flatten().collect();
    let mut reached = BTreeSet::new();
    if !nodes.values().any(|node| node.confirmed) {
        let members = nodes.iter_mut().filter(|(_, node)| node.is_voter()).filter_map(|(ordinal, node)| {
            let address = addresses.get(ordinal)?;
            Some((node, memory.node(address)?, address))
        });
        let told = members.map(async |(node, admin, address)| {
            let (confirmed, theirs) =
                tokio::join!(confirms(admin), reached_by(address, memory.connect_options()));
            node.confirmed = confirmed;
            theirs
        });
        reached = join_all(told).await.into_iter().flatten().collect();
    }
    Asked { nodes, addresses, reached }
}

/// A member that does not lead hears from its leader that a quorum is there.
async fn confirms(node: &AdminClient) -> bool {
    node.confirmed_status().await.is_ok_and(|status| status.confirmed)
}

/// The members that answer this one.
async fn reached_by(address: &str, connect: ConnectOptions) -> BTreeSet<u64> {
    let endpoint = host_port(address, CLIENT_PORT);
    let client = Client::builder([endpoint]).connect_options(connect).without_leader_search();
    let client = client.timeout(REACH_MAX).connect_lazy();
    let Ok(client) = client else { return BTreeSet::new() };
    let Ok(told) = client.members().await else { return BTreeSet::new() };
    told.members.into_iter().filter(|member| member.reachable).map(|member| member.node_id).collect()
}

async fn status(node: &AdminClient) -> Option<v1::StatusResponse> {
    // A node that does not answer is one that is not there: what that means is the plan's affair.
    let status = node.status().await.ok()?;
    match status.state() {
        v1::State::Leader => node.confirmed_status().await.ok().or(Some(status)),
        _ => Some(status),
    }
}

fn read(status: v1::StatusResponse, namespace: &str, name: &str) -> Node {
    let role = match status.state() {
        v1::State::Leader => Role::Leader,
        v1::State::Candidate => Role::Candidate,
        v1::State::Follower => Role::Follower,
        v1::State::Learner => Role::Learner,
        v1::State::Unspecified if !status.status_only.is_empty() => Role::StatusOnly,
        v1::State::Unjoined | v1::State::Unspecified => Role::Unjoined,
    };
    let progress = status.progress.iter().map(|progress| {
        let matched = progress.matched.map_or(0, |id| id.index);
        let (bytes_behind, silent_ms) = (progress.bytes_behind, progress.silent_ms);
        (progress.node_id, Progress { matched, bytes_behind, silent_ms })
    });
    Node {
        node_id: status.node_id,
        cluster_id: status.cluster_id,
        incarnation: status.incarnation,
        role,
        term: status.term,
        confirmed: status.confirmed,
        last_log: log_id(status.last_log),
        applied: log_id(status.applied).index,
        progress: progress.collect(),
        membership: membership(status.membership.unwrap_or_default(), namespace, name),
        version: status.version,
        feature_level: status.feature_level.max(1),
        corrupt: status.corrupt_node_ids.into_iter().collect(),
        alarms: status.alarms,
        status_only: status.status_only,
        went_back: status.disk_went_back,
    }
}

fn membership(wire: v1::Membership, namespace: &str, name: &str) -> Membership {
    let ordinal = |node: &v1::Node| names::ordinal_of_address(&node.peer_address, name, namespace);
    Membership {
        log_id: log_id(wire.log_id),
        configs: wire.configs.iter().map(|set| set.node_ids.iter().copied().collect()).collect(),
        nodes: wire.nodes.iter().map(|node| (node.node_id, ordinal(node))).collect(),
    }
}

fn log_id(wire: Option<v1::LogId>) -> LogId {
    wire.map_or_else(LogId::default, |id| LogId { term: id.term, index: id.index })
}
