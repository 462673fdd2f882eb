//! Whether this node leads now: what it asks the voters before a linearizable read, as a leader.
//!
//! openraft answers which index a read must wait for, but its own confirmation, `ReadPolicy::ReadIndex`,
//! takes the acknowledgement of one append for those of later ones with the same last entry. A leader that
//! was stopped for longer than an election and wakes up among old acknowledgements may so believe that it
//! leads, and miss the writes of its successor. An answer to [`ask`] belongs to one question.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use kvorum_proto::peer::v1 as peer;
use kvorum_store::log::Log;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use openraft::type_config::alias::WatchReceiverOf;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::Status;

use super::OpenRaft;
use super::connections::{Connections, Line};
use super::identity::Identity;
use super::read_index::Confirm;
use super::types::{Membership, TypeConfig};
use crate::error::RequestError;
use crate::net::way::Way;
use crate::place::Stall;

/// A voter that did not answer is asked again after so long.
const BACKOFF: Duration = Duration::from_millis(200);

/// Confirms that this node leads. Each voter has at most one question to answer at a time.
pub struct Leadership {
    raft: OpenRaft,
    metrics: WatchReceiverOf<TypeConfig, openraft::metrics::RaftServerMetrics<TypeConfig>>,
    log: Log,
    identity: Identity,
    connections: Connections,
    /// A node that stands still does not lead.
    stalled: watch::Receiver<Option<Stall>>,
    /// How long a voter, and a confirmation, may take.
    limit: Duration,
    /// The number of the present confirmation.
    round: u64,
    /// The voters that have a question to answer. To the others there may be a line, which the connections keep.
    asked: HashSet<u64>,
    questions: FuturesUnordered<BoxFuture<'static, Answer>>,
}

struct Answer {
    voter: u64,
    /// The confirmation in which it was asked.
    round: u64,
    /// The term of its vote; absent if it did not answer.
    term: Option<u64>,
    /// For the next question.
    line: Option<Line>,
}

impl Leadership {
    /// Confirms for the node with this identity and log. A confirmation takes at most `limit`.
    pub fn new(
        raft: OpenRaft,
        log: Log,
        identity: Identity,
        connections: Connections,
        stalled: watch::Receiver<Option<Stall>>,
        limit: Duration,
    ) -> Leadership {
        let metrics = raft.server_metrics();
        let asked = HashSet::new();
        let questions = FuturesUnordered::new();
        Leadership { raft, metrics, log, identity, connections, stalled, limit, round: 0, asked, questions }
    }

    /// Returns once a majority of each configuration has said, after this was called, that it has not
    /// voted in a later term. Each term has one leader, and a majority that had elected a later one
    /// would have a member in this one.
    async fn ask_majority(&mut self, membership: &Membership, term: u64) -> Result<(), RequestError> {
        self.round += 1;
        self.connections.retain_lines(|id| membership.voter_ids().any(|voter| voter == id));
        let own = self.log.state().vote.map_or(0, |vote| vote.term);
        let mut with_us = BTreeSet::new();
        let own_id = self.identity.node_id;
        let mut answer = Answer { voter: own_id, round: self.round, term: Some(own), line: None };
        loop {
            match answer.term {
                Some(later) if later > term => return Err(RequestError::NoLeader),
                Some(_) if answer.round == self.round => _ = with_us.insert(answer.voter),
                // It was asked before this confirmation began, or did not answer.
                Some(_) | None => {}
            }
            if is_majority(membership.get_joint_config(), &with_us) {
                return Ok(());
            }
            for id in membership.voter_ids().filter(|id| !with_us.contains(id)) {
                self.ask(id);
            }
            answer = self.questions.next().await.ok_or(RequestError::NoLeader)?;
            self.asked.remove(&answer.voter);
            if let Some(line) = answer.line.take() {
                self.connections.keep_line(answer.voter, line);
            }
        }
    }

