//! A node that serves nothing but its status: its disk is not one that its cluster counts on, but
//! what is on it may be all that is left after a loss, so that it says what it holds.
//!
//! openraft does not run on such a node, and so it neither votes nor appends.

use std::sync::Arc;

use kvorum_store::data_dir::Identity;
use openraft::StorageHelper;
use tokio::time::Instant;

use super::log_store::LogStore;
use super::options::StartError;
use super::state_machine::StateMachine;
use super::types::{StoredMembership, is_voter, members};
use super::{Raft, RaftOptions, SetAside, went_back};
use crate::place::{Overview, StatusOnly};

impl Raft {
    /// Why this node must not go on alone, where its disk is set aside: a copy never does. One of an old
    /// incarnation may be all there is left.
    pub(super) fn never_recovers(&self) -> Option<StatusOnly> {
        let aside = self.inner.set_aside.get()?;
        other_address(self.overview().node_id, &aside.membership, self.options())
    }

    /// Keeps a disk out of consensus where that must be; answers whether it does.
    pub(super) async fn sets_aside(
        &self,
        disk: &Identity,
        log: &mut LogStore,
        state: &mut StateMachine,
    ) -> Result<bool, StartError> {
        let known = StorageHelper::new(log, state).get_membership().await;
        let known = known.map_err(|error| StartError::Raft(error.to_string()))?;
        let membership = known.effective().clone();
        let reason = match went_back::mark(&self.inner.data_dir)? {
            Some(missing) => Some(StatusOnly::WentBack { missing }),
            None => reason(disk, &membership, &self.inner.options),
        };
        let Some(reason) = reason else { return Ok(false) };
        tracing::warn!("this node serves nothing but its status: {reason}");
        let overview = Overview {
            cluster_id: disk.cluster_id,
            incarnation: disk.incarnation,
            state: kvorum_proto::admin::v1::State::Unspecified,
            term: self.inner.log.state().vote.map_or(0, |vote| vote.term),
            voter: is_voter(membership.membership(), disk.node_id),
            leaderless_since: Some(Instant::now()),
            members: members(&membership),
            status_only: Some(reason.clone()),
            ..Overview::unjoined(disk.node_id)
        };
        // The one caller is the start, or a join: each comes once.
        let _ = self.inner.set_aside.set(SetAside { reason, membership });
        self.inner.overview.send_replace(Arc::new(overview));
        Ok(true)
    }
}

fn reason(disk: &Identity, membership: &StoredMembership, options: &RaftOptions) -> Option<StatusOnly> {
    if disk.incarnation < options.incarnation_min {
        return Some(StatusOnly::OldIncarnation { found: disk.incarnation, wanted: options.incarnation_min });
    }
    other_address(disk.node_id, membership, options)
}

fn other_address(node_id: u64, membership: &StoredMembership, options: &RaftOptions) -> Option<StatusOnly> {
    let known = &membership.membership().get_node(&node_id)?.peer;
    let advertised = &options.advertise_peer;
    (known != advertised)
        .then(|| StatusOnly::OtherAddress { known: known.clone(), advertised: advertised.clone() })
}
