//! Changing who belongs to a cluster, as its leader.

use std::collections::BTreeSet;
use std::time::Duration;

use kvorum_proto::{admin::v1 as admin, peer::v1 as peer};
use kvorum_store::feature::{FEATURE_LEVEL_MIN, RELEASE};
use openraft::ChangeMembers;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::{ClientWriteResponse, Precondition};
use tokio::time::{Instant, timeout};

use super::types::{Address, TypeConfig, read_log_id, store_log_id, wire_membership};
use super::{Core, OpenRaft, Raft};
use crate::error::{MembershipError, RequestError};
use crate::net::dialer::peer_client;
use crate::net::way::Way;

/// How long a node may take to answer `Join`, which syncs its identity to disk.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What openraft has against a change, without its own notation of log ids where that is usual.
fn refusal(error: &ClientWriteError<TypeConfig>) -> String {
    match error {
        ClientWriteError::PreconditionFailed(_) => {
            "the membership has changed since the caller saw it; look at it again".into()
        }
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)) => {
            "another change of the membership is under way; wait for its end".into()
        }
        error => error.to_string(),
    }
}

/// Refuses a node that does not know the cluster's level: one of a release from before there were levels
/// would not say so by itself.
async fn check_knows(address: &str, channel: Way, level: u32) -> Result<(), MembershipError> {
    if level == FEATURE_LEVEL_MIN {
        return Ok(());
    }
    let mut client = admin::admin_client::AdminClient::new(channel);
    let status = match timeout(JOIN_TIMEOUT, client.status(admin::StatusRequest::default())).await {
        Ok(Ok(status)) => status.into_inner(),
        Ok(Err(status)) => {
            let reason = format!("the node at {address} does not say its status: {}", status.message());
            return Err(MembershipError::Refused(reason));
        }
        Err(_) => return Err(MembershipError::Refused(format!("no answer from {address}"))),
    };
    let known = status.feature_level_max.max(FEATURE_LEVEL_MIN);
    if known < level {
        return Err(MembershipError::Refused(format!(
            "the cluster is of feature level {level}, and the node at {address}, release {}, knows up to {known}; \
             start it with release {RELEASE} or a later one",
            status.version
        )));
    }
    Ok(())
}

/// A membership for people: who votes, who will instead once a joint change is complete, who learns.
fn describe(membership: &admin::Membership) -> String {
    let configs: Vec<&[u64]> = membership.configs.iter().map(|config| &config.node_ids[..]).collect();
    let address = |id: u64| membership.nodes.iter().find(|node| node.node_id == id);
    let member = |&id: &u64| match address(id) {
        Some(node) => format!("{id:016x} ({})", node.peer_address),
        None => format!("{id:016x}"),
    };
    let list = |ids: &[u64]| ids.iter().map(member).collect::<Vec<_>>().join(", ");
    let voters = configs.iter().map(|ids| list(ids)).collect::<Vec<_>>().join("; then ");
    let votes = |id: &u64| configs.iter().any(|ids| ids.contains(id));
    let learners: Vec<u64> =
        membership.nodes.iter().map(|node| node.node_id).filter(|id| !votes(id)).collect();
    match learners.is_empty() {
        true => format!("voters {voters}"),
        false => format!("voters {voters}; learners {}", list(&learners)),
    }
}

impl Raft {
    /// Adds a node that does not vote, telling it to join first.
    pub async fn add_learner(
        &self,
        node: admin::Node,
        expected: Option<admin::LogId>,
    ) -> Result<admin::Membership, MembershipError> {
        let core = self.leading()?;
        if node.node_id == 0 || node.peer_address.is_empty() || node.client_address.is_empty() {
            return Err(MembershipError::Refused("a node has an id, a peer and a client address".into()));
        }
        let overview = self.overview();
        if let Some(known) = overview.members.iter().find(|member| member.node_id == node.node_id) {
            if known.peer != node.peer_address {
                return Err(MembershipError::Refused(format!(
                    "node {:016x} is a member at {} already; an id names one disk",
                    node.node_id, known.peer
                )));
            }
            return Ok(self.current_membership()?);
        }
        // The level that the node is asked about is the cluster's until it is a member.
        let _alone = core.changing.lock().await;
        if self.is_closed() {
            return Err(MembershipError::Refused(
                "the cluster was founded closed, and nobody is added before users and rights are declared (`ApplyAccess`), \
                 or count (`kvorum auth enable`)"
                    .into(),
            ));
        }
        // A leader before this one may have raised it in an entry that is not applied here yet.
        self.read_barrier(Instant::now() + JOIN_TIMEOUT).await?;
        let join = peer::JoinRequest {
            cluster_id: core.identity.cluster_id,
            node_id: node.node_id,
            incarnation: core.identity.incarnation,
            feature_level: self.inner.store.feature_level(),
        };
        let channel = (self.inner.dialer.channel(&node.peer_address))
            .map_err(|error| MembershipError::Refused(error.to_string()))?;
        check_knows(&node.peer_address, channel.clone(), join.feature_level).await?;
        match timeout(JOIN_TIMEOUT, peer_client(channel).join(join)).await {
            Ok(Ok(_)) => {}
            Ok(Err(status)) => {
                return Err(MembershipError::Refused(format!(
                    "the node at {} does not join: {}",
                    node.peer_address,
                    status.message()
                )));
            }
            Err(_) => {
                return Err(MembershipError::Refused(format!("no answer from {}", node.peer_address)));
            }
        }
        let address = Address { peer: node.peer_address, client: node.client_address };
        let change = ChangeMembers::AddNodes([(node.node_id, address)].into());
        self.change(&core.raft, change, true, expected).await
    }

