//! What this node answers its peers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use kvorum_proto::{admin::v1 as admin, peer::v1 as peer};
use kvorum_store::entry::LogId;
use kvorum_store::log::Vote as StoredVote;
use openraft::raft::{StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::standing::{Refused, Standing};
use super::types::{TypeConfig, Vote, wire_log_id, wire_vote};
use super::{Raft, admit, publish};
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

    /// What this node has now, for what comes in to be compared with.
    pub(super) fn standing(&self) -> Standing {
        let log = self.inner.log.state();
        Standing {
            node_id: self.overview().node_id,
            vote: log.vote,
            last: log.last,
            committed: log.committed.max(self.inner.store.applied()),
            leader: self.inner.contact.leader(),
        }
    }

    /// Says so once in the log where a message is refused.
    pub(super) fn admitted<T>(
        &self,
        what: &str,
        from: u64,
        checked: Result<T, Refused>,
    ) -> Result<T, Status> {
        checked.map_err(|refused| {
            tracing::warn!("{what} from node {from:016x} is refused: {refused}");
            Status::from(refused)
        })
    }

    /// Notes who leads a term, so that nobody else does, and that it is heard of.
    pub(super) fn note_leader(&self, vote: &Vote) {
        let (term, node_id) = (vote.leader_id.term, vote.leader_id.voted_for);
        if self.inner.contact.heard(term, node_id, Instant::now()) {
            publish::publish(self);
        }
    }

    /// Appends what a leader sends, and answers each request in order.
    pub fn append(
        &self,
        from: u64,
        requests: Streaming<peer::AppendRequest>,
    ) -> Result<impl Stream<Item = Result<peer::AppendResponse, Status>> + Send + use<>, Status> {
        // Why the stream ended, if a request was refused: it is the last answer.
        let refusal = Arc::new(Mutex::new(None));
        let state = (self.clone(), from, requests, refusal.clone());
        let requests = futures_util::stream::unfold(state, async |(raft, from, mut requests, refusal)| {
            let request = match requests.message().await {
                Ok(request) => request?,
                Err(error) => {
                    tracing::debug!(%error, "a leader's append stream broke off");
                    return None;
                }
            };
            let (time_ms, acknowledged) = (request.cluster_time_ms, request.acknowledged);
            let standing = raft.standing();
            let checked = admit::append(&standing, from, request);
            let admitted = match raft.admitted("an append", from, checked) {
                Ok(request) => {
                    let acknowledged = acknowledged.map(|admin::LogId { term, index }| LogId { term, index });
                    let holds = raft.check_holds(&standing, request.vote.leader_id.term, acknowledged).await;
                    holds.map(|()| request)
                }
                Err(status) => Err(status),
            };
            match admitted {
                Ok(request) => {
                    raft.note_leader(&request.vote);
                    raft.hear_time(standing.vote, &request.vote, time_ms);
                    Some((request, (raft, from, requests, refusal)))
                }
                Err(status) => {
                    *lock(&refusal) = Some(status);
                    None
                }
            }
        });
        let answers: BoxStream<'static, _> = Box::pin(self.core()?.raft.stream_append(requests));
        let answers = answers.map(|answer| match answer {
            Ok(answer) => Ok(wire_append_response(answer)),
            Err(fatal) => Err(Status::unavailable(format!("raft has stopped: {fatal}"))),
        });
        let last = futures_util::stream::once(async move { lock(&refusal).take() });
        Ok(answers.chain(last.filter_map(|refusal| std::future::ready(refusal.map(Err)))))
    }

    /// A candidate's request, if it may reach openraft.
    fn vote_request(
        &self,
        what: &str,
        request: peer::VoteRequest,
    ) -> Result<VoteRequest<TypeConfig>, Status> {
        let from = request.envelope.unwrap_or_default().from;
        let known = self.memberships()?;
        let known = known.each_ref().map(|stored| stored.membership());
        self.admitted(what, from, admit::vote(&self.standing(), &known, request))
    }

    /// Takes note of the leader's time, if it says it: of the leader that this node has voted for, or has
    /// accepted, and of no other.
    fn hear_time(&self, own: Option<StoredVote>, leader: &Vote, time_ms: u64) {
        let id = &leader.leader_id;
        if time_ms != 0 && own.is_some_and(|own| (own.term, own.node_id) == (id.term, id.voted_for)) {
            self.inner.clock.heard(id.term, time_ms);
        }
    }

    /// Answers a candidate.
    pub async fn vote(&self, request: peer::VoteRequest) -> Result<peer::VoteResponse, Status> {
        let answer = self.core()?.raft.vote(self.vote_request("a vote", request)?).await;
        answer
            .map(|answer| self.wire_vote_response(answer))
            .map_err(|error| Status::unavailable(error.to_string()))
    }

    /// Answers a node that would like to be a candidate.
    pub async fn pre_vote(&self, request: peer::VoteRequest) -> Result<peer::VoteResponse, Status> {
        let answer = self.core()?.raft.pre_vote(self.vote_request("a pre-vote", request)?).await;
        answer
            .map(|answer| self.wire_vote_response(answer))
            .map_err(|error| Status::unavailable(error.to_string()))
    }

    fn wire_vote_response(&self, response: VoteResponse<TypeConfig>) -> peer::VoteResponse {
        let (cluster_time_term, cluster_time_ms) = self.inner.clock.known();
        peer::VoteResponse {
            vote: Some(wire_vote(&response.vote)),
            granted: response.vote_granted,
            last_log_id: response.last_log_id.as_ref().map(wire_log_id),
            cluster_time_ms,
            cluster_time_term,
        }
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
        let from = request.envelope.unwrap_or_default().from;
        let known = self.memberships()?;
        let known = known.each_ref().map(|stored| stored.membership());
        let checked = admit::transfer_leader(&self.standing(), &known, request);
        let request = self.admitted("a hand-over", from, checked)?;
        match self.core()?.raft.handle_transfer_leader(request).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refused)) => Err(Status::failed_precondition(refused.to_string())),
            Err(fatal) => Err(Status::unavailable(fatal.to_string())),
        }
    }
}

/// A panic while the lock was held has left what it guards whole: it is only ever replaced.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
