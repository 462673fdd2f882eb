//! What this node answers its peers.

use std::sync::Arc;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use kvorum_proto::{admin::v1 as admin, peer::v1 as peer};
use kvorum_store::SnapshotReceiver;
use kvorum_store::entry;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};
use openraft::storage::Snapshot;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::Raft;
use super::membership::unknown_level;
use super::snapshot::{CHUNKS_WAITING_MAX, receive_snapshot, send_chunks};
use super::state_machine::SnapshotData;
use super::types::{
    SnapshotMeta, StoredMembership, TypeConfig, decode_membership, raft_entry, read_log_id, read_vote,
    wire_log_id, wire_vote,
};
use crate::error::RequestError;

impl Raft {
    /// Refuses a call that is meant for another disk, cluster or incarnation than this one's.
    pub fn check_envelope(&self, envelope: Option<peer::Envelope>) -> Result<(), Status> {
        let own = self.core()?.identity;
        let envelope = envelope.unwrap_or_default();
        let peer::Envelope { cluster_id, incarnation, from, to } = envelope;
        if (cluster_id, incarnation, to) == (own.cluster_id, own.incarnation, own.node_id) {
            return Ok(());
        }
        let refused = format!(
            "this is node {:016x} of cluster {:016x}.{}; a call from node {from:016x} is for node {to:016x} of \
             cluster {cluster_id:016x}.{incarnation}",
            own.node_id, own.cluster_id, own.incarnation,
        );
        tracing::warn!("{refused}");
        Err(Status::failed_precondition(refused))
    }

    /// Appends what a leader sends, and answers each request in order.
    pub fn append(
        &self,
        requests: Streaming<peer::AppendRequest>,
    ) -> Result<impl Stream<Item = Result<peer::AppendResponse, Status>> + Send + use<>, Status> {
        let requests = futures_util::stream::unfold(requests, async |mut requests| {
            let request = match requests.message().await {
                Ok(request) => request?,
                Err(error) => {
                    tracing::debug!(%error, "a leader's append stream broke off");
                    return None;
                }
            };
            match read_append(request) {
                Ok(request) => Some((request, requests)),
                Err(error) => {
                    tracing::error!(%error, "a leader sent an entry that can't be read");
                    None
                }
            }
        });
        let answers: BoxStream<'static, _> = Box::pin(self.core()?.raft.stream_append(requests));
        Ok(answers.map(|answer| match answer {
            Ok(answer) => Ok(wire_append_response(answer)),
            Err(fatal) => Err(Status::unavailable(format!("raft has stopped: {fatal}"))),
        }))
    }

    /// Answers a candidate.
    pub async fn vote(&self, request: peer::VoteRequest) -> Result<peer::VoteResponse, Status> {
        let answer = self.core()?.raft.vote(read_vote_request(request)).await;
        answer.map(wire_vote_response).map_err(|error| Status::unavailable(error.to_string()))
    }

    /// Answers a node that would like to be a candidate.
    pub async fn pre_vote(&self, request: peer::VoteRequest) -> Result<peer::VoteResponse, Status> {
        let answer = self.core()?.raft.pre_vote(read_vote_request(request)).await;
        answer.map(wire_vote_response).map_err(|error| Status::unavailable(error.to_string()))
    }

    /// The term of this node's vote: it takes part in no election of an earlier one any more. And what
    /// this node knows.
    pub fn answer_term(&self) -> Result<peer::TermResponse, RequestError> {
        self.core()?;
        let term = self.inner.log.state().vote.map_or(0, |vote| vote.term);
        Ok(peer::TermResponse { term, feature_level_max: self.inner.options.feature_level_max })
    }

