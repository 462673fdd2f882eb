//! What is done with a batch of commands: on the leader it becomes one log entry, elsewhere one
//! call to the leader.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvorum_proto::peer::v1 as peer;
use kvorum_store::command::Outcome;
use kvorum_store::entry;
use openraft::errors::ClientWriteError;
use openraft::impls::OneshotResponder;
use prost::Message as _;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::gather::{Answer, Applied, Proposal};
use super::types::{Commands, Outcomes, TypeConfig};
use super::{Core, Raft, WeakRaft};
use crate::error::RequestError;
use crate::net::dialer::PeerClient;
use crate::place::Overview;

/// A leader that hands over still answers what was committed; one that was cut off does not, and the
/// calls to it must not hold up those to the next. So it is given so long once there is another one, and
/// as long again while it answers at all.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// How often that is: one that is cut off from all but this member is not waited for either.
const LAST_ANSWERS_MAX: u32 = 5;

/// Commits a batch as one log entry with one time stamp, and waits until it is applied here.
pub(super) async fn commit(raft: WeakRaft, batch: Vec<Proposal>) -> Vec<Answer> {
    let count = batch.len();
    let raft = match raft.upgrade() {
        Ok(raft) => raft,
        Err(error) => return vec![Err(error); count],
    };
    let result = match raft.core() {
        Ok(core) => commit_entry(&raft, core, batch).await,
        Err(error) => Err(error),
    };
    match result {
        Ok((Outcomes(outcomes), term)) => {
            outcomes.into_iter().map(|outcome| Ok(Applied { outcome, term })).collect()
        }
        Err(error) => {
            raft.metrics().proposals_failed(count);
            vec![Err(error); count]
        }
    }
}

async fn commit_entry(
    raft: &Raft,
    core: &Core,
    batch: Vec<Proposal>,
) -> Result<(Outcomes, u64), RequestError> {
    let level = raft.store().feature_level();
    let commands = batch.iter().map(|proposal| &proposal.command);
    let payload = entry::encode_batch_of_level(level, raft.cluster_now_ms(), commands);
    raft.metrics().proposed(batch.len(), payload.len());
    drop(batch);
    commit_payload(raft, core, payload).await
}

/// Commits an encoded batch, and waits until it is applied here.
pub(super) async fn commit_payload(
    raft: &Raft,
    core: &Core,
    payload: Bytes,
) -> Result<(Outcomes, u64), RequestError> {
    if raft.stalled().is_some() {
        return Err(raft.not_leader());
    }
    tokio::select! {
        written = write(raft, core, payload) => written,
        // Whoever forwarded it here, or waits behind it, is better told now than when the disk goes on.
        () = raft.until_stalled() => Err(RequestError::OutcomeUnknown(
            "the leader's disk hangs, and another member is to lead".into(),
        )),
    }
}

async fn write(raft: &Raft, core: &Core, payload: Bytes) -> Result<(Outcomes, u64), RequestError> {
    let (responder, result) = OneshotResponder::<TypeConfig, _>::new_pair();
    let taken = core.raft.client_write_ff(Commands(payload), Some(responder)).await;
    taken.map_err(|_| RequestError::ShuttingDown)?;
    match result.await {
        Ok(Ok(response)) => Ok((response.data, response.log_id.committed_leader_id().term)),
        // It never came into the log.
        Ok(Err(ClientWriteError::ForwardToLeader(_))) => Err(raft.not_leader()),
        // Discarded on a change of leader, or raft stopped: a later leader may still commit it.
        Ok(Err(_)) | Err(_) => {
            Err(RequestError::OutcomeUnknown("the leader changed while the write was on its way".into()))
        }
    }
}

/// Sends a batch to the leader, and waits until it is applied there, or nobody waits for it any more.
pub(super) async fn forward(raft: WeakRaft, batch: Vec<Proposal>) -> Vec<Answer> {
    let count = batch.len();
    let forwarded = match raft.upgrade() {
        Ok(raft) => forward_batch(&raft, batch).await,
        Err(error) => Err(error),
    };
    match forwarded {
        Ok(results) if results.len() == count => results.into_iter().map(read_result).collect(),
        Ok(_) => vec![Err(RequestError::OutcomeUnknown("the leader's answer is not whole".into())); count],
        Err(error) => vec![Err(error); count],
    }
}

