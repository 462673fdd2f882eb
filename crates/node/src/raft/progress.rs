//! How far the peers are, as the leader knows it.

use std::collections::BTreeMap;

use kvorum_proto::admin::v1 as admin;
use openraft::Instant as _;
use openraft::RaftMetrics;
use openraft::async_runtime::WatchReceiver as _;
use tokio::time::{Instant, interval};

use super::Raft;
use super::types::{LogId, TypeConfig, wire_log_id};

/// A voter counts as caught up when no more than this is missing: less than a second's worth on a
/// slow disk, so that the change of voters does not wait for it.
const CAUGHT_UP_BYTES: u64 = 1 << 20;

/// A member that was not heard of for longer, or for longer than an election takes, is not there as far
/// as changes of the voters go.
const PRESENT_MS: u64 = 3_000;

/// How often the leader looks who lags; so exact is what it says.
const PERIOD: std::time::Duration = std::time::Duration::from_millis(500);

/// Looks who lags again and again, until the node stops.
pub(super) async fn follow(raft: Raft) {
    let (mut stopping, mut turns) = (raft.watch_stopping(), interval(PERIOD));
    loop {
        tokio::select! {
            // Who asks for it takes note of who has caught up.
            _ = turns.tick() => drop(raft.peers_progress()),
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

impl Raft {
    /// Whether a peer is there and lacks next to nothing; who has it wrong lacks it.
    pub(super) fn is_live(&self, progress: &admin::Progress) -> bool {
        let silent_ms_max = PRESENT_MS.max(self.inner.options.election_timeout_ms);
        progress.silent_ms <= silent_ms_max && self.is_caught_up(progress)
    }

    /// Whether a peer lacks next to nothing, of which the log has all: else it has to be sent a snapshot first, however
    /// little that is. Who has it wrong lacks it.
    pub(super) fn is_caught_up(&self, progress: &admin::Progress) -> bool {
        let (wanted, purged) = (progress.matched.map_or(0, |id| id.index + 1), self.inner.log.state().purged);
        progress.bytes_behind <= CAUGHT_UP_BYTES
            && purged.is_none_or(|purged| purged.index < wanted)
            && !self.store().is_corrupt(progress.node_id)
    }

    /// How far each peer is, as the leader knows it; empty elsewhere.
    pub(super) fn peers_progress(&self) -> Vec<admin::Progress> {
        let metrics = self.inner.core.get().map(|core| core.raft.metrics().borrow_watched().clone());
        metrics.map(|metrics| self.progress(&metrics)).unwrap_or_default()
    }

    /// How far each peer is, by openraft's numbers.
    pub(super) fn progress(&self, metrics: &RaftMetrics<TypeConfig>) -> Vec<admin::Progress> {
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
