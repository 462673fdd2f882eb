//! What this node knows of its place in the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kvorum_proto::admin::v1 as admin;
use kvorum_store::entry::FORMAT_VERSION;
use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver as _;
use openraft::metrics::RaftServerMetrics;
use openraft::{RaftMetrics, ServerState};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::network::Identity;
use super::types::{Address, LogId, Membership, StoredMembership, TypeConfig, wire_log_id, wire_membership};
use super::{Raft, Stall, StatusOnly, core_end};
use crate::error::RequestError;
use crate::net::resolve;

/// This node's place in the cluster, as of the last change of leader, term or membership.
#[derive(Clone, Debug)]
pub struct Overview {
    /// The cluster's id; 0 while Unjoined.
    pub cluster_id: u64,
    /// The cluster's incarnation.
    pub incarnation: u64,
    /// This node's id.
    pub node_id: u64,
    /// What this node is.
    pub state: admin::State,
    /// The current term.
    pub term: u64,
    /// Who leads, if that is known.
    pub leader: Option<Member>,
    /// Whether this node votes.
    pub voter: bool,
    /// Whether the committed membership knows this node.
    pub in_config: bool,
    /// Whether there is a committed membership, and it is without this node: it hears of no leader any more.
    pub removed: bool,
    /// Since when no leader is known; absent while one is.
    pub leaderless_since: Option<Instant>,
    /// All members.
    pub members: Vec<Member>,
    /// Why this node serves nothing but its status, if that is so.
    pub status_only: Option<StatusOnly>,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its node id.
    pub node_id: u64,
    /// host:port of its peer port.
    pub peer: String,
    /// host:port of its client port.
    pub client: String,
    /// Whether it votes.
    pub voter: bool,
}

/// Positions in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// The last applied entry's index.
    pub applied: u64,
    /// The last index known to be committed.
    pub committed: u64,
    /// The last index in the log.
    pub last_log: u64,
}

impl Overview {
    /// A node that no cluster knows.
    pub fn unjoined(node_id: u64) -> Self {
        Overview {
            cluster_id: 0,
            incarnation: 0,
            node_id,
            state: admin::State::Unjoined,
            term: 0,
            leader: None,
            voter: false,
            in_config: false,
            removed: false,
            leaderless_since: Some(Instant::now()),
            members: Vec::new(),
            status_only: None,
        }
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.state == admin::State::Leader
    }
}

/// How often the members' addresses are looked up: pods get another one when they are replaced.
const LOOK_UP_INTERVAL: Duration = Duration::from_secs(10);

/// Keeps the overview and the metrics up to date, and knows beforehand where the members are.
pub fn follow(raft: Raft) {
    let Ok(core) = raft.core() else { return };
    tokio::spawn(know_addresses(raft.clone()));
    let mut changes = core.raft.server_metrics();
    publish(&raft);
    tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            publish(&raft);
        }
        // They end with raft's core.
        raft.inner.overview.send_modify(|overview| {
            *overview = Arc::new(Overview {
                state: admin::State::Learner,
                leader: None,
                leaderless_since: overview.leaderless_since.or_else(|| Some(Instant::now())),
                ..Overview::clone(overview)
            });
            raft.metrics().place_changed(overview, false);
        });
        core_end::check(&raft).await;
    });
}

