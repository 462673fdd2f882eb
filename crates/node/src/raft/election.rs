//! Elections that nobody won, and one that nobody calls.
//!
//! Voters that stand at the same moment each have their own vote, and none has a majority. openraft lets
//! another election timeout go by before one stands again, which makes a leader's end twice as long as it
//! has to be: the old leader's lease is over, and a majority has just said, in the pre-vote, that it would
//! elect one. So such a candidate stands again soon.

use std::time::Duration;

use kvorum_proto::admin::v1 as admin;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver as _;
use openraft::metrics::RaftServerMetrics;
use rand::RngExt as _;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Raft;
use super::types::{TypeConfig, is_voter};

/// Stands for election once more where an election of this node's was not decided at once, until the node
/// stops. Once per term, since a candidate that then finds no majority waits for one like every other.
pub async fn stand_again(raft: Raft) {
    let Ok(core) = raft.core() else { return };
    let (mut overview, mut stopping) = (raft.watch_overview(), raft.watch_stopping());
    let mut tried = 0;
    loop {
        let standing = overview.wait_for(|now| now.state == admin::State::Candidate && now.term != tried);
        let term = tokio::select! {
            // The sender lives as long as the node.
            standing = standing => standing.map_or(tried, |now| now.term),
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        tried = term;
        let decided = overview.wait_for(|now| now.state != admin::State::Candidate || now.term != term);
        let undecided = timeout(pause(raft.options().heartbeat_interval_ms), decided).await.is_err();
        if undecided && raft.stalled().is_none() {
            tracing::info!(term, "nobody won the election: standing again");
            // It fails when openraft has stopped, and then there is nothing to stand for.
            let _ = core.raft.trigger().elect(true).await;
        }
    }
}

/// A voter that is without a leader for so long looks whom it follows, and as long again until it looks again.
const MISLED_AFTER: Duration = Duration::from_secs(5);

/// Stands for election, without a pre-vote, where this node takes for its leader a node that no membership knows: somebody
/// forged a leader's message before the leader of the term was heard of, and in this term nobody else is believed. While
/// the others are well, none of them would call an election; a later term makes all of them start afresh.
pub async fn leave_strangers(raft: Raft) {
    let Ok(core) = raft.core() else { return };
    let (mut ticks, mut stopping) = (interval(MISLED_AFTER), raft.watch_stopping());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let leaderless =
            raft.overview().leaderless_since.is_some_and(|since| since.elapsed() >= MISLED_AFTER);
        let stranger = stranger(&core.raft.server_metrics().borrow_watched());
        if let Some(stranger) = stranger
            && leaderless
            && raft.stalled().is_none()
        {
            let node = format!("{stranger:016x}");
            tracing::warn!(
                node,
                "the leader that is followed here is no member, and silent: standing for election"
            );
            // It fails when openraft has stopped, and then there is nothing to stand for.
            let _ = core.raft.trigger().elect(false).await;
        }
    }
}

/// Whom a voter takes for its leader though the membership does not know it.
fn stranger(server: &RaftServerMetrics<TypeConfig>) -> Option<u64> {
    let membership = server.membership_config.membership();
    let leader = server.vote.committed.then_some(server.vote.leader_id.voted_for);
    let leader = leader.filter(|id| *id != server.id && membership.get_node(id).is_none());
    leader.filter(|_| is_voter(membership, server.id) && server.state == ServerState::Follower)
}

/// How long an election may take: longer than votes are on their way, which is less than a heartbeat
/// interval in any network that suits it, and different for each candidate.
fn pause(heartbeat_interval_ms: u64) -> Duration {
    let millis = heartbeat_interval_ms / 2..=heartbeat_interval_ms * 3 / 2;
    Duration::from_millis(rand::rng().random_range(millis))
}
