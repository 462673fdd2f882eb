//! Handing leadership to another voter.

use std::time::Duration;

use kvorum_proto::admin::v1 as admin;
use tokio::time::{Instant, sleep, timeout};

use super::Raft;
use crate::error::{MembershipError, RequestError};

/// Leadership goes only to a voter that was heard of within so long.
const HEARD_OF_MS: u64 = 1_000;

/// How long a voter may take to become leader after it was told to.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3);

/// Between two looks at something that is on its way.
const POLL: Duration = Duration::from_millis(10);

impl Raft {
    /// Hands leadership over, if this node holds it and another voter can take it; returns when
    /// that is done, or when the time is up.
    pub async fn hand_over(&self, within: Duration) {
        if self.overview().is_leader() {
            match timeout(within, self.transfer_leader(0)).await {
                Ok(Ok(to)) => tracing::info!(to = format!("{to:016x}"), "leadership handed over"),
                Ok(Err(error)) => tracing::info!(%error, "leadership not handed over"),
                Err(_) => tracing::warn!("leadership not handed over in time"),
            }
        }
    }

    /// Hands leadership to a voter that is live and caught up (0: the one that is furthest), and
    /// answers who it was once it leads.
    pub async fn transfer_leader(&self, to: u64) -> Result<u64, MembershipError> {
        let core = self.leading()?;
        if to == core.identity.node_id {
            return Ok(to);
        }
        let to = self.successor(to)?;
        core.raft.trigger().transfer_leader(to).await.map_err(|_| RequestError::ShuttingDown)?;
        let deadline = Instant::now() + TRANSFER_TIMEOUT;
        while Instant::now() < deadline {
            match &self.overview().leader {
                Some(leader) if leader.node_id == to => return Ok(to),
                _ => sleep(POLL).await,
            }
        }
        Err(MembershipError::Unfinished(format!(
            "node {to:016x} did not take over within {TRANSFER_TIMEOUT:?}"
        )))
    }

    /// The voter that can lead best, or the wanted one if it can.
    pub(super) fn successor(&self, wanted: u64) -> Result<u64, MembershipError> {
        let progress = self.peers_progress();
        let overview = self.overview();
        let fit = |progress: &&admin::Progress| {
            progress.node_id != overview.node_id
                && progress.silent_ms <= HEARD_OF_MS
                && self.is_caught_up(progress)
                && overview.members.iter().any(|m| m.node_id == progress.node_id && m.voter)
        };
        let mut fit: Vec<_> = progress.iter().filter(fit).collect();
        if wanted != 0 {
            fit.retain(|progress| progress.node_id == wanted);
        }
        fit.sort_by_key(|progress| progress.matched.map(|id| id.index));
        fit.last().map(|progress| progress.node_id).ok_or_else(|| {
            MembershipError::Refused(match wanted {
                0 => "no other voter is live and caught up".into(),
                id => format!("node {id:016x} is no voter that is live and caught up"),
            })
        })
    }
}
