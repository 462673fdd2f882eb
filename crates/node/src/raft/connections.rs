//! One open connection to each member, for all that is small: votes, hand-overs of leadership, forwarded
//! requests, and the leader's question whether it leads.
//!
//! Just when a leader goes, others must reach each other at once, and that is no time to look up where they
//! are: a pod that was replaced is known to DNS under its old address for seconds, and a drained machine may
//! have taken the DNS server along. So a connection is made beforehand, and anew as soon as it breaks. The
//! member that makes one says its name on it, and the other one knows from then on where that is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvorum_proto::peer::v1 as peer;
use kvorum_store::feature::FEATURE_LEVEL_MIN;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::identity::Identity;
use crate::net::dialer::{Dialer, PeerClient, peer_client};
use crate::net::status::cause;
use crate::net::way::Way;
use crate::place::Overview;

/// Between two attempts to connect.
const BACKOFF: Duration = Duration::from_millis(200);
/// How long a member may take to answer on a new connection. One that is still starting takes the connection
/// and answers later; one at an address where nobody is any more never does.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a member is asked again what it knows, on a connection that stays open: one that was replaced
/// by an older release may be there before the connection has broken.
const REPORT_PERIOD: Duration = Duration::from_secs(1);
/// For how long the answer counts.
const REPORT_AGE_MAX: Duration = Duration::from_secs(3);

/// The connections. Clones share them.
#[derive(Clone)]
pub struct Connections {
    dialer: Dialer,
    identity: Identity,
    /// This node's name for others, host:port.
    name: Arc<str>,
    members: Arc<Mutex<HashMap<u64, Connection>>>,
    /// Lines that others keep open to members, while they do not use them: where a connection is replaced, they go
    /// with it.
    lines: Arc<Mutex<HashMap<u64, Line>>>,
}

struct Connection {
    way: Way,
    /// What the member has answered on it, if it has, and it has not broken since; else what keeps it from that.
    open: Result<Answered, String>,
}

/// What a member has answered last.
#[derive(Clone, Copy)]
struct Answered {
    at: Instant,
    feature_level_max: u32,
}

impl Answered {
    fn now(answer: &peer::TermResponse) -> Answered {
        // A release from before there were levels does not say any.
        let feature_level_max = answer.feature_level_max.max(FEATURE_LEVEL_MIN);
        Answered { at: Instant::now(), feature_level_max }
    }
}

impl Connections {
    /// None yet; [`keep`] makes them.
    pub fn new(dialer: Dialer, identity: Identity, name: &str) -> Connections {
        Connections { dialer, identity, name: name.into(), members: Arc::default(), lines: Arc::default() }
    }

    /// The way to a member, which may yet have to be made.
    pub fn way(&self, node_id: u64) -> Option<Way> {
        self.members().get(&node_id).map(|connection| connection.way.clone())
    }

    /// A client on the way to a member, which may yet have to be made.
    pub fn client(&self, node_id: u64) -> Option<PeerClient> {
        self.way(node_id).map(peer_client)
    }

    /// The way to a member, if it is open: what is sent has a chance to arrive.
    pub fn open_way(&self, node_id: u64) -> Option<Way> {
        let members = self.members();
        members.get(&node_id).filter(|connection| connection.open.is_ok()).map(|open| open.way.clone())
    }

    /// Why there is no connection to a member, if there is none.
    pub fn problem(&self, node_id: u64) -> Option<String> {
        self.members().get(&node_id).and_then(|connection| connection.open.as_ref().err().cloned())
    }

    /// A client on the way to a member, if it is open.
    pub fn open_client(&self, node_id: u64) -> Option<PeerClient> {
        self.open_way(node_id).map(peer_client)
    }

    /// A line to a member that was kept.
    pub fn take_line(&self, node_id: u64) -> Option<Line> {
        self.lines().remove(&node_id)
    }

    /// Keeps a line to a member, unless its connection was replaced meanwhile.
    pub fn keep_line(&self, node_id: u64, line: Line) {
        // Who replaces a connection drops its lines after that: one of the two sees it.
        let mut lines = self.lines();
        if self.way(node_id).is_some_and(|way| way.number() == line.number) {
            lines.insert(node_id, line);
        }
    }

    /// Keeps lines to these members only.
    pub fn retain_lines(&self, keep: impl Fn(u64) -> bool) {
        self.lines().retain(|id, _| keep(*id));
    }

    /// A panic while the lock was held has left the map whole.
    fn lines(&self) -> MutexGuard<'_, HashMap<u64, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The highest feature level that a member knows, as it has said lately.
    pub fn feature_level_max(&self, node_id: u64) -> Option<u32> {
        let answered = *self.members().get(&node_id)?.open.as_ref().ok()?;
        (answered.at.elapsed() <= REPORT_AGE_MAX).then_some(answered.feature_level_max)
    }