    /// Removes a node that does not vote.
    pub async fn remove_learner(
        &self,
        node_id: u64,
        expected: Option<admin::LogId>,
    ) -> Result<admin::Membership, MembershipError> {
        let core = self.leading()?;
        match self.overview().members.iter().find(|member| member.node_id == node_id) {
            None => return Ok(self.current_membership()?),
            Some(member) if member.voter => {
                return Err(MembershipError::Refused(format!("node {node_id:016x} is a voter, no learner")));
            }
            Some(_) => {}
        }
        let change = ChangeMembers::RemoveNodes([node_id].into());
        self.change(&core.raft, change, false, expected).await
    }

    /// Makes exactly these nodes the voters.
    pub async fn change_voters(
        &self,
        voter_ids: BTreeSet<u64>,
        retain: bool,
        expected: Option<admin::LogId>,
    ) -> Result<admin::Membership, MembershipError> {
        let core = self.leading()?;
        if voter_ids.is_empty() {
            return Err(MembershipError::Refused("a cluster has at least one voter".into()));
        }
        let members = &self.overview().members;
        if let Some(id) = voter_ids.iter().find(|id| !members.iter().any(|member| member.node_id == **id)) {
            return Err(MembershipError::Refused(format!(
                "node {id:016x} is no member: add it as a learner first"
            )));
        }
        self.check_live(&voter_ids)?;
        self.change(&core.raft, ChangeMembers::ReplaceAllVoters(voter_ids), retain, expected).await
    }

    /// Refuses voters that could not commit anything, and new ones that are not there: whoever asks for
    /// them may have looked at the cluster long ago.
    fn check_live(&self, voter_ids: &BTreeSet<u64>) -> Result<(), MembershipError> {
        let (progress, overview) = (self.peers_progress(), self.overview());
        let live: BTreeSet<u64> = progress
            .iter()
            .filter(|progress| self.is_live(progress))
            .map(|progress| progress.node_id)
            .chain([overview.node_id])
            .collect();
        let votes = |id: &u64| overview.members.iter().any(|member| member.node_id == *id && member.voter);
        if let Some(id) = voter_ids.iter().find(|id| !votes(id) && !live.contains(id)) {
            return Err(MembershipError::Refused(format!(
                "node {id:016x} is not live or has not caught up; wait until it is, and make it a voter then"
            )));
        }
        if (voter_ids & &live).len() <= voter_ids.len() / 2 {
            return Err(MembershipError::Refused(
                "most of these voters are not live or have not caught up, and nothing could be committed any \
                 more; bring them back first"
                    .into(),
            ));
        }
        Ok(())
    }

    async fn change(
        &self,
        raft: &OpenRaft,
        change: ChangeMembers<u64, Address>,
        retain: bool,
        expected: Option<admin::LogId>,
    ) -> Result<admin::Membership, MembershipError> {
        let conditions = expected
            .map(|id| Precondition::LastMembershipLogId { last_membership_log_id: Some(read_log_id(id)) });
        let changed = raft.change_membership_if(change, retain, conditions).await;
        let ClientWriteResponse::<TypeConfig> { log_id, membership, .. } =
            changed.map_err(|error| match error {
                RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => self.not_leader().into(),
                RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => {
                    MembershipError::Unfinished("leadership was lost during the change".into())
                }
                RaftError::APIError(error) => MembershipError::Refused(refusal(&error)),
                RaftError::Fatal(_) => RequestError::ShuttingDown.into(),
            })?;
        let membership = membership.ok_or_else(|| {
            MembershipError::Unfinished("raft answered a membership change without a membership".into())
        })?;
        let membership = wire_membership(&membership, Some(&log_id));
        tracing::info!(log_id = %store_log_id(&log_id), members = describe(&membership), "membership changed");
        Ok(membership)
    }

    /// Finishes a joint change that another leader began. It does nothing where there is none.
    pub(crate) async fn finish_joint_change(&self) -> Result<(), MembershipError> {
        let core = self.leading()?;
        // Adding nobody leaves the joint configuration for its second half. Whether voters that leave were to stay
        // as learners, the joint configuration does not tell. So they stay: who wanted them gone removes
        // learners in the next step, but nothing brings back at once what one that was dropped had.
        let change = ChangeMembers::AddVoterIds(BTreeSet::new());
        self.change(&core.raft, change, true, None).await.map(drop)
    }

    pub(super) fn leading(&self) -> Result<&Core, MembershipError> {
        let core = self.core()?;
        if self.overview().is_leader() { Ok(core) } else { Err(self.not_leader().into()) }
    }

    /// The membership in force.
    fn current_membership(&self) -> Result<admin::Membership, RequestError> {
        let [_, effective] = self.memberships()?;
        Ok(wire_membership(effective.membership(), effective.log_id().as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members are named as everywhere else, by sixteen digits and their addresses.
    #[test]
    fn a_membership_is_described_for_people() {
        let node = |node_id: u64| admin::Node {
            node_id,
            peer_address: format!("n{node_id}:2380"),
            client_address: format!("n{node_id}:2379"),
        };
        let voters = |ids: &[u64]| admin::VoterSet { node_ids: ids.to_vec() };
        let mut membership =
            admin::Membership { log_id: None, configs: vec![voters(&[1])], nodes: vec![node(1), node(10)] };
        let (one, ten) = ("0000000000000001 (n1:2380)", "000000000000000a (n10:2380)");
        assert_eq!(describe(&membership), format!("voters {one}; learners {ten}"));
        membership.configs.push(voters(&[1, 10]));
        assert_eq!(describe(&membership), format!("voters {one}; then {one}, {ten}"));
    }
}