    /// Stands for election at once, as the leader asks.
    pub async fn take_leadership(&self, request: peer::TransferLeaderRequest) -> Result<(), Status> {
        if let Some(stall) = self.stalled() {
            return Err(Status::failed_precondition(format!("this member can't lead: {stall}")));
        }
        let request = TransferLeaderRequest::<TypeConfig>::new(
            read_vote(request.from_leader),
            request.to_node,
            request.last_log_id.map(read_log_id),
        );
        match self.core()?.raft.handle_transfer_leader(request).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refused)) => Err(Status::failed_precondition(refused.to_string())),
            Err(fatal) => Err(Status::unavailable(fatal.to_string())),
        }
    }

    /// Receives a whole snapshot and replaces the state by it.
    pub async fn install_snapshot(
        &self,
        header: peer::SnapshotHeader,
        chunks: Streaming<peer::SnapshotRequest>,
    ) -> Result<peer::SnapshotResponse, Status> {
        let begun = Instant::now();
        let membership = decode_membership(header.membership)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let meta = SnapshotMeta {
            last_log_id: header.last_log_id.map(read_log_id),
            last_membership: StoredMembership::new(header.membership_log_id.map(read_log_id), membership),
        };
        let known = self.inner.options.feature_level_max;
        if header.feature_level > known {
            return Err(Status::failed_precondition(unknown_level(
                "the snapshot",
                header.feature_level,
                known,
            )));
        }
        let receiver = SnapshotReceiver::new(self.inner.data_dir.path())
            .map_err(|error| Status::internal(error.to_string()))?
            .with_feature_level_max(known);
        let metrics = &self.inner.metrics.snapshots;
        let received = receive_snapshot(chunks, receiver).await.inspect_err(|_| metrics.failed())?;
        let bytes = received.begin().total_bytes;
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Incoming(Box::new(received)) };
        let installed = self.core()?.raft.install_full_snapshot(read_vote(header.vote), snapshot).await;
        let installed = installed.map_err(|fatal| Status::unavailable(fatal.to_string()))?;
        metrics.received(bytes, begun.elapsed());
        tracing::info!(bytes, seconds = begun.elapsed().as_secs_f32(), "snapshot installed");
        Ok(peer::SnapshotResponse { vote: Some(wire_vote(&installed.vote)) })
    }

    /// Streams the whole store as of one position, for a backup.
    pub async fn stream_snapshot(
        &self,
    ) -> Result<impl Stream<Item = Result<admin::SnapshotChunk, Status>> + Send + use<>, Status> {
        let cluster_id = self.core()?.identity.cluster_id;
        let store = self.inner.store.clone();
        let checkpoint = spawn_blocking(move || store.checkpoint())
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(RequestError::from)?;
        let (chunks, queue) = mpsc::channel(CHUNKS_WAITING_MAX);
        spawn_blocking(move || {
            let sent = send_chunks(Arc::new(checkpoint), cluster_id, |chunk| {
                chunks.blocking_send(Ok(chunk)).is_ok()
            });
            if let Err(error) = sent {
                // Whoever wanted the snapshot may be gone.
                let _ = chunks.blocking_send(Err(error));
            }
        });
        Ok(ReceiverStream::new(queue))
    }
}

fn read_append(request: peer::AppendRequest) -> std::io::Result<AppendEntriesRequest<TypeConfig>> {
    let entries = request.entries.into_iter().map(|wire| {
        let log_id = entry::LogId { term: wire.term, index: wire.index };
        raft_entry(entry::Entry { log_id, payload: wire.payload })
    });
    Ok(AppendEntriesRequest {
        vote: read_vote(request.vote),
        prev_log_id: request.prev_log_id.map(read_log_id),
        entries: entries.collect::<Result<_, _>>()?,
        leader_commit: request.leader_commit.map(read_log_id),
    })
}

fn wire_append_response(answer: StreamAppendResult<TypeConfig>) -> peer::AppendResponse {
    let mut response = peer::AppendResponse::default();
    match answer {
        Ok(acknowledged) => response.acknowledged = acknowledged.as_ref().map(wire_log_id),
        Err(StreamAppendError::Conflict(id)) => response.conflict = Some(wire_log_id(&id)),
        Err(StreamAppendError::HigherVote(vote)) => response.higher_vote = Some(wire_vote(&vote)),
    }
    response
}

fn read_vote_request(request: peer::VoteRequest) -> VoteRequest<TypeConfig> {
    VoteRequest {
        vote: read_vote(request.vote),
        last_log_id: request.last_log_id.map(read_log_id),
        leadership_transfer: request.leadership_transfer,
    }
}

fn wire_vote_response(response: VoteResponse<TypeConfig>) -> peer::VoteResponse {
    peer::VoteResponse {
        vote: Some(wire_vote(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(wire_log_id),
    }
}