    /// A panic while the lock was held has left the map whole.
    fn members(&self) -> MutexGuard<'_, HashMap<u64, Connection>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, node_id: u64, way: &Way, open: Result<Answered, String>) {
        self.members().insert(node_id, Connection { way: way.clone(), open });
    }

    /// Connects to a member again and again; never returns.
    async fn keep_one(self, node_id: u64, address: String) {
        let mut problem = "it has not answered yet".to_owned();
        loop {
            let Ok(way) = self.dialer.channel(&address) else {
                tracing::error!(address, "a member's address is no host:port: it can't be reached");
                return;
            };
            self.set(node_id, &way, Err(problem));
            problem = match self.follow(node_id, &way).await {
                Ok(()) => "the connection broke".to_owned(),
                Err(status) => {
                    // Somebody else is there.
                    if status.code() != Code::Unavailable {
                        self.dialer.forget(&address);
                    }
                    cause(&status)
                }
            };
            self.set(node_id, &way, Err(problem.clone()));
            sleep(BACKOFF).await;
        }
    }

    /// Keeps a line open, and takes note of what is said on it: as long as the line is open, the connection is.
    /// Returns when it has broken.
    async fn follow(&self, node_id: u64, way: &Way) -> Result<(), Status> {
        let mut left = None;
        loop {
            let hello = peer::TermRequest {
                envelope: self.identity.envelope(node_id),
                address: self.name.to_string(),
            };
            let opened = timeout(OPEN_TIMEOUT, Line::open(way, hello)).await;
            let (answer, mut line) = opened.map_err(|_| Status::unavailable("no answer"))??;
            // A line on a connection that another one has taken the place of goes only now.
            drop(left.take());
            self.lines().remove(&node_id);
            self.set(node_id, way, Ok(Answered::now(&answer)));
            let number = line.number;
            loop {
                tokio::select! {
                    report = line.next_report() => match report {
                        Some(answer) => self.set(node_id, way, Ok(Answered::now(&answer))),
                        None => return Ok(()),
                    },
                    () = way.replaced(number), if way.is_replaceable() => break,
                }
            }
            left = Some(line);
        }
    }
}

/// An open stream of `Term` to a member, with every question answered.
pub struct Line {
    /// The connection that it is on, see [`Way::number`].
    number: u64,
    requests: mpsc::Sender<peer::TermRequest>,
    responses: Streaming<peer::TermResponse>,
}

impl Line {
    /// Opens a line with its first question, and answers that.
    pub async fn open(way: &Way, hello: peer::TermRequest) -> Result<(peer::TermResponse, Line), Status> {
        let (number, mut client) = (way.number(), peer_client(way.clone()));
        let (requests, queue) = mpsc::channel(1);
        let sent = requests.send(hello);
        let (_, opened) = tokio::join!(sent, client.term(ReceiverStream::new(queue)));
        let mut responses = opened?.into_inner();
        let answer = responses.message().await?.ok_or_else(|| Status::unavailable("no answer"))?;
        Ok((answer, Line { number, requests, responses }))
    }

    /// The term in which the member has voted last; nothing if the line has broken.
    pub async fn ask(&mut self) -> Option<u64> {
        self.requests.try_send(peer::TermRequest::default()).ok()?;
        let answer = self.responses.message().await.ok()??;
        Some(answer.term)
    }

    /// Asks now and then, and returns the next answer; nothing once the line has broken. A member that does
    /// not answer for a while has not broken it.
    async fn next_report(&mut self) -> Option<peer::TermResponse> {
        loop {
            tokio::select! {
                answer = self.responses.message() => return answer.ok()?,
                // Where the last question has not left yet, it will do.
                () = sleep(REPORT_PERIOD) => {
                    let _ = self.requests.try_send(peer::TermRequest::default());
                }
            }
        }
    }
}

/// Keeps connections to all other members until the node stops.
pub async fn keep(
    connections: Connections,
    mut overview: watch::Receiver<Arc<Overview>>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut tasks = JoinSet::new();
    let mut kept: HashMap<u64, (String, AbortHandle)> = HashMap::new();
    loop {
        let members = overview.borrow_and_update().members.clone();
        kept.retain(|id, (address, task)| {
            let stays = members.iter().any(|member| member.node_id == *id && member.peer == *address);
            if !stays {
                task.abort();
                connections.members().remove(id);
            }
            stays
        });
        for member in members {
            let id = member.node_id;
            if id != connections.identity.node_id && !kept.contains_key(&id) {
                let task = tasks.spawn(connections.clone().keep_one(id, member.peer.clone()));
                kept.insert(id, (member.peer, task));
            }
        }
        tokio::select! {
            _ = overview.changed() => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
            // One whose member is gone: its end is taken note of, so that they do not pile up.
            Some(_) = tasks.join_next() => {}
        }
    }
}
