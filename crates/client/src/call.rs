//! One call: attempts at endpoints until one answers, the outcome is unknown, or the time is over.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::Bytes;
use kvorum_proto::kv::v1 as wire;
use kvorum_proto::kv::v1::cluster_client::ClusterClient;
use kvorum_proto::kv::v1::kv_client::KvClient;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status, Streaming};

use crate::Error;
use crate::channel::{Channel, MESSAGE_BYTES_MAX};
use crate::error::Tried;
use crate::judge::{Fate, Next, Setback, judge};
use crate::node::{Connected, Node};
use crate::pool::Pool;

/// The pauses between rounds over all endpoints. An election takes about a second: the first pauses
/// are short because a hand-over of leadership takes a few milliseconds.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// A read is taken elsewhere after half of its time, but an attempt has at least so long.
const READ_ATTEMPT_MIN: Duration = Duration::from_millis(500);

/// A node is told to be done so long before the time is over, or a tenth of it if that is less, so that
/// its reason arrives: "there is no leader" may be repeated, silence may not.
const ANSWER_TIME: Duration = Duration::from_millis(100);

/// How a call is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallOptions {
    /// The time that the whole call has, for messages.
    pub(crate) timeout: Duration,
    pub(crate) deadline: Instant,
    pub(crate) route: Route,
    pub(crate) repeat: Repeat,
    /// Any node may be behind the revision that is asked for, which surely exists.
    pub(crate) revision_exists: bool,
}

/// Where a call begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// At the leader.
    Leader,
    /// At this client's own endpoint, since any node answers by itself.
    Home,
}

/// When a failed attempt is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Always: it changes nothing, or nothing more.
    Always,
    /// If surely nothing was proposed.
    IfNotApplied,
}

impl CallOptions {
    pub(crate) fn read(timeout: Duration, route: Route) -> CallOptions {
        let deadline = Instant::now() + timeout;
        CallOptions { timeout, deadline, route, repeat: Repeat::Always, revision_exists: false }
    }

    pub(crate) fn write(timeout: Duration) -> CallOptions {
        CallOptions { repeat: Repeat::IfNotApplied, ..CallOptions::read(timeout, Route::Leader) }
    }
}

/// A request, with the method that takes it.
pub(crate) trait Rpc: Clone + Send + Sync + 'static {
    type Answer: Send;
    /// The server is told the deadline. A stream outlives the call that opens it.
    const TIMED: bool = true;

    fn send(
        channel: Channel,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;

    fn header(answer: &Self::Answer) -> Option<&wire::Header>;
}

macro_rules! unary {
    ($client:ident: $($method:ident($request:ident) -> $answer:ident),+ $(,)?) => {$(
        impl Rpc for wire::$request {
            type Answer = wire::$answer;

            async fn send(
                channel: Channel,
                request: Request<Self>,
            ) -> Result<Response<Self::Answer>, Status> {
                $client::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).$method(request).await
            }

            fn header(answer: &Self::Answer) -> Option<&wire::Header> {
                answer.header.as_ref()
            }
        }
    )+};
}

macro_rules! streaming {
    ($($method:ident($request:ident) -> $answer:ident),+ $(,)?) => {$(
        impl Rpc for wire::$request {
            type Answer = Streaming<wire::$answer>;
            const TIMED: bool = false;

            async fn send(
                channel: Channel,
                request: Request<Self>,
            ) -> Result<Response<Self::Answer>, Status> {
                KvClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).$method(request).await
            }

            fn header(_: &Self::Answer) -> Option<&wire::Header> {
                None
            }
        }
    )+};
}

unary!(KvClient:
    get(GetRequest) -> GetResponse,
    set(SetRequest) -> SetResponse,
    delete(DeleteRequest) -> DeleteResponse,
    ttl(TtlRequest) -> TtlResponse,
    expire(ExpireRequest) -> ExpireResponse,
    persist(PersistRequest) -> PersistResponse,
    compact(CompactRequest) -> CompactResponse,
    batch(BatchRequest) -> BatchResponse,
);
unary!(ClusterClient: members(MembersRequest) -> MembersResponse);
streaming!(scan(ScanRequest) -> ScanResponse, watch(WatchRequest) -> WatchResponse);

impl Pool {
    /// Makes a call. `Error::OutcomeUnknown` comes at once, so that the caller can have a look.
    pub(crate) async fn call<R: Rpc>(
        self: &Arc<Self>,
        request: &R,
        options: CallOptions,
    ) -> Result<R::Answer, Error> {
        self.call_on(request, options).await.map(|(answer, _)| answer)
    }

