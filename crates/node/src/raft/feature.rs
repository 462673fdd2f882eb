//! Raising the cluster's feature level, once every member knows the next one.
//!
//! A member that is added meanwhile knows the present level, or `Join` refuses it, but perhaps not the next
//! one. So changes of the membership and the raise exclude each other on the leader, and a raise takes its
//! members from a membership that is committed.

use kvorum_store::command::{Command, Kind, RaiseFeatureLevel};
use kvorum_store::entry;
use kvorum_store::feature::{FEATURE_LEVEL_MAX, RELEASE};
use openraft::async_runtime::WatchReceiver as _;

use super::Raft;
use super::propose::commit_payload;
use super::types::Address;
use crate::error::RequestError;

/// Why something of a level that this node does not know is not taken.
pub(super) fn unknown_level(what: &str, level: u32, known: u32) -> String {
    format!(
        "{what} is of feature level {level}, and this node, release {RELEASE}, knows up to {known}; start it \
         with the release that the cluster's leader is of, or a later one"
    )
}

impl Raft {
    /// Raises the level to the highest that all members know, learners too, if that is above the present one.
    pub(crate) async fn raise_feature_level(&self) -> Result<(), RequestError> {
        let core = self.core()?;
        let Ok(_alone) = core.changing.try_lock() else { return Ok(()) };
        let level = match self.level_of_all() {
            Some(level) if level > self.store().feature_level() => level,
            _ => return Ok(()),
        };
        let raise = RaiseFeatureLevel { level, release: RELEASE.into() };
        let command = Command::from(Kind::RaiseFeatureLevel(raise)).encoded();
        let payload = entry::encode_batch_of_level(level, self.cluster_now_ms(), [command].iter());
        // Without a limit: while it may yet be committed, nobody may be added.
        commit_payload(self, core, payload).await?;
        tracing::info!(level, "every member knows the next feature level: the cluster is raised to it");
        Ok(())
    }

    /// The highest level that every member of the committed membership knows, as each has said lately. Nothing
    /// where one has not, or while the membership changes.
    fn level_of_all(&self) -> Option<u32> {
        let core = self.core().ok()?;
        let server = core.raft.server_metrics().borrow_watched().clone();
        let (effective, committed) = (&server.membership_config, &server.committed_membership_config);
        if effective.log_id() != committed.log_id() {
            return None;
        }
        let own = (core.identity.node_id, self.options().feature_level_max.min(FEATURE_LEVEL_MAX));
        let known = |(id, _): (&u64, &Address)| {
            if *id == own.0 { Some(own.1) } else { core.connections.feature_level_max(*id) }
        };
        let levels: Option<Vec<u32>> = committed.membership().nodes().map(known).collect();
        levels?.into_iter().min()
    }
}
