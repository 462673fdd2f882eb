//! Administration, on the peer ports: the state of a node, the membership, snapshots.
//!
//! [`AdminClient`] speaks to one node. [`Operations`] makes the changes a person asks for, each of
//! which takes several steps and can be repeated at any point. The types in [`v1`] are the wire's own,
//! since whoever administers a cluster wants all that they tell.

mod operations;
mod plan;

use std::time::Duration;

pub use kvorum_proto::admin::v1;
use kvorum_proto::admin::v1::admin_client::AdminClient as Wire;
use kvorum_proto::kv::v1::Header;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

pub use self::operations::{Operations, Voter};
pub use self::plan::Step;
use crate::auth::{Access, Mode, mode_to_wire, permission_to_wire};
use crate::channel::{Channel, MESSAGE_BYTES_MAX};
use crate::connect::ConnectOptions;
use crate::error::Tried;
use crate::judge::{Fate, Next, Setback, judge};
use crate::node::Node;
use crate::rpc::{Rpc, send};
use crate::{Client, Error, KeyRange};

/// How long a snapshot may pause between two chunks: the node may have to flush first.
const SNAPSHOT_SILENCE_MAX: Duration = Duration::from_secs(60);

/// The administration of one node. A call is attempted once.
///
/// It is for whoever administers a cluster; a program that reads and writes keys wants [`Client`](crate::Client).
///
/// # Errors
/// Of every method: [`Error::Unanswered`] where the node did not get the call, which then changed nothing;
/// [`Error::OutcomeUnknown`] where it broke off, after which [`status`](AdminClient::status) tells; and
/// [`Error::Rpc`] with the node's refusal, such as one that it does not lead or that the membership is another one
/// than expected.
///
/// ```
/// # kvorum_mock::example(async |_| {
/// use std::time::Duration;
/// use kvorum_client::admin::{AdminClient, v1::State};
///
/// # let peers = kvorum_mock::admin::Peers::of_cluster(3, 0);
/// # let peer_address = &peers.addresses[0];
/// let node = AdminClient::new(peer_address, Duration::from_secs(2))?;
/// let status = node.status().await?;
/// assert_eq!(status.state(), State::Leader);
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug)]
pub struct AdminClient {
    node: Node,
    timeout: Duration,
    connect: ConnectOptions,
}

/// A snapshot, as it comes from a node.
///
/// [`save`](crate::snapshot::save) writes one to a file and checks it.
///
/// ```no_run
/// # async fn example(node: kvorum_client::admin::AdminClient) -> Result<(), kvorum_client::Error> {
/// let mut chunks = node.snapshot().await?;
/// let mut count = 0;
/// while let Some(chunk) = chunks.next().await? {
///     count += 1;
/// }
/// # let _ = count;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SnapshotStream {
    chunks: Streaming<v1::SnapshotChunk>,
    endpoint: String,
}

/// A role as [`AdminClient::apply_access`] declares it. No range may be there twice.
pub fn declared_role(
    name: &str,
    permissions: impl IntoIterator<Item = (KeyRange, Access)>,
) -> v1::DeclaredRole {
    let permissions = permissions.into_iter();
    let permissions = permissions.map(|(keys, access)| permission_to_wire(keys, access)).collect();
    v1::DeclaredRole { name: name.to_owned(), permissions }
}

/// Whether rights are to count, as [`AdminClient::apply_access`] takes it.
pub fn declared_mode(mode: Mode) -> i32 {
    mode_to_wire(mode).into()
}

macro_rules! admin {
    ($($method:ident($request:ident) -> $answer:ty, $timed:literal;)+) => {$(
        impl Rpc for v1::$request {
            type Answer = $answer;
            const TIMED: bool = $timed;

            async fn send(
                channel: Channel,
                request: Request<Self>,
            ) -> Result<Response<Self::Answer>, Status> {
                Wire::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).$method(request).await
            }

            fn header(_: &Self::Answer) -> Option<&Header> {
                None
            }
        }
    )+};
}