    /// Makes a call and tells who answered it.
    pub(crate) async fn call_on<R: Rpc>(
        self: &Arc<Self>,
        request: &R,
        options: CallOptions,
    ) -> Result<(R::Answer, Arc<Node>), Error> {
        let mut node = self.first(options.route);
        let mut rounds: Option<Rounds> = None;
        loop {
            let setback = match self.attempt(&node, request, &options).await {
                Ok(answer) => return Ok((answer, node)),
                Err(setback) => setback,
            };
            let next = match setback.fate {
                Fate::Answered(error) => return Err(error),
                Fate::Behind(error) if !options.revision_exists => return Err(error),
                Fate::Unknown if options.repeat == Repeat::IfNotApplied => {
                    self.avoid(&node);
                    let endpoint = node.address().to_string();
                    return Err(Error::OutcomeUnknown { endpoint, problem: setback.problem });
                }
                Fate::Unknown | Fate::Behind(_) => Next::Anywhere,
                Fate::NotApplied(next) => next,
            };
            if next != Next::Here {
                self.avoid(&node);
            }
            let rounds = rounds.get_or_insert_with(Rounds::new);
            rounds.note(&node, setback.problem, next == Next::Elsewhere);
            let leader = match &next {
                Next::Leader(address) => self.named(address).filter(|node| !rounds.tried(node)),
                _ => None,
            };
            node = match leader.inspect(|node| self.prefer(node)) {
                Some(leader) => leader,
                None => rounds.next(self, &node, next == Next::Here, &options).await?,
            };
        }
    }

    async fn attempt<R: Rpc>(
        self: &Arc<Self>,
        node: &Arc<Node>,
        request: &R,
        options: &CallOptions,
    ) -> Result<R::Answer, Setback> {
        let now = Instant::now();
        let until = match options.repeat {
            Repeat::IfNotApplied => options.deadline,
            Repeat::Always => {
                let left = options.deadline.saturating_duration_since(now);
                options.deadline.min(now + (left / 2).max(READ_ATTEMPT_MIN))
            }
        };
        let connected = self.connected(node, until).await?;
        let outcome = send(&connected.channel, request, until, now, node).await;
        if outcome.as_ref().is_err_and(|setback| setback.broken) {
            node.discard(&connected);
        }
        let answer = outcome?;
        if let Some(header) = R::header(&answer) {
            self.learn(node, header).map_err(Setback::answered)?;
        }
        Ok(answer)
    }

    /// A connection to a node that has answered on it.
    pub(crate) async fn connected(
        self: &Arc<Self>,
        node: &Arc<Node>,
        until: Instant,
    ) -> Result<Connected, Setback> {
        let check = |channel| self.verify(node, channel, until);
        node.connected(until, self.settings().connect_timeout, check).await
    }

    /// Makes sure that a new connection leads to the cluster this client knows, and to a node that is not
    /// about to leave, before anything is written there.
    async fn verify(
        self: &Arc<Self>,
        node: &Arc<Node>,
        channel: Channel,
        until: Instant,
    ) -> Result<(), Setback> {
        if self.cluster_id() == 0 {
            return Ok(());
        }
        // Any key does; whether it exists does not matter.
        let probe = wire::GetRequest { key: Bytes::from_static(b"\0"), revision: 0, serializable: true };
        match send(&channel, &probe, until, Instant::now(), node).await {
            Ok(answer) => self.learn(node, &answer.header.unwrap_or_default()).map_err(Setback::answered),
            Err(setback) => Err(setback.of_probe()),
        }
    }
}

/// Sends a request on a channel.
pub(crate) async fn send<R: Rpc>(
    channel: &Channel,
    request: &R,
    until: Instant,
    now: Instant,
    node: &Node,
) -> Result<R::Answer, Setback> {
    let mut message = Request::new(request.clone());
    if R::TIMED {
        let left = until.saturating_duration_since(now);
        message.set_timeout(left - (left / 10).min(ANSWER_TIME));
    }
    match timeout_at(until, R::send(channel.clone(), message)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(judge(&status, node.address().as_str())),
        Err(_) => Err(Setback::timed_out()),
    }
}

/// What a call that does not succeed at once remembers.
struct Rounds {
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
    fn new() -> Rounds {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(PAUSE_MIN)
            .with_max_delay(PAUSE_MAX)
            .with_jitter()
            .without_max_times()
            .build();
        Rounds { pauses, failures: Vec::new() }
    }

    fn note(&mut self, node: &Arc<Node>, problem: String, hopeless: bool) {
        let failure = Failure { node: Arc::clone(node), problem, hopeless, this_round: true };
        match self.failures.iter_mut().find(|failure| Arc::ptr_eq(&failure.node, node)) {
            Some(known) => *known = failure,
            None => self.failures.push(failure),
        }
    }

    fn tried(&self, node: &Arc<Node>) -> bool {
        self.failures.iter().any(|failure| failure.this_round && Arc::ptr_eq(&failure.node, node))
    }

    /// Where to go on: at the next endpoint, after a pause when all were asked.
    async fn next(
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