    /// Asks a voter for the term of its vote, if it has no question to answer yet.
    fn ask(&mut self, id: u64) {
        if !self.asked.insert(id) {
            return;
        }
        let (line, way) = (self.connections.take_line(id), self.connections.open_way(id));
        let (envelope, limit, round) = (self.identity.envelope(id), self.limit, self.round);
        let question = async move {
            match timeout(limit, ask(line, way, envelope)).await {
                Ok(Ok((term, line))) => Answer { voter: id, round, term: Some(term), line: Some(line) },
                // openraft says of a member that it does not answer.
                Ok(Err(_)) | Err(_) => {
                    sleep(BACKOFF).await;
                    Answer { voter: id, round, term: None, line: None }
                }
            }
        };
        self.questions.push(question.boxed());
    }
}

impl Confirm for Leadership {
    async fn confirm(&mut self) -> Result<u64, RequestError> {
        // The index is right whoever leads by now; that it covers everything acknowledged is for the
        // voters to say. The policy spares them the question where it is plain that they would say no.
        if self.stalled.borrow().is_some() {
            return Err(RequestError::NoLeader);
        }
        // openraft answers nothing while a vote of its own waits for a disk that hangs.
        let read = match timeout(self.limit, self.raft.get_read_log_id(ReadPolicy::LeaseRead)).await {
            Ok(Ok((read, _))) => *read.log_id(),
            Ok(Err(error)) => {
                self.connections.retain_lines(|_| false);
                return Err(not_confirmed(error));
            }
            Err(_) => return Err(RequestError::NoLeader),
        };
        let term = read.committed_leader_id().term;
        let stored = self.metrics.borrow_watched().membership_config.clone();
        match timeout(self.limit, self.ask_majority(stored.membership(), term)).await {
            Ok(answer) => answer.map(|()| read.index()),
            Err(_) => Err(RequestError::NoLeader),
        }
    }
}

fn not_confirmed(error: RaftError<TypeConfig, LinearizableReadError<TypeConfig>>) -> RequestError {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => match forward.leader_node {
            Some(address) => RequestError::NotLeader { client_address: Some(address.client) },
            None => RequestError::NoLeader,
        },
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => RequestError::NoLeader,
        RaftError::Fatal(_) => RequestError::ShuttingDown,
    }
}

/// Asks a voter for the term of its vote, on a new line if the one there is has broken.
async fn ask(
    line: Option<Line>,
    way: Option<Way>,
    envelope: Option<peer::Envelope>,
) -> Result<(u64, Line), Status> {
    if let Some(mut line) = line
        && let Some(term) = line.ask().await
    {
        return Ok((term, line));
    }
    let way = way.ok_or_else(|| Status::unavailable("not connected"))?;
    let opened = Line::open(&way, peer::TermRequest { envelope, ..Default::default() }).await;
    opened.map(|(answer, line)| (answer.term, line))
}

/// Whether a majority of each configuration is among `nodes`.
pub(super) fn is_majority(configs: &[BTreeSet<u64>], nodes: &BTreeSet<u64>) -> bool {
    configs.iter().all(|config| config.intersection(nodes).count() > config.len() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_one_of_each_configuration() {
        let set = |nodes: &[u64]| BTreeSet::from_iter(nodes.iter().copied());
        /// The configurations, the nodes, and whether these are a majority.
        type Case = (&'static [&'static [u64]], &'static [u64], bool);
        let cases: [Case; 9] = [
            (&[&[1]], &[1], true),
            (&[&[1]], &[2], false),
            (&[&[1, 2]], &[1], false),
            (&[&[1, 2, 3]], &[1], false),
            (&[&[1, 2, 3]], &[1, 3], true),
            (&[&[1, 2, 3]], &[1, 4], false),
            (&[&[1, 2, 3, 4]], &[1, 2], false),
            (&[&[1, 2, 3], &[3, 4, 5]], &[1, 2], false),
            (&[&[1, 2, 3], &[3, 4, 5]], &[2, 3, 4], true),
        ];
        for (configs, nodes, wanted) in cases {
            let sets: Vec<_> = configs.iter().map(|config| set(config)).collect();
            assert_eq!(is_majority(&sets, &set(nodes)), wanted, "{nodes:?} of {configs:?}");
        }
    }
}