admin! {
    status(StatusRequest) -> v1::StatusResponse, true;
    initialize(InitializeRequest) -> v1::InitializeResponse, true;
    add_learner(AddLearnerRequest) -> v1::MembershipResponse, true;
    remove_learner(RemoveLearnerRequest) -> v1::MembershipResponse, true;
    change_membership(ChangeMembershipRequest) -> v1::MembershipResponse, true;
    transfer_leader(TransferLeaderRequest) -> v1::TransferLeaderResponse, true;
    recover(RecoverRequest) -> v1::RecoverResponse, true;
    apply_access(ApplyAccessRequest) -> v1::ApplyAccessResponse, true;
    snapshot(SnapshotRequest) -> Streaming<v1::SnapshotChunk>, false;
}

impl AdminClient {
    /// The node with this peer port, connected to as a client's nodes are: with its CA and certificate, where it has
    /// them. No call takes longer than `timeout`.
    ///
    /// # Errors
    /// [`Error::InvalidEndpoint`]: the address is no `host:port`.
    pub fn of(client: &Client, peer_address: &str, timeout: Duration) -> Result<AdminClient, Error> {
        Ok(AdminClient::new(peer_address, timeout)?.connect_options(client.connect_options()))
    }

    /// The node with this peer port, `host:port`, and how long each call may take. It is connected to by the
    /// first call.
    ///
    /// # Errors
    /// [`Error::InvalidEndpoint`]: the address is no `host:port`.
    pub fn new(peer_address: &str, timeout: Duration) -> Result<AdminClient, Error> {
        Ok(AdminClient { node: Node::new(peer_address.parse()?), timeout, connect: ConnectOptions::new() })
    }

    /// How it connects from now on; [`ConnectOptions::new`] without this.
    #[must_use]
    pub fn connect_options(mut self, options: ConnectOptions) -> AdminClient {
        self.connect = options;
        self
    }

    /// The peer address.
    pub fn address(&self) -> &str {
        self.node.address().as_str()
    }

    /// Everything the node knows of itself.
    ///
    /// # Errors
    /// See [`AdminClient`].
    pub async fn status(&self) -> Result<v1::StatusResponse, Error> {
        self.call(&v1::StatusRequest::default()).await
    }

    /// The same, once a quorum has confirmed that it is no older than this call. Where none does, the
    /// answer is not marked as confirmed.
    ///
    /// # Errors
    /// See [`AdminClient`].
    pub async fn confirmed_status(&self) -> Result<v1::StatusResponse, Error> {
        self.call(&v1::StatusRequest { confirm: true, ..Default::default() }).await
    }

    /// Founds a cluster of this one node; 0 lets the node choose the cluster's id. With a node id, only
    /// the disk with that id does. One that is `closed` lets no client in, and takes no other node, before
    /// [`apply_access`](Self::apply_access) has said what clients may do.
    ///
    /// # Errors
    /// See [`AdminClient`]. A disk that belongs to a cluster already refuses.
    pub async fn initialize(
        &self,
        cluster_id: u64,
        node_id: Option<u64>,
        closed: bool,
    ) -> Result<v1::InitializeResponse, Error> {
        let node_id = node_id.unwrap_or_default();
        self.call(&v1::InitializeRequest { cluster_id, node_id, closed }).await
    }

    /// Adds a node that does not vote, if the membership is still the expected one. Answers the membership
    /// that this makes.
    ///
    /// # Errors
    /// See [`AdminClient`].
    pub async fn add_learner(
        &self,
        node: v1::Node,
        expected: Option<v1::LogId>,
    ) -> Result<v1::Membership, Error> {
        let request = v1::AddLearnerRequest { node: Some(node), expected };
        Ok(self.call(&request).await?.membership.unwrap_or_default())
    }

    /// Removes a node that does not vote, if the membership is still the expected one. Answers the membership
    /// that this makes.
    ///
    /// # Errors
    /// See [`AdminClient`].
    pub async fn remove_learner(
        &self,
        node_id: u64,
        expected: Option<v1::LogId>,
    ) -> Result<v1::Membership, Error> {
        let request = v1::RemoveLearnerRequest { node_id, expected };
        Ok(self.call(&request).await?.membership.unwrap_or_default())
    }

    /// Makes exactly these nodes the voters, if the membership is still the expected one. Voters that
    /// leave go altogether. Answers the membership that this makes.
    ///
    /// # Errors
    /// See [`AdminClient`].
    pub async fn change_membership(
        &self,
        voter_ids: Vec<u64>,
        expected: Option<v1::LogId>,
    ) -> Result<v1::Membership, Error> {
        let request = v1::ChangeMembershipRequest { voter_ids, expected, retain: false };
        Ok(self.call(&request).await?.membership.unwrap_or_default())
    }

