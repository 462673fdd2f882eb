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
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::gather::Answer;
use super::types::{Commands, Outcomes, TypeConfig};
use super::{Applied, Core, Overview, PeerClient, Raft};
use crate::error::RequestError;

/// A leader that hands over still answers what was committed; one that was cut off does not, and the
/// calls to it must not hold up those to the next. So it is given so long once there is another one, and
/// as long again while it answers at all.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// How often that is: one that is cut off from all but this member is not waited for either.
const LAST_ANSWERS_MAX: u32 = 5;

/// Commits a batch as one log entry with one time stamp, and waits until it is applied here.
pub async fn commit(raft: Raft, commands: Vec<Bytes>) -> Vec<Answer> {
    let count = commands.len();
    let result = match raft.core() {
        Ok(core) => commit_entry(&raft, core, commands).await,
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
    commands: Vec<Bytes>,
) -> Result<(Outcomes, u64), RequestError> {
    let level = raft.store().feature_level();
    let payload = entry::encode_batch_of_level(level, raft.cluster_now_ms(), commands.iter());
    raft.metrics().proposed(commands.len(), payload.len());
    drop(commands);
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

/// Sends a batch to the leader, and waits until it is applied there.
pub async fn forward(raft: Raft, commands: Vec<Bytes>) -> Vec<Answer> {
    let count = commands.len();
    match forward_batch(&raft, commands).await {
        Ok(results) if results.len() == count => results.into_iter().map(read_result).collect(),
        Ok(_) => vec![Err(RequestError::OutcomeUnknown("the leader's answer is not whole".into())); count],
        Err(error) => vec![Err(error); count],
    }
}

async fn forward_batch(raft: &Raft, commands: Vec<Bytes>) -> Result<Vec<peer::ProposeResult>, RequestError> {
    let (mut client, envelope) = raft.leader_client()?;
    let beside = client.clone();
    tokio::select! {
        response = client.propose(peer::ProposeRequest { envelope, commands }) => {
            response.map(|response| response.into_inner().results).map_err(RequestError::from_peer)
        }
        () = deposed(raft, beside, envelope) => Err(RequestError::OutcomeUnknown(
            "the leader changed while the write was on its way to it".into(),
        )),
    }
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
