//! What other members ask of this one, on the peer port. Every call says between which disks it
//! goes; a call that is meant for another is refused before it reaches raft.

use std::pin::Pin;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{Stream, StreamExt as _, stream};
use kvorum_proto::peer::v1 as peer;
use kvorum_proto::peer::v1::peer_server::Peer;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use crate::error::MembershipError;
use crate::net::deadline::{deadline, times_to_answer};
use crate::net::remote::Remote;
use crate::raft::Raft;
use crate::raft::gather::BATCH_COMMANDS_MAX;
use crate::raft::propose::wire_result;

/// How long a peer that opens a stream may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// The service.
pub struct PeerService {
    raft: Raft,
}

impl PeerService {
    /// Serves this node's part in consensus.
    pub fn new(raft: Raft) -> Self {
        PeerService { raft }
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    type AppendStream = Pin<Box<dyn Stream<Item = Result<peer::AppendResponse, Status>> + Send>>;
    type TermStream = Pin<Box<dyn Stream<Item = Result<peer::TermResponse, Status>> + Send>>;

    async fn join(
        &self,
        request: Request<peer::JoinRequest>,
    ) -> Result<Response<peer::JoinResponse>, Status> {
        let peer::JoinRequest { cluster_id, node_id, incarnation, feature_level } = request.into_inner();
        let own = self.raft.overview().node_id;
        if cluster_id == 0 || node_id != own {
            return Err(MembershipError::OtherDisk { node_id: own, wanted: node_id }.into());
        }
        self.raft.join(cluster_id, incarnation, feature_level).await?;
        Ok(Response::new(peer::JoinResponse {}))
    }

    async fn append(
        &self,
        request: Request<Streaming<peer::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let mut requests = request.into_inner();
        let hello = first_of(&mut requests).await?;
        let envelope = hello.and_then(|hello| hello.envelope);
        self.raft.check_envelope(envelope)?;
        Ok(Response::new(Box::pin(self.raft.append(envelope.unwrap_or_default().from, requests)?)))
    }

    async fn vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteResponse>, Status> {
        let request = request.into_inner();
        self.raft.check_envelope(request.envelope)?;
        self.raft.vote(request).await.map(Response::new)
    }

    async fn pre_vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteResponse>, Status> {
        let request = request.into_inner();
        self.raft.check_envelope(request.envelope)?;
        self.raft.pre_vote(request).await.map(Response::new)
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<peer::SnapshotRequest>>,
    ) -> Result<Response<peer::SnapshotResponse>, Status> {
        let mut requests = request.into_inner();
        let first = first_of(&mut requests).await?;
        let Some(peer::snapshot_request::Part::Header(header)) = first.and_then(|first| first.part) else {
            return Err(Status::invalid_argument("a snapshot begins with its header"));
        };
        self.raft.check_envelope(header.envelope)?;
        self.raft.install_snapshot(header, requests).await.map(Response::new)
    }

    async fn transfer_leader(
        &self,
        request: Request<peer::TransferLeaderRequest>,
    ) -> Result<Response<peer::TransferLeaderResponse>, Status> {
        let request = request.into_inner();
        self.raft.check_envelope(request.envelope)?;
        self.raft.take_leadership(request).await?;
        Ok(Response::new(peer::TransferLeaderResponse {}))
    }

    async fn propose(
        &self,
        request: Request<peer::ProposeRequest>,
    ) -> Result<Response<peer::ProposeResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let peer::ProposeRequest { envelope, commands, timeout_ms } = message;
        self.raft.check_envelope(envelope)?;
        if commands.len() > BATCH_COMMANDS_MAX {
            return Err(Status::invalid_argument(format!(
                "at most {BATCH_COMMANDS_MAX} commands go together"
            )));
        }
        let (now, times) = (Instant::now(), times_to_answer(&metadata, &timeout_ms, commands.len())?);
        let answers = commands
            .into_iter()
            .zip(times)
            .map(|(command, time)| self.raft.propose_here(command, now + time));
        let results = join_all(answers).await.into_iter().map(wire_result).collect();
        Ok(Response::new(peer::ProposeResponse { results }))
    }

    async fn read_index(
        &self,
        request: Request<peer::ReadIndexRequest>,
    ) -> Result<Response<peer::ReadIndexResponse>, Status> {
        let deadline = deadline(request.metadata());
        self.raft.check_envelope(request.into_inner().envelope)?;
        let index = self.raft.read_index_here(deadline).await?;
        Ok(Response::new(peer::ReadIndexResponse { index }))
    }

    async fn term(
        &self,
        request: Request<Streaming<peer::TermRequest>>,
    ) -> Result<Response<Self::TermStream>, Status> {
        let from = Remote::of(request.extensions())?.address;
        let mut requests = request.into_inner();
        let first = first_of(&mut requests).await?;
        self.raft.check_envelope(first.as_ref().and_then(|first| first.envelope))?;
        if let Some(first) = &first {
            self.raft.dialer().learn(&first.address, from);
        }
        let raft = self.raft.clone();
        let answers = stream::iter(first.map(Ok))
            .chain(requests)
            .map(move |request| request.and_then(|_| Ok(raft.answer_term()?)));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn digest(
        &self,
        request: Request<peer::DigestRequest>,
    ) -> Result<Response<peer::DigestResponse>, Status> {
        let request = request.into_inner();
        self.raft.check_envelope(request.envelope)?;
        Ok(Response::new(self.raft.answer_digest(request).await?))
    }
}

/// What a stream begins with; nothing if it ends at once.
async fn first_of<T>(requests: &mut Streaming<T>) -> Result<Option<T>, Status> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, requests.message()).await;
    first.map_err(|_| Status::deadline_exceeded("the stream began with nothing"))?
}