/// Looks up all members whenever the overview changes, and now and then.
async fn know_addresses(raft: Raft) {
    let (mut overview, mut stopping) = (raft.watch_overview(), raft.watch_stopping());
    loop {
        for member in &overview.borrow_and_update().members {
            resolve::remember(&member.peer);
        }
        tokio::select! {
            _ = timeout(LOOK_UP_INTERVAL, overview.changed()) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// Makes this node's place known as it is now. One publication ends before the next begins.
pub(super) fn publish(raft: &Raft) {
    let Ok(core) = raft.core() else { return };
    raft.inner.overview.send_modify(|overview| {
        let server = core.raft.server_metrics().borrow_watched().clone();
        let now = place(core.identity, &server, raft.stalled().is_some(), overview);
        let changed = now.leader.as_ref().map(|leader| leader.node_id)
            != overview.leader.as_ref().map(|leader| leader.node_id);
        if now.is_leader() {
            raft.inner.clock.leads(now.term);
        }
        raft.metrics().place_changed(&now, changed && now.leader.is_some());
        *overview = Arc::new(now);
    });
}

/// This node's place, as openraft has it; but one that is stalled does not lead.
fn place(
    identity: Identity,
    server: &RaftServerMetrics<TypeConfig>,
    stalled: bool,
    before: &Overview,
) -> Overview {
    let members = members(&server.membership_config);
    let node_id = identity.node_id;
    let leader = server.current_leader.filter(|id| !stalled || *id != node_id);
    let leader = leader.and_then(|id| members.iter().find(|member| member.node_id == id)).cloned();
    let leaderless_since = match (&leader, before.leaderless_since) {
        (Some(_), _) => None,
        (None, Some(since)) => Some(since),
        (None, None) => Some(Instant::now()),
    };
    let committed = &server.committed_membership_config;
    let in_config = committed.membership().get_node(&node_id).is_some();
    Overview {
        cluster_id: identity.cluster_id,
        incarnation: identity.incarnation,
        node_id,
        state: match server.state {
            ServerState::Leader if stalled => admin::State::Follower,
            other => state(other),
        },
        term: server.vote.leader_id.term,
        voter: is_voter(server.membership_config.membership(), node_id),
        in_config,
        removed: committed.log_id().is_some() && !in_config,
        leader,
        leaderless_since,
        members,
        status_only: None,
    }
}

pub(super) fn members(stored: &StoredMembership) -> Vec<Member> {
    let membership = stored.membership();
    let member = |(id, address): (&u64, &Address)| Member {
        node_id: *id,
        peer: address.peer.clone(),
        client: address.client.clone(),
        voter: is_voter(membership, *id),
    };
    membership.nodes().map(member).collect()
}

pub(super) fn is_voter(membership: &Membership, node_id: u64) -> bool {
    membership.voter_ids().any(|id| id == node_id)
}

fn state(state: ServerState) -> admin::State {
    match state {
        ServerState::Learner | ServerState::Shutdown => admin::State::Learner,
        ServerState::Follower => admin::State::Follower,
        ServerState::Candidate => admin::State::Candidate,
        ServerState::Leader => admin::State::Leader,
    }
}

impl Raft {
    /// Positions in this node's log, now.
    pub fn positions(&self) -> Positions {
        let log = self.inner.log.state();
        let metrics = self.inner.core.get().map(|core| core.raft.data_metrics());
        let committed = metrics.and_then(|metrics| metrics.borrow_watched().cluster_committed);
        Positions {
            applied: self.inner.store.applied().map_or(0, |id| id.index),
            committed: committed.map_or(0, |id| id.index()),
            last_log: log.last.map_or(0, |id| id.index),
        }
    }

    /// Everything this node knows of itself, for `admin.v1.Status`.
    pub fn status(&self) -> admin::StatusResponse {
        let inner = &self.inner;
        let (overview, store, log) = (self.overview(), inner.store.stats(), inner.log.state());
        let metrics = inner.core.get().map(|core| core.raft.metrics().borrow_watched().clone());
        let space = self.space().ok();
        let log_id = |id: kvorum_store::entry::LogId| admin::LogId { term: id.term, index: id.index };
        admin::StatusResponse {
            node_id: overview.node_id,
            cluster_id: overview.cluster_id,
            incarnation: overview.incarnation,
            state: overview.state.into(),
            term: overview.term,
            leader_id: overview.leader.as_ref().map_or(0, |leader| leader.node_id),
            committed: match &metrics {
                Some(metrics) => metrics.cluster_committed.as_ref().map(wire_log_id),
                None => log.committed.map(log_id),
            },
            applied: inner.store.applied().map(log_id),
            last_log: log.last.map(log_id),
            membership: metrics
                .as_ref()
                .map(|metrics| &*metrics.membership_config)
                .or_else(|| inner.set_aside.get().map(|aside| &aside.membership))
                .map(|stored| wire_membership(stored.membership(), stored.log_id().as_ref())),
            progress: metrics.as_ref().map(|metrics| self.progress(metrics)).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").into(),
            format_version_max: FORMAT_VERSION.into(),
            revision: inner.store.revision(),
            compacted_revision: inner.store.compacted(),
            keys: inner.store.keys(),
            store_bytes: store.disk_bytes,
            log_bytes: inner.log.bytes(),
            disk_free_bytes: space.map_or(0, |space| space.free_bytes),
            disk_bytes: space.map_or(0, |space| space.total_bytes),
            alarms: self.alarms(),
            peer_address: inner.options.advertise_peer.clone(),
            client_address: inner.options.advertise_client.clone(),
            voter: overview.voter,
            logical_bytes: inner.store.logical_bytes(),
            quota_bytes: inner.store.quota_bytes(),
            hash: 0,
            status_only: overview.status_only.as_ref().map(ToString::to_string).unwrap_or_default(),
            confirmed: false,
            feature_level: inner.store.feature_level(),
            feature_level_max: inner.options.feature_level_max,
            cluster_time_ms: self.cluster_now_ms(),
            founding: self.founding(),
        }
    }

    /// The hash of the records visible at a revision. It reads the whole store, off the runtime; callers
    /// wait for one another.
    pub async fn hash(&self, revision: u64) -> Result<u64, RequestError> {
        let turn = self.inner.hashing.clone().acquire_owned().await;
        let turn = turn.map_err(|_| RequestError::ShuttingDown)?;
        let store = self.inner.store.clone();
        // The turn ends with the reading, which goes on when the caller is gone.
        let hash = spawn_blocking(move || {
            let hash = store.hash(revision);
            drop(turn);
            hash
        });
        let hash = hash.await;
        hash.map_err(|_| RequestError::ShuttingDown)?.map_err(RequestError::from)
    }

    /// The alarms that stand on this node's account.
    pub fn alarms(&self) -> Vec<String> {
        let node_id = self.overview().node_id;
        let no_space = self.inner.store.space_alarms().contains(&node_id).then_some("NO_SPACE");
        let checkpoint = self.inner.checkpoints.failing(Instant::now()).then_some("CHECKPOINT_FAILED");
        let stalled = self.stalled().map(Stall::alarm);
        [no_space, checkpoint, stalled].into_iter().flatten().map(str::to_owned).collect()
    }

    /// Takes note of which peers have caught up, where this node leads.
    pub(super) fn observe_lags(&self) {
        let metrics = self.inner.core.get().map(|core| core.raft.metrics().borrow_watched().clone());
        if let Some(metrics) = metrics {
            self.progress(&metrics);
        }
    }

    /// How far each peer is, as the leader knows it; empty elsewhere.
    pub(super) fn peers_progress(&self) -> Vec<admin::Progress> {
        let metrics = self.inner.core.get().map(|core| core.raft.metrics().borrow_watched().clone());
        metrics.map(|metrics| self.progress(&metrics)).unwrap_or_default()
    }

    fn progress(&self, metrics: &RaftMetrics<TypeConfig>) -> Vec<admin::Progress> {
        let now = Instant::now();
        let Some(replication) = &metrics.replication else {
            self.inner.lags.observe(now, &[]);
            return Vec::new();
        };
        let last = self.inner.log.state().last.map_or(0, |id| id.index + 1);
        let silent: BTreeMap<u64, u64> = metrics
            .heartbeat
            .iter()
            .flatten()
            .filter_map(|(id, at)| Some((*id, at.as_ref()?.elapsed().as_millis() as u64)))
            .collect();
        let of = |(id, matched): (&u64, &Option<LogId>)| admin::Progress {
            node_id: *id,
            matched: matched.as_ref().map(wire_log_id),
            bytes_behind: self.inner.log.bytes_between(matched.as_ref().map_or(0, |id| id.index() + 1), last),
            silent_ms: silent.get(id).copied().unwrap_or(u64::MAX),
            lagging_ms: 0,
        };
        let own_id = self.overview().node_id;
        let mut progress: Vec<_> = replication.iter().map(of).collect();
        let caught_up = |peer: &admin::Progress| (peer.node_id, peer.node_id == own_id || self.is_live(peer));
        self.inner.lags.observe(now, &progress.iter().map(caught_up).collect::<Vec<_>>());
        for peer in &mut progress {
            peer.lagging_ms = self.inner.lags.lagging_ms(now, peer.node_id);
        }
        progress
    }
}

impl Raft {
    /// The index of the membership in force, if that is a joint one.
    pub(crate) fn joint_membership(&self) -> Option<u64> {
        let metrics = self.inner.core.get()?.raft.server_metrics();
        let stored = metrics.borrow_watched().membership_config.clone();
        let joint = stored.membership().get_joint_config().len() > 1;
        stored.log_id().filter(|_| joint).map(|id| id.index())
    }
}