async fn forward_batch(raft: &Raft, batch: Vec<Proposal>) -> Result<Vec<peer::ProposeResult>, RequestError> {
    let (mut client, envelope) = raft.leader_client()?;
    let beside = client.clone();
    tokio::select! {
        response = client.propose(request(batch, envelope, Instant::now())) => {
            response.map(|response| response.into_inner().results).map_err(RequestError::from_peer)
        }
        () = deposed(raft, beside, envelope) => Err(RequestError::OutcomeUnknown(
            "the leader changed while the write was on its way to it".into(),
        )),
    }
}

/// The call that forwards a batch. Each command has the time that its caller has left, and the call the
/// longest of them: that is what a leader goes by that does not know of the others.
fn request(
    batch: Vec<Proposal>,
    envelope: Option<peer::Envelope>,
    now: Instant,
) -> tonic::Request<peer::ProposeRequest> {
    let left = |proposal: &Proposal| proposal.deadline.saturating_duration_since(now);
    let longest = batch.iter().map(left).max().unwrap_or_default();
    let timeout_ms = batch.iter().map(|proposal| saturating_ms(left(proposal))).collect();
    let commands = batch.into_iter().map(|proposal| proposal.command).collect();
    let mut request = tonic::Request::new(peer::ProposeRequest { envelope, commands, timeout_ms });
    request.set_timeout(longest);
    request
}

fn saturating_ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Returns once another leads than the one that was called, and that one has nothing more to say.
async fn deposed(raft: &Raft, mut called: PeerClient, envelope: Option<peer::Envelope>) {
    let leader = envelope.map(|envelope| envelope.to);
    let mut overview = raft.watch_overview();
    let another = |overview: &Arc<Overview>| overview.leader.as_ref().map(|leader| leader.node_id) != leader;
    // The sender lives as long as the node.
    let _ = overview.wait_for(another).await;
    for _ in 0..LAST_ANSWERS_MAX {
        sleep(LAST_ANSWERS).await;
        let asked = called.read_index(peer::ReadIndexRequest { envelope });
        match timeout(LAST_ANSWERS, asked).await {
            Ok(Ok(_)) => {}
            // It says that it leads no more: it lives, and knows what becomes of what it took.
            Ok(Err(status)) if status.get_error_details().error_info().is_some() => {}
            _ => return,
        }
    }
}

/// What a member is answered that forwarded a command.
pub fn wire_result(answer: Answer) -> peer::ProposeResult {
    match answer {
        Ok(Applied { outcome, term }) => {
            peer::ProposeResult { outcome: outcome.encode_to_vec().into(), term, ..Default::default() }
        }
        Err(error) => {
            let status = Status::from(error);
            peer::ProposeResult {
                code: status.code().into(),
                message: status.message().to_owned(),
                details: Bytes::copy_from_slice(status.details()),
                ..Default::default()
            }
        }
    }
}

fn read_result(result: peer::ProposeResult) -> Answer {
    let peer::ProposeResult { outcome, term, code, message, details } = result;
    if code != 0 {
        return Err(RequestError::from_peer(Status::with_details(Code::from(code), message, details)));
    }
    match Outcome::decode(outcome) {
        Ok(outcome) => Ok(Applied { outcome, term }),
        Err(error) => {
            Err(RequestError::OutcomeUnknown(format!("the leader's answer could not be read: {error}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::deadline::times_to_answer;

    /// What the leader makes of the times that a member gives the commands of several callers: each keeps
    /// its own, whether it is longer or shorter than that of a call without one, less the margin of an answer.
    #[test]
    fn each_caller_keeps_his_deadline_at_the_leader() {
        let (now, seconds) = (Instant::now(), Duration::from_secs_f64);
        let proposal = |left: f64| Proposal { command: Bytes::new(), deadline: now + seconds(left) };
        let request = request([0.08, 30.0, 1.0, 0.0].map(proposal).to_vec(), None, now);
        let times = |request: &tonic::Request<peer::ProposeRequest>, timeout_ms: &[u32], count| {
            times_to_answer(request.metadata(), timeout_ms, count)
        };
        let told = times(&request, &request.get_ref().timeout_ms, 4).expect("one for each");
        assert_eq!(told, [0.07, 29.98, 0.98, 0.0].map(seconds));
        // To a leader of a release before, which knows only the call's own.
        assert_eq!(times(&request, &[], 2).expect("none at all"), [29.98, 29.98].map(seconds));
        // From a member of a release before.
        let without = tonic::Request::new(peer::ProposeRequest::default());
        assert_eq!(times(&without, &[], 1).expect("none at all"), [5.0].map(seconds));
        assert!(times(&without, &[1, 2, 3], 2).is_err());
    }
}
