//! openraft's way to the other members: peer RPCs over one connection for each kind of traffic.
//!
//! Entries go over one ordered stream a peer, several requests in flight, which outlives openraft's
//! sessions. Heartbeats and snapshots have connections of their own, so that neither waits behind
//! large entries. Votes and hand-overs, of which each may decide how long nobody leads, go over the
//! connections that are open anyway.

mod appends;
mod commits;
mod peer;

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _};
use kvorum_proto::peer::v1;
use kvorum_store::log::Log;
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};
use tokio::sync::Notify;
use tonic::Status;

use super::admit;
use super::clock::ClusterClock;
use super::connections::Connections;
use super::identity::Identity;
use super::snapshot::data::SnapshotData;
use super::snapshot::send::send_snapshot;
use super::types::{Address, TypeConfig, Vote, raft_vote, wire_log_id, wire_vote};
use crate::blocking::Blocking;
use crate::metrics::Metrics;
use crate::net::dialer::Dialer;
use appends::AppendSession;
use commits::hold_commits;
use peer::{AppendResult, PeerNetwork, RaftRpcError, unreachable_text};

/// A peer that was not reached is tried again after so long, however often it fails: a node that
/// comes back should not wait for the cluster.
const BACKOFF: Duration = Duration::from_millis(200);

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Makes a [`PeerNetwork`] for each peer.
pub struct PeerNetworks {
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
            dialer: self.dialer.clone(),
            blocking: self.blocking.clone(),
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
            client: self.dialer.peer_client(&node.peer),
            appends: None,
        }
    }
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
            let input = hold_commits(input, self.commit_wanted.clone());
            let session = AppendSession::new(self, opened, input);
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
        let send =
            send_snapshot(client, envelope, vote, snapshot, self.metrics.clone(), self.blocking.clone());
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
        let request = v1::TransferLeaderRequest {
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
