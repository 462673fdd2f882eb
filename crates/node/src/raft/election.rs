//! Elections that nobody won.
//!
//! Voters that stand at the same moment each have their own vote, and none has a majority. openraft lets
//! another election timeout go by before one stands again, which makes a leader's end twice as long as it
//! has to be: the old leader's lease is over, and a majority has just said, in the pre-vote, that it would
//! elect one. So such a candidate stands again soon.

use std::time::Duration;

use kvorum_proto::admin::v1 as admin;
use rand::RngExt as _;
use tokio::time::timeout;

use super::Raft;

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

/// How long an election may take: longer than votes are on their way, which is less than a heartbeat
/// interval in any network that suits it, and different for each candidate.
fn pause(heartbeat_interval_ms: u64) -> Duration {
    let millis = heartbeat_interval_ms / 2..=heartbeat_interval_ms * 3 / 2;
    Duration::from_millis(rand::rng().random_range(millis))
}
