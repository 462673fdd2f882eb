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
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::network::Identity;
use super::{PeerClient, Raft};
use crate::grpc::{resolve, transport};

/// Between two attempts to connect.
const BACKOFF: Duration = Duration::from_millis(200);
/// How long a member may take to answer on a new connection. One that is still starting takes the connection
/// and answers later; one at an address where nobody is any more never does.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// The connections. Clones share them.
#[derive(Clone)]
pub struct Connections {
    identity: Identity,
    /// This node's name for others, host:port.
    name: Arc<str>,
    members: Arc<Mutex<HashMap<u64, Connection>>>,
}

struct Connection {
    client: PeerClient,
    /// The member has answered on it, and it has not broken since.
    open: bool,
}

impl Connections {
    /// None yet; [`keep`] makes them.
    pub fn new(identity: Identity, name: &str) -> Connections {
        Connections { identity, name: name.into(), members: Arc::default() }
    }

    /// The way to a member, which may yet have to be made.
    pub fn client(&self, node_id: u64) -> Option<PeerClient> {
        self.members().get(&node_id).map(|connection| connection.client.clone())
    }

    /// The way to a member, if it is open: what is sent has a chance to arrive.
    pub fn open_client(&self, node_id: u64) -> Option<PeerClient> {
        self.members().get(&node_id).filter(|connection| connection.open).map(|open| open.client.clone())
    }

    /// A panic while the lock was held has left the map whole.
    fn members(&self) -> MutexGuard<'_, HashMap<u64, Connection>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, node_id: u64, client: &PeerClient, open: bool) {
        self.members().insert(node_id, Connection { client: client.clone(), open });
    }

    /// Connects to a member again and again; never returns.
    async fn keep_one(self, node_id: u64, address: String) {
        loop {
            let Ok(channel) = transport::peer_channel(&address) else {
                tracing::error!(address, "a member's address is no host:port: it can't be reached");
                return;
            };
            let client = transport::peer_client(channel);
            self.set(node_id, &client, false);
            let hello = peer::TermRequest {
                envelope: self.identity.envelope(node_id),
                address: self.name.to_string(),
            };
            // As long as the line is open, the connection is.
            match timeout(OPEN_TIMEOUT, Line::open(client.clone(), hello)).await {
                Ok(Ok((_, mut line))) => {
                    self.set(node_id, &client, true);
                    line.broken().await;
                    self.set(node_id, &client, false);
                }
                // Somebody else is there.
                Ok(Err(status)) if status.code() != Code::Unavailable => resolve::forget(&address),
                Ok(Err(_)) | Err(_) => {}
            }
            sleep(BACKOFF).await;
        }
    }
}

/// An open stream of `Term` to a member, with every question answered.
pub struct Line {
    requests: mpsc::Sender<peer::TermRequest>,
    responses: Streaming<peer::TermResponse>,
}

impl Line {
    /// Opens a line with its first question, and answers that.
    pub async fn open(mut client: PeerClient, hello: peer::TermRequest) -> Result<(u64, Line), Status> {
        let (requests, queue) = mpsc::channel(1);
        let sent = requests.send(hello);
        let (_, opened) = tokio::join!(sent, client.term(ReceiverStream::new(queue)));
        let mut responses = opened?.into_inner();
        let answer = responses.message().await?.ok_or_else(|| Status::unavailable("no answer"))?;
        Ok((answer.term, Line { requests, responses }))
    }

    /// The term in which the member has voted last; nothing if the line has broken.
    pub async fn ask(&mut self) -> Option<u64> {
        self.requests.try_send(peer::TermRequest::default()).ok()?;
        let answer = self.responses.message().await.ok()??;
        Some(answer.term)
    }

    /// Returns when the line has broken. Nothing is asked, so that nothing else comes.
    async fn broken(&mut self) {
        while let Ok(Some(_)) = self.responses.message().await {}
    }
}

/// Keeps connections to all other members until the node stops.
pub async fn keep(raft: Raft) {
    let Ok(core) = raft.core() else { return };
    let connections = core.connections.clone();
    let (mut overview, mut stopping) = (raft.watch_overview(), raft.watch_stopping());
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
