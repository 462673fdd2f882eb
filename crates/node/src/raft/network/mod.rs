//! openraft's way to the other members: peer RPCs over one connection for each kind of traffic.
//!
//! Entries go over one ordered stream a peer, several requests in flight, which outlives openraft's
//! sessions. Heartbeats and snapshots have connections of their own, so that neither waits behind
//! large entries. Votes and hand-overs, of which each may decide how long nobody leads, go over the
//! connections that are open anyway.

mod acknowledged;
mod appends;
mod commits;
mod peer;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _};
use kvorum_proto::peer::v1;
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};
use tonic::Status;

use super::admit;
use super::snapshot::data::SnapshotData;
use super::snapshot::send::send_snapshot;
use super::types::{Address, TypeConfig, Vote, raft_vote, wire_log_id, wire_vote};
use appends::AppendSession;
use commits::hold_commits;
use peer::{AppendResult, PeerNetwork, RaftRpcError, unreachable_text};

pub use acknowledged::Acknowledged;
pub use peer::Ways;

/// A peer that was not reached is tried again after so long, however often it fails: a node that
/// comes back should not wait for the cluster.
const BACKOFF: Duration = Duration::from_millis(200);

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Makes a [`PeerNetwork`] for each peer.
pub struct PeerNetworks {
    ways: Arc<Ways>,
}

impl PeerNetworks {
    /// The way to each peer with what they share.
    pub fn new(ways: Ways) -> PeerNetworks {
        PeerNetworks { ways: Arc::new(ways) }
    }
}

impl RaftNetworkFactory<TypeConfig> for PeerNetworks {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: u64, node: &Address) -> PeerNetwork {
        PeerNetwork {
            way: self.ways.dialer.channel(&node.peer),
            ways: self.ways.clone(),
            target,
            failed: false,
            address: node.peer.clone(),
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
            let input = hold_commits(input, self.ways.commit_wanted.clone());
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
        let envelope = self.ways.identity.envelope(self.target);
        let send = send_snapshot(
            client,
            envelope,
            vote,
            snapshot,
            self.ways.metrics.clone(),
            self.ways.blocking.clone(),
        );
        let answered = async {
            let vote = send.await?;
            self.ways.snapshot_sent.notify_one();
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
            envelope: self.ways.identity.envelope(self.target),
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
