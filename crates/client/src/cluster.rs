//! What the cluster looks like.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use kvorum_proto::kv::v1 as wire;

use crate::options::{CallOptions, Route};
use crate::pool::Pool;
use crate::reads::Answer;
use crate::types::header;
use crate::{Error, Header};

/// Asks what the cluster looks like; await it.
///
/// # Errors
/// What [any call](Error#any-call) can end with.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// let members = client.members().timeout(std::time::Duration::from_secs(2)).await?;
/// println!("{} members, led by {:?}", members.members.len(), members.leader_id);
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone)]
#[must_use = "a call does nothing until it is awaited"]
pub struct MembersCall {
    pool: Arc<Pool>,
    timeout: Duration,
}

/// The members of a cluster.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// let members = client.members().await?;
/// let voters = members.members.iter().filter(|member| member.voter).count();
/// println!("{} of {voters} voters are a majority", voters / 2 + 1);
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Members {
    /// Who answered.
    pub header: Header,
    /// The leader's node id, where one is known.
    pub leader_id: Option<u64>,
    /// Every member, voters and learners.
    pub members: Vec<Member>,
    /// What the cluster uses of what its members can do: it rises when all of them can do more, and never falls.
    /// `None`: the node that answered is of a release that has no levels.
    pub feature_level: Option<u32>,
}

/// One member, as far as the node that was asked knows it.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// for member in client.members().await?.members.iter().filter(|member| member.reachable) {
///     println!("{:016x} at {}: {}", member.node_id, member.client_address, member.role.as_str());
/// }
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// Its node id: the name of its disk, for ever.
    pub node_id: u64,
    /// `host:port` of its peer port.
    pub peer_address: String,
    /// `host:port` of its client port.
    pub client_address: String,
    /// What it does.
    pub role: Role,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it answered; what follows is empty when it did not.
    pub reachable: bool,
    /// Its version.
    pub version: String,
    /// The last log position that it applied.
    pub applied_index: u64,
    /// The last log position that it has.
    pub last_log_index: u64,
    /// The revision of its store.
    pub revision: u64,
    /// Bytes of its store on disk.
    pub store_bytes: u64,
    /// Bytes of its raft log.
    pub log_bytes: u64,
    /// What a person should look at, such as `NO_SPACE`.
    pub alarms: Vec<String>,
    /// How long ago the leader last saw it caught up, within 1 MiB of log; zero: it is, or the leader did
    /// not answer. It is known of members that do not answer too.
    pub lagging: Duration,
    /// How far its cluster time, by which keys expire, is behind the leader's.
    pub clock_lag: Duration,
    /// The disk that answers at its address in its place; it is not reachable itself then.
    pub other_disk: Option<OtherDisk>,
}

/// A disk that answers where a member should.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// for member in client.members().await?.members {
///     if let Some(other) = member.other_disk {
///         println!("at {} answers {:016x}, not {:016x}", member.peer_address, other.node_id, member.node_id);
///     }
/// }
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtherDisk {
    /// Its node id.
    pub node_id: u64,
    /// The cluster it belongs to; nothing while it is Unjoined.
    pub cluster_id: Option<u64>,
}

/// What a member does.
///
/// ```
/// assert_eq!(kvorum_client::Role::Follower.as_str(), "follower");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Nobody knows.
    Unknown,
    /// It belongs to no cluster yet.
    Unjoined,
    /// It follows and does not vote.
    Learner,
    /// It follows.
    Follower,
    /// It stands for election.
    Candidate,
    /// It leads.
    Leader,
    /// Its disk is one that the cluster does not count on: it answers its status and nothing else.
    StatusOnly,
}

impl Role {
    /// The role in lower case, as it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Unknown => "unknown",
            Role::Unjoined => "unjoined",
            Role::Learner => "learner",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Leader => "leader",
            Role::StatusOnly => "status-only",
        }
    }
}

impl MembersCall {
    pub(crate) fn new(pool: Arc<Pool>) -> MembersCall {
        let timeout = pool.settings().timeout;
        MembersCall { pool, timeout }
    }

    /// How long the call may take, retries included.
    pub fn timeout(mut self, timeout: Duration) -> MembersCall {
        self.timeout = timeout;
        self
    }
}

impl IntoFuture for MembersCall {
    type Output = Result<Members, Error>;
    type IntoFuture = Answer<Members>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let options = CallOptions::read(self.timeout, Route::Leader);
            let answer = self.pool.call(&wire::MembersRequest {}, options).await?;
            Ok(Members {
                header: header(answer.header),
                leader_id: (answer.leader_id != 0).then_some(answer.leader_id),
                members: answer.members.into_iter().map(Member::from).collect(),
                feature_level: (answer.feature_level != 0).then_some(answer.feature_level),
            })
        })
    }
}

impl From<wire::Member> for Member {
    fn from(member: wire::Member) -> Member {
        let role = match member.role() {
            wire::member::Role::Unknown => Role::Unknown,
            wire::member::Role::Unjoined => Role::Unjoined,
            wire::member::Role::Learner => Role::Learner,
            wire::member::Role::Follower => Role::Follower,
            wire::member::Role::Candidate => Role::Candidate,
            wire::member::Role::Leader => Role::Leader,
            wire::member::Role::StatusOnly => Role::StatusOnly,
        };
        Member {
            node_id: member.node_id,
            peer_address: member.peer_address,
            client_address: member.client_address,
            role,
            voter: member.voter,
            reachable: member.reachable,
            version: member.version,
            applied_index: member.applied_index,
            last_log_index: member.last_log_index,
            revision: member.revision,
            store_bytes: member.store_bytes,
            log_bytes: member.log_bytes,
            alarms: member.alarms,
            lagging: Duration::from_millis(member.lagging_ms),
            clock_lag: Duration::from_millis(member.clock_lag_ms),
            other_disk: (member.other_node_id != 0).then_some(OtherDisk {
                node_id: member.other_node_id,
                cluster_id: (member.other_cluster_id != 0).then_some(member.other_cluster_id),
            }),
        }
    }
}
