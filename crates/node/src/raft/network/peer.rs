//! The way to one member: its connection, and what its answers are compared with.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvorum_proto::{admin::v1 as admin, peer::v1 as peer};
use kvorum_store::log::Log;
use openraft::errors::{RPCError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes};
use openraft::raft::{StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::acknowledged::Acknowledged;
use crate::blocking::Blocking;
use crate::metrics::Metrics;
use crate::net::dialer::{AddressError, Dialer, PeerClient, peer_client};
use crate::net::way::Way;
use crate::raft::admit;
use crate::raft::clock::ClusterClock;
use crate::raft::connections::Connections;
use crate::raft::identity::Identity;
use crate::raft::standing::Standing;
use crate::raft::types::{LogId, TypeConfig, Vote, raft_log_id, raft_vote, wire_log_id, wire_vote};

/// Appends that may wait for their acknowledgement. Each carries at most about 1 MiB, which bounds
/// what a slow peer holds in memory.
pub(super) const APPENDS_IN_FLIGHT_MAX: usize = 16;

/// How a call to a member fails.
pub type RaftRpcError = RPCError<TypeConfig>;
/// What became of an append.
pub type AppendResult = Result<StreamAppendResult<TypeConfig>, RaftRpcError>;

/// What the ways to all peers share.
pub struct Ways {
    /// How members are reached.
    pub dialer: Dialer,
    /// Where snapshots are read.
    pub blocking: Blocking,
    /// Who this node is.
    pub identity: Identity,
    /// A peer that does not acknowledge an append for so long is taken for unreachable.
    pub append_timeout: Duration,
    /// What is small goes over these.
    pub connections: Connections,
    /// Knows this node's term.
    pub log: Log,
    /// Notified when a peer has installed a snapshot.
    pub snapshot_sent: Arc<Notify>,
    /// Notified when a peer waits to hear how far the cluster has committed.
    pub commit_wanted: Arc<Notify>,
    /// Says the leader's time with every append.
    pub clock: Arc<ClusterClock>,
    /// Counts what goes over the wire.
    pub metrics: Arc<Metrics>,
    /// What the peers have acknowledged.
    pub acknowledged: Acknowledged,
    /// The peers that are unreachable, so that it is said once of each.
    pub unreachable: Mutex<HashSet<u64>>,
}

/// The way to one peer, for one kind of traffic.
pub struct PeerNetwork {
    pub(super) ways: Arc<Ways>,
    pub(super) target: u64,
    /// The last append failed.
    pub(super) failed: bool,
    pub(super) address: String,
    /// An address that is no address shows as an unreachable peer.
    pub(super) way: Result<Way, AddressError>,
    pub(super) appends: Option<AppendStream>,
}

/// An open stream of appends, with nothing in flight.
pub struct AppendStream {
    pub(super) requests: mpsc::Sender<peer::AppendRequest>,
    pub(super) responses: Streaming<peer::AppendResponse>,
    /// The connection that it is on, see [`Way::number`].
    number: u64,
}

impl AppendStream {
    /// The connection that it is on.
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl PeerNetwork {
    /// The connection for what may wait.
    pub(super) fn client(&self) -> Result<PeerClient, RaftRpcError> {
        let way = self.way.clone().map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))?;
        Ok(peer_client(way))
    }

    /// Whether a stream is on a connection that another one has taken the place of.
    pub(super) fn is_left(&self, stream: &AppendStream) -> bool {
        self.way.as_ref().is_ok_and(|way| way.number() != stream.number)
    }

    /// The way, if there may ever be another connection on it.
    pub(super) fn replaceable_way(&self) -> Option<Way> {
        self.way.as_ref().ok().filter(|way| way.is_replaceable()).cloned()
    }

    /// For what must not wait for a connection to be made; a member that was added just now has none yet.
    pub(super) fn ready_client(&self) -> Result<PeerClient, RaftRpcError> {
        self.ways.connections.client(self.target).map_or_else(|| self.client(), Ok)
    }

    /// Makes one unary call within the time that openraft gives it.
    pub(super) async fn call<T>(
        &self,
        action: RPCTypes,
        option: &RPCOption,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, RaftRpcError> {
        let limit = option.soft_ttl();
        match timeout(limit, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(rpc_error(&status)),
            Err(_) => Err(self.timeout(action, limit)),
        }
    }

    /// A call that took too long.
    pub(super) fn timeout(&self, action: RPCTypes, timeout: Duration) -> RaftRpcError {
        RPCError::Timeout(Timeout { action, id: self.ways.identity.node_id, target: self.target, timeout })
    }

    /// The stream of appends, opened if there is none.
    pub(super) async fn open_appends(&mut self) -> Result<AppendStream, RaftRpcError> {
        if let Some(stream) = self.appends.take()
            && !self.is_left(&stream)
        {
            return Ok(stream);
        }
        let number = self.way.as_ref().map_or(0, Way::number);
        let (requests, queue) = mpsc::channel(APPENDS_IN_FLIGHT_MAX + 1);
        let hello =
            peer::AppendRequest { envelope: self.ways.identity.envelope(self.target), ..Default::default() };
        requests.try_send(hello).map_err(|_| unreachable_text("the append stream is full"))?;
        let mut client = self.client()?;
        let open = client.append(ReceiverStream::new(queue));
        match timeout(self.ways.append_timeout, open).await {
            Ok(Ok(response)) => Ok(AppendStream { requests, responses: response.into_inner(), number }),
            Ok(Err(status)) => {
                if status.code() == Code::FailedPrecondition {
                    // Another disk is at the other end: the next attempt looks the address up anew.
                    self.ways.dialer.forget(&self.address);
                    self.way = self.ways.dialer.channel(&self.address);
                }
                Err(rpc_error(&status))
            }
            Err(_) => Err(self.timeout(RPCTypes::AppendEntries, self.ways.append_timeout)),
        }
    }

    /// Says that the peer is unreachable, once for all kinds of traffic.
    pub(super) fn failed(&mut self, error: &RaftRpcError) {
        self.failed = true;
        if lock(&self.ways.unreachable).insert(self.target) {
            let (node, address) = (format!("{:016x}", self.target), &self.address);
            tracing::warn!(node, address, %error, "a member does not answer; trying again and again");
        }
    }

    /// Says that the peer is reachable again.
    pub(super) fn answered(&mut self) {
        if std::mem::take(&mut self.failed) && lock(&self.ways.unreachable).remove(&self.target) {
            tracing::info!(
                node = format!("{:016x}", self.target),
                address = &self.address,
                "a member answers again"
            );
        }
    }

    /// What answers are compared with.
    pub(super) fn standing(&self) -> Standing {
        let log = self.ways.log.state();
        Standing {
            node_id: self.ways.identity.node_id,
            vote: log.vote,
            last: log.last,
            ..Standing::default()
        }
    }

    /// The answer to a candidate.
    pub(super) fn read_vote_response(
        &self,
        response: peer::VoteResponse,
    ) -> Result<VoteResponse<TypeConfig>, RaftRpcError> {
        let peer::VoteResponse { vote, granted, last_log_id, cluster_time_ms, cluster_time_term } = response;
        let vote = self.read_vote(vote)?;
        // A voter has heard of no leader of a later term than that of its vote.
        if cluster_time_ms != 0 && cluster_time_term <= vote.leader_id.term {
            self.ways.clock.relayed(cluster_time_term, cluster_time_ms);
        }
        Ok(VoteResponse { vote, vote_granted: granted, last_log_id: read_position(last_log_id)? })
    }

    /// The answer to an append of this term.
    pub(super) fn read_append_response(&self, response: peer::AppendResponse, term: u64) -> AppendResult {
        let peer::AppendResponse { higher_vote, conflict, acknowledged } = response;
        if higher_vote.is_some() {
            return Ok(Err(StreamAppendError::HigherVote(self.read_vote(higher_vote)?)));
        }
        if let Some(conflict) = read_position(conflict)? {
            // openraft asserts that this cannot be. It is that member's fault, and must not end this one.
            let before = self.ways.acknowledged.of(self.target, term);
            if let Some(before) = before.filter(|before| before.index() >= conflict.index()) {
                return Err(unreachable_text(format!(
                    "the member lacks entry {}, though it has acknowledged {before}: its disk went back; replace it",
                    conflict.index()
                )));
            }
            return Ok(Err(StreamAppendError::Conflict(conflict)));
        }
        let acknowledged = read_position(acknowledged)?;
        if let Some(acknowledged) = acknowledged {
            self.ways.acknowledged.note(self.target, term, acknowledged);
        }
        Ok(Ok(acknowledged))
    }

    /// The vote in an answer of the peer's.
    pub(super) fn read_vote(&self, vote: Option<peer::Vote>) -> Result<Vote, RaftRpcError> {
        let vote = admit::answered_vote(&self.standing(), self.target, vote);
        vote.map(raft_vote).map_err(unreachable_text)
    }

    /// A candidate's request, to this peer.
    pub(super) fn vote_request(&self, rpc: VoteRequest<TypeConfig>) -> peer::VoteRequest {
        peer::VoteRequest {
            envelope: self.ways.identity.envelope(self.target),
            vote: Some(wire_vote(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(wire_log_id),
            leadership_transfer: rpc.leadership_transfer,
        }
    }
}

/// A panic while the lock was held has left the set as it was, or one peer off.
fn lock(peers: &Mutex<HashSet<u64>>) -> MutexGuard<'_, HashSet<u64>> {
    peers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A status from a peer. It is unreachable in any case: openraft has no use for finer distinctions,
/// and backs off.
pub(super) fn rpc_error(status: &Status) -> RaftRpcError {
    unreachable_text(format!("{:?}: {}", status.code(), status.message()))
}

/// An error in words.
pub(super) fn unreachable_text(text: impl ToString) -> RaftRpcError {
    RPCError::Unreachable(Unreachable::from_string(text))
}

fn read_position(id: Option<admin::LogId>) -> Result<Option<LogId>, RaftRpcError> {
    Ok(admit::answered_log_id(id).map_err(unreachable_text)?.map(raft_log_id))
}
