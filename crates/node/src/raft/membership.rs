//! Founding a cluster, joining one, and changing who belongs to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kvorum_proto::{admin::v1 as admin, peer::v1 as peer};
use kvorum_store::data_dir::Identity;
use kvorum_store::feature::{FEATURE_LEVEL_MIN, RELEASE};
use openraft::ChangeMembers;
use openraft::errors::{ChangeMembershipError, ClientWriteError, InitializeError, RaftError};
use openraft::raft::{ClientWriteResponse, Precondition};
use prost::Message as _;
use rand::Rng as _;
use rustix::process::{Signal, getpid, kill_process};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;

use super::types::{Address, TypeConfig, read_log_id, store_log_id, wire_membership};
use super::{OpenRaft, Overview, Raft};
use crate::boot::recover::{self, Order};
use crate::error::RequestError;
use crate::net::transport;

/// A voter counts as caught up when no more than this is missing: less than a second's worth on a
/// slow disk, so that the change of voters does not wait for it.
pub const CAUGHT_UP_BYTES: u64 = 1 << 20;

/// Leadership goes only to a voter that was heard of within so long.
const HEARD_OF_MS: u64 = 1_000;

/// A member that was not heard of for longer, or for longer than an election takes, is not there as far
/// as changes of the voters go.
const PRESENT_MS: u64 = 3_000;

/// How long a voter may take to become leader after it was told to.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a node may take to answer `Join`, which syncs its identity to disk.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The answer to `Recover` gets out before the node stops.
const ANSWER_FIRST: Duration = Duration::from_millis(200);

/// Between two looks at something that is on its way.
const POLL: Duration = Duration::from_millis(10);

/// Why a change of the cluster failed.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// This node can't do it, or not now.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It belongs to another cluster.
    #[error("this node belongs to cluster {actual:016x}, not {wanted:016x}")]
    OtherCluster {
        /// The cluster it belongs to.
        actual: u64,
        /// The one that was asked for.
        wanted: u64,
    },
    /// The caller's view is out of date, or his request does not fit what is.
    #[error("{0}")]
    Refused(String),
    /// The disk could not take the new identity.
    #[error("{0}")]
    Io(String),
    /// It was begun; whether it completes is not known.
    #[error("{0}; look at the membership and repeat the request")]
    Unfinished(String),
}

/// How a disk came to its cluster.
#[derive(Clone, Copy)]
enum Origin {
    /// It is the first one.
    Founds,
    /// Another one founded it.
    Joins,
}

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

/// Why something of a level that this node does not know is not taken.
pub(super) fn unknown_level(what: &str, level: u32, known: u32) -> String {
    format!(
        "{what} is of feature level {level}, and this node, release {RELEASE}, knows up to {known}; start it \
         with the release that the cluster's leader is of, or a later one"
    )
}

