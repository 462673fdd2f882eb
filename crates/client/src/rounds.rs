//! What a call that does not succeed at once goes through: rounds over the endpoints, with pauses in between.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::time::Instant;

use crate::Error;
use crate::error::Tried;
use crate::node::Node;
use crate::options::CallOptions;
use crate::pool::Pool;

/// The pauses between rounds over all endpoints. An election takes about a second: the first pauses
/// are short because a hand-over of leadership takes a few milliseconds.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// What a call that does not succeed at once remembers.
pub(crate) struct Rounds {
    pauses: backon::ExponentialBackoff,
    /// One entry for each endpoint that was tried, with how its last attempt ended.
    failures: Vec<Failure>,
}

struct Failure {
    node: Arc<Node>,
    problem: String,
    /// It will take no request, however often it is asked.
    hopeless: bool,
    /// It was tried since the last pause.
    this_round: bool,
}

impl Rounds {
    pub(crate) fn new() -> Rounds {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(PAUSE_MIN)
            .with_max_delay(PAUSE_MAX)
            .with_jitter()
            .without_max_times()
            .build();
        Rounds { pauses, failures: Vec::new() }
    }

    pub(crate) fn note(&mut self, node: &Arc<Node>, problem: String, hopeless: bool) {
        let failure = Failure { node: Arc::clone(node), problem, hopeless, this_round: true };
        match self.failures.iter_mut().find(|failure| Arc::ptr_eq(&failure.node, node)) {
            Some(known) => *known = failure,
            None => self.failures.push(failure),
        }
    }

    pub(crate) fn tried(&self, node: &Arc<Node>) -> bool {
        self.failures.iter().any(|failure| failure.this_round && Arc::ptr_eq(&failure.node, node))
    }

    /// Where to go on: at the next endpoint, after a pause when all were asked.
    pub(crate) async fn next(
        &mut self,
        pool: &Arc<Pool>,
        node: &Arc<Node>,
        busy: bool,
        options: &CallOptions,
    ) -> Result<Arc<Node>, Error> {
        let untried = pool.next(node, |node| self.tried(node));
        if untried.is_none() && self.failures.iter().all(|failure| failure.hopeless) {
            return Err(Error::NoCluster { tried: self.tried_in_vain() });
        }
        if Instant::now() >= options.deadline {
            return Err(self.give_up(options));
        }
        if let (Some(next), false) = (untried, busy) {
            return Ok(next);
        }
        let pause = self.pauses.next().unwrap_or(PAUSE_MAX);
        if Instant::now() + pause >= options.deadline {
            tokio::time::sleep_until(options.deadline).await;
            return Err(self.give_up(options));
        }
        tokio::time::sleep(pause).await;
        self.failures.iter_mut().for_each(|failure| failure.this_round = false);
        Ok(if busy { Arc::clone(node) } else { pool.first(options.route) })
    }

    fn give_up(&mut self, options: &CallOptions) -> Error {
        Error::Unanswered { within: options.timeout, tried: self.tried_in_vain() }
    }

    fn tried_in_vain(&mut self) -> Vec<Tried> {
        let tried = |failure: Failure| Tried {
            endpoint: failure.node.address().to_string(),
            problem: failure.problem,
        };
        self.failures.drain(..).map(tried).collect()
    }
}
