//! What every node says of itself; and, where no leader is reached, what it says of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kvorum_client::admin::{AdminClient, v1};
use kvorum_client::{Client, ConnectOptions};
use kvorum_crd::TlsMode;

use super::tls;
use crate::access::AuthState;
use crate::certificates::Report;
use crate::fence::LogId;
use crate::memory::{Memory, Security};
use crate::names::{self, CLIENT_PORT, PEER_PORT};
use crate::observed::{LetPass, Membership, Node, NodeTls, Progress, Role};

/// How long a member may take to find out which others it reaches; it gives each a second.
const REACH_MAX: Duration = Duration::from_secs(2);

/// See the module.
pub struct Asked {
    /// What the nodes that answered said, by ordinal.
    pub nodes: BTreeMap<u32, Node>,
    /// How pods that have an address are reached.
    pub ways: BTreeMap<u32, Way>,
    /// Disks that answer a member. Asked only where no leader has answered.
    pub reached: BTreeSet<u64>,
}

/// How a pod is reached.
#[derive(Clone, Debug)]
pub struct Way {
    /// host:port of its peer port, as its certificate names it.
    pub peer_address: String,
    /// How it is connected to.
    pub options: ConnectOptions,
}

/// Asks all pods that have an address, at the same time; and has whoever leads confirm it. Where nobody who leads is
/// reached, the others are asked whether they know of a quorum, and whom they reach.
pub async fn ask(pods: &BTreeMap<u32, Pod>, namespace: &str, name: &str, memory: &mut Memory) -> Asked {
    let address = |pod: &Pod| pod.status.as_ref()?.pod_ip.clone().filter(|address| !address.is_empty());
    let pods: Vec<(u32, String, &[Security])> = pods
        .iter()
        .filter_map(|(ordinal, pod)| Some((*ordinal, address(pod)?, spoken(tls::of_pod(pod)))))
        .collect();
    let wanted = pods.iter().flat_map(|(ordinal, address, spoken)| {
        let known_as = names::address(name, namespace, *ordinal, PEER_PORT);
        spoken.iter().map(move |security| (address.clone(), known_as.clone(), *security))
    });
    memory.keep_nodes(&wanted.collect::<Vec<_>>());
    let memory = &*memory;
    let asked = pods.iter().map(async |(ordinal, address, spoken)| {
        for security in *spoken {
            let Some(node) = memory.node(address, *security) else { continue };
            if let Some(status) = status(node).await {
                return (*ordinal, address, *security, Some(read(status, namespace, name)));
            }
        }
        (*ordinal, address, spoken[0], None)
    });
    let (mut nodes, mut ways, mut admins) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (ordinal, address, security, node) in join_all(asked).await {
        if let Some(options) = memory.connect_options(address, security) {
            let peer_address = names::address(name, namespace, ordinal, PEER_PORT);
            ways.insert(ordinal, Way { peer_address, options });
        }
        if let Some(node) = node {
            nodes.insert(ordinal, node);
            admins
                .insert(ordinal, (memory.node(address, security), memory.client_options(address, security)));
        }
    }
    let mut reached = BTreeSet::new();
    if !nodes.values().any(|node: &Node| node.confirmed) {
        let members = nodes.iter_mut().filter(|(_, node)| node.is_voter()).filter_map(|(ordinal, node)| {
            let (admin, options) = admins.get(ordinal)?;
            let client_address = names::address(name, namespace, *ordinal, CLIENT_PORT);
            Some((node, (*admin)?, client_address, options.clone()?))
        });
        let told = members.map(async |(node, admin, address, options)| {
            let (confirmed, theirs) = tokio::join!(confirms(admin), reached_by(address, options));
            node.confirmed = confirmed;
            theirs
        });
        reached = join_all(told).await.into_iter().flatten().collect();
    }
    Asked { nodes, ways, reached }
}

/// How a pod is spoken to that was made for this, the better way first.
fn spoken(mode: TlsMode) -> &'static [Security] {
    match mode {
        TlsMode::Disabled => &[Security::Plain],
        TlsMode::Optional => &[Security::Tls, Security::Plain],
        TlsMode::Required => &[Security::Tls],
    }
}

/// A member that does not lead hears from its leader that a quorum is there.
async fn confirms(node: &AdminClient) -> bool {
    node.confirmed_status().await.is_ok_and(|status| status.confirmed)
}

/// The members that answer this one.
async fn reached_by(address: String, connect: ConnectOptions) -> BTreeSet<u64> {
    let client = Client::builder([address]).connect_options(connect).without_leader_search();
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
        feature_level_max: status.feature_level_max,
        corrupt: status.corrupt_node_ids.into_iter().collect(),
        tls: status.tls.as_ref().map(node_tls),
        closed: status.closed,
        auth: AuthState {
            incarnation: status.incarnation,
            revision: status.auth_revision,
            hash: status.auth_hash,
        },
        let_pass: status
            .let_pass
            .into_iter()
            .map(|v1::LetPass { user, proof, why, .. }| LetPass { user, proof, why })
            .collect(),
        unknown_token_key: status.unknown_token_key,
        alarms: status.alarms,
        status_only: status.status_only,
        went_back: status.disk_went_back,
    }
}

fn node_tls(wire: &v1::Tls) -> NodeTls {
    let mode = match wire.mode() {
        v1::tls::Mode::Unspecified => TlsMode::Disabled,
        v1::tls::Mode::Optional => TlsMode::Optional,
        v1::tls::Mode::Required => TlsMode::Required,
    };
    // Of another length it is none that is known.
    let fingerprint = |bytes: &[u8]| bytes.try_into().unwrap_or_default();
    let report = Report {
        bundle: fingerprint(&wire.bundle_sha256),
        leaf: fingerprint(&wire.leaf_sha256),
        old_ca_peers: wire.old_ca_peers,
        old_ca_clients: wire.old_ca_clients,
    };
    NodeTls { mode, report, plain_clients: wire.plain_clients, plain_peers: wire.plain_peers }
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