/// Refuses a node that does not know the cluster's level: one of a release from before there were levels
/// would not say so by itself.
async fn check_knows(address: &str, channel: Channel, level: u32) -> Result<(), MembershipError> {
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

/// The bytes of a membership of one voter, as log and store keep them.
pub fn founding_membership(node_id: u64, peer: &str, client: &str) -> Vec<u8> {
    let node = admin::Node { node_id, peer_address: peer.into(), client_address: client.into() };
    let configs = vec![admin::VoterSet { node_ids: vec![node_id] }];
    admin::Membership { log_id: None, configs, nodes: vec![node] }.encode_to_vec()
}

impl Raft {
    /// Founds a cluster of this one node, and answers its id. Repeating it finishes what a crash
    /// left, and is a no-op after that. With 0 the node chooses the cluster's id.
    pub async fn initialize(&self, wanted: u64) -> Result<u64, MembershipError> {
        let _joining = self.inner.joining.lock().await;
        let founded = self.overview().members.iter().any(|member| member.voter);
        match self.disk_cluster() {
            0 => {
                let own = || self.inner.options.cluster_id.unwrap_or_else(|| rand::rng().next_u64().max(1));
                let cluster_id = if wanted == 0 { own() } else { wanted };
                self.set_cluster(cluster_id, 1, Origin::Founds).await?;
            }
            actual if wanted != 0 && wanted != actual => {
                return Err(MembershipError::OtherCluster { actual, wanted });
            }
            cluster_id if founded => return Ok(cluster_id),
            cluster_id if !self.inner.data_dir.founds() => {
                return Err(MembershipError::Refused(format!(
                    "this disk was joined to cluster {cluster_id:016x} and founds none: add it there with `kvorum \
                     member add {}`, or, where that cluster is gone, empty its data directory first",
                    self.inner.options.advertise_peer
                )));
            }
            // A crash came between the two halves of founding.
            _ => {}
        }
        let core = self.core()?;
        let node_id = core.identity.node_id;
        let founder = BTreeMap::from([(node_id, self.address())]);
        match core.raft.initialize(founder).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(core.identity.cluster_id),
            Err(error) => Err(MembershipError::Refused(format!("found the cluster: {error}"))),
        }
    }

    /// Makes this Unjoined node one that a cluster may add; durable when it returns.
    pub async fn join(
        &self,
        cluster_id: u64,
        incarnation: u64,
        feature_level: u32,
    ) -> Result<(), MembershipError> {
        let known = self.inner.options.feature_level_max;
        if feature_level > known {
            return Err(MembershipError::Refused(unknown_level("the cluster", feature_level, known)));
        }
        let _joining = self.inner.joining.lock().await;
        match self.disk_cluster() {
            0 => self.set_cluster(cluster_id, incarnation, Origin::Joins).await,
            actual if actual != cluster_id => {
                Err(MembershipError::OtherCluster { actual, wanted: cluster_id })
            }
            // It may have begun to found the cluster that another disk founded then: now it joins.
            // Its incarnation stays: of what it missed, no message tells it.
            _ => self.note_cluster(cluster_id, 0, Origin::Joins).map(drop),
        }
    }

    /// The cluster that this disk belongs to; 0: none.
    fn disk_cluster(&self) -> u64 {
        self.inner.data_dir.identity().map_or(0, |identity| identity.cluster_id)
    }

    async fn set_cluster(
        &self,
        cluster_id: u64,
        incarnation: u64,
        origin: Origin,
    ) -> Result<(), MembershipError> {
        if let Some(wanted) = self.inner.options.cluster_id.filter(|wanted| *wanted != cluster_id) {
            return Err(MembershipError::Refused(format!(
                "this node is for cluster {wanted:016x}, as --cluster-id says, not for {cluster_id:016x}"
            )));
        }
        let wanted = self.inner.options.incarnation_min;
        if incarnation < wanted {
            return Err(MembershipError::Refused(format!(
                "the cluster is of incarnation {incarnation}, --incarnation-min says {wanted}; start this node with \
                 a lower one"
            )));
        }
        let identity = self.note_cluster(cluster_id, incarnation, origin)?;
        tracing::info!(cluster_id = format!("{cluster_id:016x}"), "this disk belongs to a cluster now");
        self.start_core(identity).await.map_err(|error| MembershipError::Io(error.to_string()))
    }

    /// Writes down to which cluster this disk belongs, and how it came to it.
    fn note_cluster(
        &self,
        cluster_id: u64,
        incarnation: u64,
        origin: Origin,
    ) -> Result<Identity, MembershipError> {
        let data_dir = &self.inner.data_dir;
        let noted = match origin {
            Origin::Founds => data_dir.found_cluster(cluster_id, incarnation),
            Origin::Joins => data_dir.set_cluster(cluster_id, incarnation),
        };
        noted.map_err(|error| MembershipError::Io(error.to_string()))
    }

    /// Whether this disk began to found a cluster, and a crash came before it had.
    pub fn founding(&self) -> bool {
        self.inner.data_dir.founds() && !self.overview().members.iter().any(|member| member.voter)
    }

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
            return Ok(self.current_membership());
        }
        // The level that the node is asked about is the cluster's until it is a member.
        let _alone = core.changing.lock().await;
        // A leader before this one may have raised it in an entry that is not applied here yet.
        self.read_barrier(Instant::now() + JOIN_TIMEOUT).await?;
        let join = peer::JoinRequest {
            cluster_id: core.identity.cluster_id,
            node_id: node.node_id,
            incarnation: core.identity.incarnation,
            feature_level: self.inner.store.feature_level(),
        };
        let channel = transport::peer_channel(&node.peer_address)
            .map_err(|error| MembershipError::Refused(error.to_string()))?;
        check_knows(&node.peer_address, channel.clone(), join.feature_level).await?;
        match timeout(JOIN_TIMEOUT, transport::peer_client(channel).join(join)).await {
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
            None => return Ok(self.current_membership()),
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

    /// Whether a peer is there and lacks next to nothing.
    pub(super) fn is_live(&self, progress: &admin::Progress) -> bool {
        let silent_ms_max = PRESENT_MS.max(self.inner.options.election_timeout_ms);
        progress.silent_ms <= silent_ms_max && progress.bytes_behind <= CAUGHT_UP_BYTES
    }

    /// Refuses voters that could not commit anything, and new ones that are not there: whoever asks for
    /// them may have looked at the cluster long ago.
    fn check_live(&self, voter_ids: &BTreeSet<u64>) -> Result<(), MembershipError> {
        let (status, overview) = (self.status(), self.overview());
        let live: BTreeSet<u64> = status
            .progress
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

    /// Makes this node, whose quorum is lost for good, the only voter of a new incarnation, if all is
    /// exactly as the caller saw it. That takes a restart, which is begun here.
    pub async fn recover(&self, wanted: admin::RecoverRequest) -> Result<(), MembershipError> {
        let admin::RecoverRequest { node_id, last_log_id, from_incarnation, to_incarnation } = wanted;
        let refused = |reason: String| Err(MembershipError::Refused(reason));
        if let Some(reason) = self.never_recovers() {
            return refused(reason.to_string());
        }
        if self.status_only().is_none() {
            self.core()?;
        }
        let Overview { node_id: own, incarnation, .. } = *self.overview();
        if node_id != own {
            return refused(format!("the disk here is node {own:016x}, not {node_id:016x}"));
        }
        if incarnation == to_incarnation {
            return Ok(());
        }
        let next = self.options().incarnation_min.max(incarnation + 1);
        if incarnation != from_incarnation || to_incarnation < next {
            return refused(format!("this is incarnation {incarnation}; the next one is {next} or later"));
        }
        if self.confirm().await {
            return refused(
                "a quorum is there and has confirmed its leader: nothing is to be recovered".into(),
            );
        }
        let last = self.inner.log.state().last.unwrap_or_default();
        let wanted = last_log_id.map(|id| (id.term, id.index));
        if wanted != Some((last.term, last.index)) {
            return refused(format!("the log here ends at {last}; look again, and repeat the request"));
        }
        self.check_alone(last).await?;
        // It took seconds to find nobody.
        let now = self.inner.log.state().last.unwrap_or_default();
        if now != last || self.confirm().await {
            return refused(format!("the log here ended at {last} and ends at {now}: it is not alone"));
        }
        let order = Order { last, incarnation: to_incarnation };
        recover::order(self.inner.data_dir.path(), order)
            .map_err(|error| MembershipError::Io(format!("write the order to recover: {error}")))?;
        tracing::warn!(%last, "this node is to recover its cluster alone, and restarts for that");
        tokio::spawn(async {
            sleep(ANSWER_FIRST).await;
            if let Err(error) = kill_process(getpid(), Signal::TERM) {
                tracing::error!(%error, "stop this node; restart it to recover");
            }
        });
        Ok(())
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
                && progress.bytes_behind <= CAUGHT_UP_BYTES
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

    fn leading(&self) -> Result<&super::Core, MembershipError> {
        let core = self.core()?;
        if self.overview().is_leader() { Ok(core) } else { Err(self.not_leader().into()) }
    }

    fn current_membership(&self) -> admin::Membership {
        self.status().membership.unwrap_or_default()
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
