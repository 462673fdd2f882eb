//! openraft's way to the other members: peer RPCs over one connection for each kind of traffic.
//!
//! Entries go over one ordered stream a peer, several requests in flight, which outlives openraft's
//! sessions. Heartbeats and snapshots have connections of their own, so that neither waits behind
//! large entries. Votes and hand-overs, of which each may decide how long nobody leads, go over the
//! connections that are open anyway.

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, Fuse};
use futures_util::{Stream, StreamExt as _};
use kvorum_proto::peer::v1::peer_client::PeerClient;
use kvorum_proto::{admin::v1 as admin, peer::v1 as peer};
use kvorum_store::log::Log;
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, VoteRequest, VoteResponse,
};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::admit::{self, Standing};
use super::clock::ClusterClock;
use super::connections::Connections;
use super::snapshot::send_snapshot;
use super::state_machine::SnapshotData;
use super::types::{
    Address, LogId, TypeConfig, Vote, raft_log_id, raft_vote, store_entry, wire_log_id, wire_vote,
};
use crate::grpc::{resolve, transport};
use crate::metrics::Metrics;

/// Appends that may wait for their acknowledgement. Each carries at most about 1 MiB, which bounds
/// what a slow peer holds in memory.
const APPENDS_IN_FLIGHT_MAX: usize = 16;

/// A request without entries only says how far the cluster has committed, as the next one with entries
/// says too. It waits so long for that one: while writes come one after the other, a peer gets one
/// request for each batch instead of two. A watcher on a follower waits with it, when there is no next write;
/// a linearizable read there ends the wait.
const COMMIT_DELAY: Duration = Duration::from_millis(1);

/// A peer that was not reached is tried again after so long, however often it fails: a node that
/// comes back should not wait for the cluster.
const BACKOFF: Duration = Duration::from_millis(200);

type RaftRpcError = RPCError<TypeConfig>;
type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Who this node is to its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id, not 0.
    pub cluster_id: u64,
    /// The cluster's incarnation.
    pub incarnation: u64,
    /// This node's id.
    pub node_id: u64,
}

impl Identity {
    /// The envelope of an RPC to a peer.
    pub fn envelope(&self, to: u64) -> Option<peer::Envelope> {
        let Identity { cluster_id, incarnation, node_id: from } = *self;
        Some(peer::Envelope { cluster_id, incarnation, from, to })
    }
}

/// Makes a [`PeerNetwork`] for each peer.
pub struct PeerNetworks {
    /// Who this node is.
    pub identity: Identity,
    /// A peer that does not acknowledge an append for so long is taken for unreachable.
    pub append_timeout: Duration,
    /// What is small goes over these.
    pub connections: Connections,
    /// Knows this node's term.
    pub log: Log,
    /// Notified when a peer waits to hear how far the cluster has committed.
    pub commit_wanted: Arc<Notify>,
    /// Says the leader's time with every append.
    pub clock: Arc<ClusterClock>,
    /// Counts what goes over the wire.
    pub metrics: Arc<Metrics>,
    /// The peers that are unreachable, so that it is said once of each.
    pub unreachable: Arc<Mutex<HashSet<u64>>>,
}

impl RaftNetworkFactory<TypeConfig> for PeerNetworks {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: u64, node: &Address) -> PeerNetwork {
        PeerNetwork {
            identity: self.identity,
            target,
            append_timeout: self.append_timeout,
            connections: self.connections.clone(),
            log: self.log.clone(),
            commit_wanted: self.commit_wanted.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            unreachable: self.unreachable.clone(),
            failed: false,
            address: node.peer.clone(),
            client: transport::peer_channel(&node.peer).map(transport::peer_client),
            appends: None,
        }
    }
}

/// The way to one peer, for one kind of traffic.
pub struct PeerNetwork {
    identity: Identity,
    target: u64,
    append_timeout: Duration,
    connections: Connections,
    log: Log,
    commit_wanted: Arc<Notify>,
    clock: Arc<ClusterClock>,
    metrics: Arc<Metrics>,
    unreachable: Arc<Mutex<HashSet<u64>>>,
    /// The last append failed.
    failed: bool,
    address: String,
    /// An address that is no address shows as an unreachable peer.
    client: Result<PeerClient<Channel>, transport::AddressError>,
    appends: Option<AppendStream>,
}

/// An open stream of appends, with nothing in flight.
struct AppendStream {
    requests: mpsc::Sender<peer::AppendRequest>,
    responses: Streaming<peer::AppendResponse>,
}

impl PeerNetwork {
    fn client(&self) -> Result<PeerClient<Channel>, RaftRpcError> {
        self.client.clone().map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
    }

