//! Makes this node's place in its cluster known, whenever it changes.

use std::sync::Arc;
use std::time::Duration;

use kvorum_proto::admin::v1 as admin;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver as _;
use openraft::metrics::RaftServerMetrics;
use tokio::time::{Instant, timeout};

use super::identity::Identity;
use super::types::{TypeConfig, is_voter, members};
use super::{Raft, core_end};
use crate::place::Overview;

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
            raft.dialer().remember(&member.peer);
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
        let lost = raft.inner.contact.lost_since(&core.raft, &server, &raft.inner.options, Instant::now());
        let now = place(core.identity, &server, raft.stalled().is_some(), lost, overview);
        let changed = now.leader.as_ref().map(|leader| leader.node_id)
            != overview.leader.as_ref().map(|leader| leader.node_id);
        if now.is_leader() {
            raft.inner.clock.leads(now.term);
        }
        raft.metrics().place_changed(&now, changed && now.leader.is_some());
        if let Some(observer) = &raft.inner.observer
            && (now.state, now.term) != (overview.state, overview.term)
        {
            observer.place_changed(&now);
        }
        *overview = Arc::new(now);
    });
}

/// Makes this node's place known anew where it has come out of touch, or is in touch again.
pub(super) fn look_again(raft: &Raft) {
    let Ok(core) = raft.core() else { return };
    let contact = &raft.inner.contact;
    let before = contact.was_lost();
    let server = core.raft.server_metrics().borrow_watched().clone();
    let lost = contact.lost_since(&core.raft, &server, &raft.inner.options, Instant::now());
    if lost.is_some() != before {
        publish(raft);
    }
}

/// This node's place, as openraft has it; but one that is stalled, or out of touch since a moment, does not lead, and
/// knows no leader.
fn place(
    identity: Identity,
    server: &RaftServerMetrics<TypeConfig>,
    stalled: bool,
    lost: Option<Instant>,
    before: &Overview,
) -> Overview {
    let members = members(&server.membership_config);
    let node_id = identity.node_id;
    let leader = server.current_leader.filter(|id| lost.is_none() && (!stalled || *id != node_id));
    let leader = leader.and_then(|id| members.iter().find(|member| member.node_id == id)).cloned();
    let leaderless_since = match (&leader, before.leaderless_since) {
        (Some(_), _) => None,
        (None, Some(since)) => Some(since),
        (None, None) => Some(lost.unwrap_or_else(Instant::now)),
    };
    let committed = &server.committed_membership_config;
    let in_config = committed.membership().get_node(&node_id).is_some();
    Overview {
        cluster_id: identity.cluster_id,
        incarnation: identity.incarnation,
        node_id,
        state: match server.state {
            ServerState::Leader if stalled || lost.is_some() => admin::State::Follower,
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

fn state(state: ServerState) -> admin::State {
    match state {
        ServerState::Learner | ServerState::Shutdown => admin::State::Learner,
        ServerState::Follower => admin::State::Follower,
        ServerState::Candidate => admin::State::Candidate,
        ServerState::Leader => admin::State::Leader,
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
