//! One call: attempts at endpoints until one answers, the outcome is unknown, or the time is over.
//!
//! What answers teach is here too, for it may take a call of its own: a newer term, or an endpoint that fails,
//! has the leader looked for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvorum_proto::kv::v1 as wire;
use tokio::time::Instant;
use tonic::codegen::http::header::HeaderValue;

use crate::Error;
use crate::channel::Channel;
use crate::judge::{Fate, Next, Setback, judge};
use crate::node::{Connected, Node};
use crate::options::{CallOptions, Repeat, Route};
use crate::pool::Pool;
use crate::rounds::Rounds;
use crate::rpc::{Rpc, send};

/// A read is taken elsewhere after half of its time, but an attempt has at least so long.
const READ_ATTEMPT_MIN: Duration = Duration::from_millis(500);
/// How often the leader is asked for before the search is given up until the next occasion, and how
/// long it pauses after each. Together they outlast an election.
const SEARCHES: u32 = 20;
const SEARCH_PAUSE: Duration = Duration::from_millis(200);
/// How long one question for the leader may take.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(2);

/// An attempt that was not answered as its caller wanted, and the token that it came with.
struct Failed {
    setback: Setback,
    shown: Option<HeaderValue>,
}

impl From<Setback> for Failed {
    fn from(setback: Setback) -> Failed {
        Failed { setback, shown: None }
    }
}

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
        let mut renewed = false;
        loop {
            let (setback, shown) = match self.attempt(&node, request, &options).await {
                Ok(answer) => return Ok((answer, node)),
                Err(Failed { setback, shown }) => (setback, shown),
            };
            let next = match setback.fate {
                Fate::Answered(error) => return Err(error),
                Fate::BadToken(error) => {
                    // Once: a token that is fresh and not taken either will not be better in a moment.
                    let first = !std::mem::replace(&mut renewed, true);
                    if !first || !self.renew_token(&node, shown.as_ref(), &options).await? {
                        return Err(error);
                    }
                    continue;
                }
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
    ) -> Result<R::Answer, Failed> {
        let now = Instant::now();
        let until = match options.repeat {
            Repeat::IfNotApplied => options.deadline,
            Repeat::Always => {
                let left = options.deadline.saturating_duration_since(now);
                options.deadline.min(now + (left / 2).max(READ_ATTEMPT_MIN))
            }
        };
        let connected = self.connected(node, until).await?;
        let credentials = connected.channel.credentials();
        if credentials.are_due() {
            // Where that fails, the call goes on as before, and is answered what is to be known.
            let _ = credentials.begin(&connected.channel).await;
        }
        let shown = credentials.token();
        let outcome = send(&connected.channel, request, until, now, node).await;
        if outcome.as_ref().is_err_and(|setback| setback.broken) {
            node.discard(&connected);
        }
        let answer = outcome.map_err(|setback| Failed { setback, shown })?;
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
        node.connected(until, &self.settings().connect, check).await
    }

    /// Gets another token in the place of one that was not taken. Whether there is one.
    async fn renew_token(
        self: &Arc<Self>,
        node: &Arc<Node>,
        refused: Option<&HeaderValue>,
        options: &CallOptions,
    ) -> Result<bool, Error> {
        let Ok(connected) = self.connected(node, options.deadline).await else { return Ok(false) };
        let renewed = connected.channel.credentials().renew(&connected.channel, refused).await;
        renewed.or_else(|status| match judge(&status, node.address().as_str()).fate {
            Fate::Answered(error) => Err(error),
            _ => Ok(false),
        })
    }

    /// Makes sure that a new connection leads to the cluster this client knows, and to a node that is not
    /// about to leave, before anything is written there.
    async fn verify(
        self: &Arc<Self>,
        node: &Arc<Node>,
        channel: Channel,
        until: Instant,
    ) -> Result<(), Setback> {
        let begun = channel.credentials().begin(&channel).await;
        begun.map_err(|status| match judge(&status, node.address().as_str()) {
            denied if denied.is_denied() => denied,
            setback => setback.of_probe(),
        })?;
        if self.cluster_id() == 0 {
            return Ok(());
        }
        // Any key does; whether it exists does not matter.
        let probe = wire::GetRequest { key: Bytes::from_static(b"\0"), revision: 0, serializable: true };
        match send(&channel, &probe, until, Instant::now(), node).await {
            Ok(answer) => self.learn(node, &answer.header.unwrap_or_default()).map_err(Setback::answered),
            // Who may not read that key was heard all the same. Rights want TLS, and each cluster has a CA of its own.
            Err(setback) if setback.is_denied() => Ok(()),
            Err(setback) => Err(setback.of_probe()),
        }
    }

    /// Learns from an answer's header. Refuses the answer of another cluster, and of an earlier incarnation.
    pub(crate) fn learn(self: &Arc<Self>, node: &Node, header: &wire::Header) -> Result<(), Error> {
        if self.take_in(node, header)? {
            self.search();
        }
        Ok(())
    }

    /// Later calls begin elsewhere, and the leader is looked for.
    pub(crate) fn avoid(self: &Arc<Self>, node: &Arc<Node>) {
        self.pass_over(node);
        self.search();
    }

    /// Makes sure that somebody answers, and finds the leader if there is one.
    pub(crate) async fn greet(self: &Arc<Self>) -> Result<(), Error> {
        // What the answer teaches need not be looked for a second time in the background.
        self.begin_search();
        let found = self.find_leader(self.settings().timeout).await;
        self.end_search();
        found.map(drop)
    }

    /// Looks for the leader in the background, if nobody does already.
    fn search(self: &Arc<Self>) {
        if !self.settings().find_leader || !self.begin_search() {
            return;
        }
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            for _ in 0..SEARCHES {
                // A client that was dropped meanwhile needs no leader.
                let Some(pool) = pool.upgrade() else { return };
                let found = pool.find_leader(SEARCH_TIMEOUT).await;
                drop(pool);
                if matches!(found, Ok(true)) {
                    break;
                }
                tokio::time::sleep(SEARCH_PAUSE).await;
            }
            if let Some(pool) = pool.upgrade() {
                pool.end_search();
            }
        });
    }

    /// Asks the cluster who leads and prefers that endpoint. Whether it is known.
    async fn find_leader(self: &Arc<Self>, timeout: Duration) -> Result<bool, Error> {
        let options = CallOptions::read(timeout, Route::Leader);
        let answer = self.call(&wire::MembersRequest {}, options).await?;
        let leader = answer.leader_id;
        let term = answer.header.map_or(0, |header| header.term);
        if leader == 0 || term < self.term() {
            return Ok(false);
        }
        let Some(node) = self.endpoint_of(leader, &answer.members) else { return Ok(false) };
        // An endpoint that cannot be reached from here, such as an address inside the cluster, stays
        // out of the way: every node takes every request.
        let until = Instant::now() + self.settings().connect.timeout;
        if self.connected(&node, until).await.is_ok() {
            self.prefer(&node);
        }
        Ok(true)
    }
}