    /// Hands leadership to a voter, or without one to whoever is furthest, and answers who leads.
    ///
    /// # Errors
    /// See [`AdminClient`].
    pub async fn transfer_leader(&self, to: Option<u64>) -> Result<u64, Error> {
        let request = v1::TransferLeaderRequest { to: to.unwrap_or_default() };
        Ok(self.call(&request).await?.leader_id)
    }

    /// Makes the node, whose quorum is lost for good, the only voter of a new incarnation.
    ///
    /// # Errors
    /// See [`AdminClient`]. The node refuses while a majority lives, or a voter that answers has more.
    pub async fn recover(&self, request: v1::RecoverRequest) -> Result<(), Error> {
        self.call(&request).await.map(drop)
    }

    /// Replaces all users, roles and rights that the operator declares, as one change. The leader takes it; the same
    /// again changes nothing.
    ///
    /// # Errors
    /// See [`AdminClient`]. The node refuses while a member does not know users, and where rights are to count without a
    /// user `root` that has the role `root`.
    pub async fn apply_access(&self, request: v1::ApplyAccessRequest) -> Result<(), Error> {
        self.call(&request).await.map(drop)
    }

    /// The whole store as of one log position. The node ends a stream of which nothing is taken for 30 s.
    ///
    /// # Errors
    /// See [`AdminClient`]. A node streams four at a time, and answers `BUSY`, an [`Error::Rpc`], to the next.
    pub async fn snapshot(&self) -> Result<SnapshotStream, Error> {
        let endpoint = self.address().to_owned();
        match self.attempt(&v1::SnapshotRequest {}).await {
            Ok(chunks) => Ok(SnapshotStream { chunks, endpoint }),
            // All places are taken, and the message says what to do: it is no question of waiting a moment.
            Err(Setback { fate: Fate::NotApplied(Next::Here), problem, .. }) => {
                Err(Error::Rpc { endpoint, code: "BUSY".to_owned(), message: problem })
            }
            Err(setback) => Err(self.error(setback)),
        }
    }

    async fn call<R: Rpc>(&self, request: &R) -> Result<R::Answer, Error> {
        self.attempt(request).await.map_err(|setback| self.error(setback))
    }

    async fn attempt<R: Rpc>(&self, request: &R) -> Result<R::Answer, Setback> {
        let now = Instant::now();
        let until = now + self.timeout;
        let unchecked = async |_| Ok(());
        match self.node.connected(until, &self.connect, unchecked).await {
            Ok(connected) => {
                let outcome = send(&connected.channel, request, until, now, &self.node).await;
                if outcome.as_ref().is_err_and(|setback| setback.broken) {
                    self.node.discard(&connected);
                }
                outcome
            }
            Err(setback) => Err(setback),
        }
    }

    fn error(&self, setback: Setback) -> Error {
        let endpoint = self.address().to_owned();
        match setback.fate {
            Fate::Answered(error) | Fate::Behind(error) | Fate::BadToken(error) => error,
            Fate::NotApplied { .. } => {
                let tried = vec![Tried { endpoint, problem: setback.problem }];
                Error::Unanswered { within: self.timeout, tried }
            }
            Fate::Unknown => Error::OutcomeUnknown { endpoint, problem: setback.problem },
        }
    }
}

impl SnapshotStream {
    /// The next chunk; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Unanswered`]: the stream broke off, or nothing came for a minute.
    pub async fn next(&mut self) -> Result<Option<v1::SnapshotChunk>, Error> {
        let problem = match tokio::time::timeout(SNAPSHOT_SILENCE_MAX, self.chunks.message()).await {
            Ok(Ok(chunk)) => return Ok(chunk),
            Ok(Err(status)) => judge(&status, &self.endpoint).problem,
            Err(_) => "it stopped sending".to_owned(),
        };
        let tried = vec![Tried { endpoint: self.endpoint.clone(), problem }];
        Err(Error::Unanswered { within: SNAPSHOT_SILENCE_MAX, tried })
    }
}