    /// For what must not wait for a connection to be made; a member that was added just now has none yet.
    fn ready_client(&self) -> Result<PeerClient<Channel>, RaftRpcError> {
        self.connections.client(self.target).map_or_else(|| self.client(), Ok)
    }

    /// Makes one unary call within the time that openraft gives it.
    async fn call<T>(
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

    fn timeout(&self, action: RPCTypes, timeout: Duration) -> RaftRpcError {
        RPCError::Timeout(Timeout { action, id: self.identity.node_id, target: self.target, timeout })
    }

    async fn open_appends(&mut self) -> Result<AppendStream, RaftRpcError> {
        if let Some(stream) = self.appends.take() {
            return Ok(stream);
        }
        let (requests, queue) = mpsc::channel(APPENDS_IN_FLIGHT_MAX + 1);
        let hello =
            peer::AppendRequest { envelope: self.identity.envelope(self.target), ..Default::default() };
        requests.try_send(hello).map_err(|_| unreachable_text("the append stream is full"))?;
        let mut client = self.client()?;
        let open = client.append(ReceiverStream::new(queue));
        match timeout(self.append_timeout, open).await {
            Ok(Ok(response)) => Ok(AppendStream { requests, responses: response.into_inner() }),
            Ok(Err(status)) => {
                if status.code() == Code::FailedPrecondition {
                    // Another disk is at the other end: the next attempt looks the address up anew.
                    resolve::forget(&self.address);
                    self.client = transport::peer_channel(&self.address).map(transport::peer_client);
                }
                Err(rpc_error(&status))
            }
            Err(_) => Err(self.timeout(RPCTypes::AppendEntries, self.append_timeout)),
        }
    }

    /// Says that the peer is unreachable, once for all kinds of traffic.
    fn failed(&mut self, error: &RaftRpcError) {
        self.failed = true;
        if lock(&self.unreachable).insert(self.target) {
            let (node, address) = (format!("{:016x}", self.target), &self.address);
            tracing::warn!(node, address, %error, "a member does not answer; trying again and again");
        }
    }

    /// Says that the peer is reachable again.
    fn answered(&mut self) {
        if std::mem::take(&mut self.failed) && lock(&self.unreachable).remove(&self.target) {
            tracing::info!(
                node = format!("{:016x}", self.target),
                address = &self.address,
                "a member answers again"
            );
        }
    }

    /// What answers are compared with.
    fn standing(&self) -> Standing {
        let log = self.log.state();
        Standing { node_id: self.identity.node_id, vote: log.vote, last: log.last, ..Standing::default() }
    }

    fn read_vote_response(
        &self,
        response: peer::VoteResponse,
    ) -> Result<VoteResponse<TypeConfig>, RaftRpcError> {
        let peer::VoteResponse { vote, granted, last_log_id, cluster_time_ms, cluster_time_term } = response;
        let vote = self.read_vote(vote)?;
        // A voter has heard of no leader of a later term than that of its vote.
        if cluster_time_ms != 0 && cluster_time_term <= vote.leader_id.term {
            self.clock.relayed(cluster_time_term, cluster_time_ms);
        }
        Ok(VoteResponse { vote, vote_granted: granted, last_log_id: read_position(last_log_id)? })
    }

    fn read_append_response(&self, response: peer::AppendResponse) -> AppendResult {
        let peer::AppendResponse { higher_vote, conflict, acknowledged } = response;
        if higher_vote.is_some() {
            return Ok(Err(StreamAppendError::HigherVote(self.read_vote(higher_vote)?)));
        }
        if let Some(conflict) = read_position(conflict)? {
            return Ok(Err(StreamAppendError::Conflict(conflict)));
        }
        Ok(Ok(read_position(acknowledged)?))
    }

    /// The vote in an answer of the peer's.
    fn read_vote(&self, vote: Option<peer::Vote>) -> Result<Vote, RaftRpcError> {
        let vote = admit::answered_vote(&self.standing(), self.target, vote);
        vote.map(raft_vote).map_err(unreachable_text)
    }

    fn vote_request(&self, rpc: VoteRequest<TypeConfig>) -> peer::VoteRequest {
        peer::VoteRequest {
            envelope: self.identity.envelope(self.target),
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
fn rpc_error(status: &Status) -> RaftRpcError {
    unreachable_text(format!("{:?}: {}", status.code(), status.message()))
}

fn unreachable_text(text: impl ToString) -> RaftRpcError {
    RPCError::Unreachable(Unreachable::from_string(text))
}

fn read_position(id: Option<admin::LogId>) -> Result<Option<LogId>, RaftRpcError> {
    Ok(admit::answered_log_id(id).map_err(unreachable_text)?.map(raft_log_id))
}

impl RaftNetworkV2<TypeConfig> for PeerNetwork {
    type SnapshotData = SnapshotData;

    /// One append by itself. openraft uses the stream; this serves whoever has a single request.
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RaftRpcError> {
        let once = Box::pin(futures_util::stream::once(async { rpc }));
        let mut results = self.stream_append(once, option).await?;
        let result =
            results.next().await.unwrap_or_else(|| Err(unreachable_text("no answer to an append")))?;
        Ok(result.into())
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendResult>, RaftRpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            // openraft waits between attempts where it makes a request, and only there: to connect
            // before there is one would be to try a peer that is down again and again, at once.
            let Some(first) = input.next().await else { return Ok(stream::empty().boxed()) };
            let opened = self.open_appends().await.inspect_err(|error| self.failed(error))?;
            let input = stream::iter([first]).chain(input);
            let session = AppendSession {
                stream: Some(opened),
                deadline: Instant::now() + self.append_timeout,
                input: hold_commits(input, self.commit_wanted.clone()).fuse(),
                network: self,
                in_flight: 0,
            };
            Ok(stream::unfold(session, AppendSession::next).boxed())
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RaftRpcError> {
        let mut client = self.ready_client()?;
        let call = client.vote(self.vote_request(rpc));
        self.call(RPCTypes::Vote, &option, call).await.and_then(|answer| self.read_vote_response(answer))
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RaftRpcError> {
        let mut client = self.ready_client()?;
        let call = client.pre_vote(self.vote_request(rpc));
        self.call(RPCTypes::Vote, &option, call).await.and_then(|answer| self.read_vote_response(answer))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        if let SnapshotData::Failed(reason) = snapshot.snapshot {
            return Err(StreamingError::Unreachable(Unreachable::from_string(reason)));
        }
        let client = self.client().map_err(|error| match error {
            RPCError::Unreachable(error) => StreamingError::Unreachable(error),
            error => StreamingError::Network(NetworkError::from_string(error)),
        })?;
        let envelope = self.identity.envelope(self.target);
        let send = send_snapshot(client, envelope, vote, snapshot, self.metrics.clone());
        let answered = async {
            let vote = send.await?;
            Ok::<_, Status>(raft_vote(admit::answered_vote(&self.standing(), self.target, vote)?))
        };
        tokio::select! {
            sent = answered => sent.map(SnapshotResponse::new).map_err(|status| {
                StreamingError::Unreachable(Unreachable::from_string(format!("send snapshot: {status}")))
            }),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<openraft::raft::TransferLeaderResponse<TypeConfig>, RaftRpcError> {
        let mut client = self.ready_client()?;
        let request = peer::TransferLeaderRequest {
            envelope: self.identity.envelope(self.target),
            from_leader: Some(wire_vote(rpc.from_leader())),
            to_node: *rpc.to_node_id(),
            last_log_id: rpc.last_log_id().map(wire_log_id),
        };
        let call = client.transfer_leader(request);
        self.call(RPCTypes::TransferLeader, &option, call).await.map(|_| Ok(()))
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(BACKOFF)))
    }
}

type AppendRequest = AppendEntriesRequest<TypeConfig>;
type AppendResult = Result<StreamAppendResult<TypeConfig>, RaftRpcError>;

/// One of openraft's sessions on the peer's append stream.
struct AppendSession<'s> {
    network: &'s mut PeerNetwork,
    /// Absent once the session failed. With requests in flight it can't be used again.
    stream: Option<AppendStream>,
    input: Fuse<BoxStream<'static, AppendRequest>>,
    /// Requests that wait for their answers, which come in the same order.
    in_flight: usize,
    /// When the oldest request in flight must have been answered.
    deadline: Instant,
}

impl AppendSession<'_> {
    /// Sends what comes in and yields the next answer; ends when all is answered.
    async fn next(mut self) -> Option<(AppendResult, Self)> {
        let mut stream = self.stream.take()?;
        loop {
            if self.in_flight == 0 && self.input.is_done() {
                self.network.appends = Some(stream);
                return None;
            }
            tokio::select! {
                biased;
                response = stream.responses.message(), if self.in_flight > 0 => {
                    self.in_flight -= 1;
                    self.deadline = Instant::now() + self.network.append_timeout;
                    let result = match response {
                        Ok(Some(response)) => self.network.read_append_response(response),
                        Ok(None) => Err(unreachable_text("the peer closed the append stream")),
                        Err(status) => Err(rpc_error(&status)),
                    };
                    match &result {
                        Ok(answer) => {
                            self.network.answered();
                            self.stream = answer.is_ok().then_some(stream);
                        }
                        Err(error) => self.network.failed(error),
                    }
                    return Some((result, self));
                }
                request = self.input.next(), if self.may_send() => {
                    let Some(request) = request else { continue };
                    if self.in_flight == 0 {
                        self.deadline = Instant::now() + self.network.append_timeout;
                    }
                    let request = wire_append(request, self.network.clock.now_ms());
                    if stream.requests.send(request).await.is_err() {
                        let error = unreachable_text("the peer closed the append stream");
                        self.network.failed(&error);
                        return Some((Err(error), self));
                    }
                    self.in_flight += 1;
                }
                () = sleep_until(self.deadline), if self.in_flight > 0 => {
                    let error = self.network.timeout(RPCTypes::AppendEntries, self.network.append_timeout);
                    self.network.failed(&error);
                    return Some((Err(error), self));
                }
            }
        }
    }

    fn may_send(&self) -> bool {
        !self.input.is_done() && self.in_flight < APPENDS_IN_FLIGHT_MAX
    }
}

/// Holds back requests without entries, see [`COMMIT_DELAY`]. One that was held back is dropped for the
/// next one, which says the same or more; openraft takes the answer to that for an answer to both.
fn hold_commits(
    input: impl Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    wanted: Arc<Notify>,
) -> BoxStream<'static, AppendRequest> {
    let requests = stream::unfold((input.fuse(), wanted), async |(mut input, wanted)| {
        let mut held: Option<(AppendRequest, Instant)> = None;
        loop {
            let due = held.as_ref().map(|(_, due)| *due);
            let next = match due {
                None => Some(input.next().await),
                Some(due) => tokio::select! {
                    next = input.next() => Some(next),
                    () = sleep_until(due) => None,
                    () = wanted.notified() => None,
                },
            };
            match next {
                Some(Some(request)) if request.entries.is_empty() => {
                    held = Some((request, due.unwrap_or_else(|| Instant::now() + COMMIT_DELAY)));
                }
                Some(Some(request)) => return Some((request, (input, wanted))),
                // There is none for now, or none at all.
                Some(None) | None => return held.map(|(request, _)| (request, (input, wanted))),
            }
        }
    });
    requests.boxed()
}

/// A request as it goes out, with this leader's time at that moment.
fn wire_append(request: AppendRequest, cluster_time_ms: u64) -> peer::AppendRequest {
    let entries = request.entries.iter().map(|entry| {
        let entry = store_entry(entry);
        peer::Entry { term: entry.log_id.term, index: entry.log_id.index, payload: entry.payload }
    });
    peer::AppendRequest {
        envelope: None,
        vote: Some(wire_vote(&request.vote)),
        prev_log_id: request.prev_log_id.as_ref().map(wire_log_id),
        leader_commit: request.leader_commit.as_ref().map(wire_log_id),
        entries: entries.collect(),
        cluster_time_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::EntryPayload;

    fn request(committed: u64, entries: u64) -> AppendRequest {
        let entry =
            |index| openraft::Entry { log_id: LogId::new_term_index(1, index), payload: EntryPayload::Blank };
        AppendEntriesRequest {
            vote: Vote::new(1, 1),
            prev_log_id: None,
            entries: (0..entries).map(entry).collect(),
            leader_commit: Some(LogId::new_term_index(1, committed)),
        }
    }

    /// Goal: a request without entries is dropped for the next one, sent at once when there will be none,
    /// and sent after the delay when there is none for now. Method: a table of what comes in at once.
    #[tokio::test]
    async fn commits_go_with_the_next_entries() {
        /// Requests: what they say is committed, and how many entries they have.
        type Requests = &'static [(u64, u64)];
        let cases: [(Requests, Requests); 5] = [
            (&[(1, 2), (2, 1)], &[(1, 2), (2, 1)]),
            (&[(1, 2), (2, 0), (3, 0), (3, 1), (4, 2)], &[(1, 2), (3, 1), (4, 2)]),
            (&[(1, 0)], &[(1, 0)]),
            (&[(1, 1), (2, 0), (3, 0)], &[(1, 1), (3, 0)]),
            (&[], &[]),
        ];
        for (input, wanted) in cases {
            let input: Vec<_> =
                input.iter().map(|(committed, entries)| request(*committed, *entries)).collect();
            let seen = |request: AppendRequest| {
                (request.leader_commit.map_or(0, |id| id.index()), request.entries.len() as u64)
            };
            let ended: Vec<_> =
                hold_commits(stream::iter(input.clone()), Arc::default()).map(seen).collect().await;
            assert_eq!(ended, wanted);
            let goes_on = stream::iter(input).chain(stream::pending());
            let open: Vec<_> =
                hold_commits(goes_on, Arc::default()).map(seen).take(wanted.len()).collect().await;
            assert_eq!(open, wanted);
        }
    }
}
