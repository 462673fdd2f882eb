//! Consensus: the one place that knows openraft. The rest of the node sees [`Raft`], the handle in this file.
//!
//! One Put: [`Raft::propose`] -> `gather` -> `propose` -> `log_store` -> (quorum) -> `state_machine` -> `apply`.
//! One linearizable read: `Raft::read_barrier` in `reads` -> `read_index` -> wait until that index is applied.
//!
//! What the handle is made of knows nothing of it; what is done with it stands above it, a file each, and
//! `start` above all of those. Nothing here imports an API.

mod admit;
mod alone;
mod apply;
mod clock;
mod compare;
mod connections;
mod contact;
mod core_end;
mod disk;
mod election;
mod feature;
pub mod gather;
mod housekeeping;
mod identity;
mod joining;
mod lag;
mod leaderless;
mod leadership;
mod log_store;
#[cfg(test)]
mod log_store_suite;
mod membership;
mod network;
mod options;
mod peers;
mod progress;
pub mod propose;
mod publish;
mod read_index;
mod reads;
pub mod recover;
mod recovery;
mod snapshot;
mod standing;
pub mod start;
mod state_machine;
mod status;
mod status_only;
mod stop;
mod transfer;
mod transfers;
mod types;
mod watchdog;
pub mod went_back;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use kvorum_proto::peer::v1 as peer;
use kvorum_store::Store;
use kvorum_store::data_dir::DataDir;
use kvorum_store::log::Log;
use kvorum_store::space::{Space, SpaceState};
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::{Mutex, Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::blocking::Blocking;
use crate::error::RequestError;
use crate::metrics::Metrics;
use crate::net::dialer::{Dialer, PeerClient};
use crate::net::way::Way;
use crate::observer::Observer;
use crate::place::{Member, Overview, Stall, StatusOnly};
use apply::Applier;
use clock::ClusterClock;
use connections::Connections;
use contact::Contact;
use gather::{Applied, Gather};
use identity::Identity;
use lag::Lags;
use read_index::ReadIndex;
use snapshot::places::Snapshots;
use state_machine::StateMachine;
use types::{Address, StoredMembership, TypeConfig};
use went_back::Doubt;

pub use options::RaftOptions;
pub use types::founding_membership;

type OpenRaft = openraft::Raft<TypeConfig, StateMachine>;

/// Between two attempts at a request that found no leader.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// This node's part in consensus. Clones share it.
#[derive(Clone)]
pub struct Raft {
    inner: Arc<Inner>,
}

struct Inner {
    options: RaftOptions,
    dialer: Dialer,
    blocking: Blocking,
    data_dir: DataDir,
    store: Store,
    log: Log,
    space: Space,
    metrics: Arc<Metrics>,
    observer: Option<Arc<dyn Observer>>,
    clock: Arc<ClusterClock>,
    applier: Applier,
    /// Since when its peers lag, while this node leads.
    lags: Lags,
    snapshots: Snapshots,
    /// What the disk had at the last look.
    disk: watch::Sender<Option<SpaceState>>,
    /// One hash of the store is computed at a time: each reads all of it.
    hashing: Arc<Semaphore>,
    /// Absent while the node is Unjoined, and where its disk is set aside.
    core: OnceLock<Core>,
    /// Present where the disk must take no part.
    set_aside: OnceLock<SetAside>,
    /// The cluster was founded closed, see [`Raft::is_closed`].
    closed: AtomicBool,
    /// Held while the node joins, so that it joins once.
    joining: Mutex<()>,
    /// Whether the disk holds what was acknowledged.
    doubt: Doubt,
    /// Whether those whom this node needs are heard of.
    contact: Contact,
    overview: watch::Sender<Arc<Overview>>,
    /// Set when the log is replayed and reads may be served.
    recovered: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
    /// What stands still, so that this node does not lead.
    stalled: watch::Sender<Option<Stall>>,
    /// Set when the node is to be started anew, to carry out a recovery.
    restart: watch::Sender<bool>,
}

/// A disk that is set aside.
struct SetAside {
    reason: StatusOnly,
    membership: Arc<StoredMembership>,
}

/// A [`Raft`] that does not keep it.
#[derive(Clone)]
pub(crate) struct WeakRaft(Weak<Inner>);

impl WeakRaft {
    /// The handle, unless the node has stopped.
    pub(crate) fn upgrade(&self) -> Result<Raft, RequestError> {
        self.0.upgrade().map(|inner| Raft { inner }).ok_or(RequestError::ShuttingDown)
    }
}

/// What exists once the node has joined a cluster.
struct Core {
    raft: OpenRaft,
    identity: Identity,
    /// The ways to the other members.
    connections: Connections,
    /// Makes log entries of commands, while this node leads.
    proposer: Gather,
    /// Sends commands to the leader, while another node leads.
    forwarder: Gather,
    /// Asks a majority, while this node leads.
    leader_index: ReadIndex,
    /// Asks the leader, while another node leads.
    follower_index: ReadIndex,
    /// Notified when a follower will wait for what the leader has committed.
    commit_wanted: Arc<Notify>,
    /// Held while a member is added, and while the feature level is raised.
    changing: Mutex<()>,
}

impl Raft {
    /// For what the handle owns itself.
    pub(crate) fn downgrade(&self) -> WeakRaft {
        WeakRaft(Arc::downgrade(&self.inner))
    }

    fn core(&self) -> Result<&Core, RequestError> {
        self.inner.core.get().ok_or_else(|| match self.status_only() {
            Some(reason) => RequestError::StatusOnly(reason.clone()),
            None => RequestError::Unjoined,
        })
    }

    /// Who looks on at what this node does, if anybody does.
    pub(crate) fn observer(&self) -> Option<&Arc<dyn Observer>> {
        self.inner.observer.as_ref()
    }

    /// What waits in memory, by name, each with what it takes and may take, in bytes.
    pub fn queues(&self) -> [(&'static str, u64, u64); 2] {
        let (log, limits) = (&self.inner.log, &self.options().limits);
        [
            ("log queue", log.queued_bytes() as u64, limits.log_queue_bytes as u64),
            // What is not durable yet stays in the cache too.
            (
                "log cache",
                log.cached_bytes() as u64,
                (limits.log_cache_bytes + limits.log_queue_bytes) as u64,
            ),
        ]
    }

    /// The store, for reads.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }

    /// The options it was started with.
    pub fn options(&self) -> &RaftOptions {
        &self.inner.options
    }

    /// This node's place in the cluster, as of the last change.
    pub fn overview(&self) -> Arc<Overview> {
        self.inner.overview.borrow().clone()
    }

    /// Changes with this node's place in the cluster.
    pub fn watch_overview(&self) -> watch::Receiver<Arc<Overview>> {
        self.inner.overview.subscribe()
    }

    /// Why this node serves nothing but its status, if that is so. It stays so until the process ends.
    pub fn status_only(&self) -> Option<&StatusOnly> {
        self.inner.set_aside.get().map(|aside| &aside.reason)
    }

    /// What stands still here, so that this node neither leads nor is ready.
    pub fn stalled(&self) -> Option<Stall> {
        *self.inner.stalled.borrow()
    }

    /// Whether what is held here differs from what a majority holds.
    pub fn is_corrupt(&self) -> bool {
        self.stalled() == Some(Stall::Corrupt)
    }

    /// Returns once what is held here differs from what a majority holds.
    pub async fn until_corrupt(&self) {
        self.until(|stall| *stall == Some(Stall::Corrupt)).await;
    }

    /// Returns once something stands still here.
    async fn until_stalled(&self) {
        self.until(Option::is_some).await;
    }

    async fn until(&self, reached: impl FnMut(&Option<Stall>) -> bool) {
        let mut stalled = self.inner.stalled.subscribe();
        // The sender lives as long as the node.
        let _ = stalled.wait_for(reached).await;
    }

    /// The committed membership and the effective one; on a disk that is set aside, what it knows of them.
    fn memberships(&self) -> Result<[Arc<StoredMembership>; 2], RequestError> {
        if let Some(aside) = self.inner.set_aside.get() {
            return Ok([aside.membership.clone(), aside.membership.clone()]);
        }
        let metrics = self.core()?.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        Ok([metrics.committed_membership_config.clone(), metrics.membership_config.clone()])
    }

    /// How other members are reached.
    pub fn dialer(&self) -> &Dialer {
        &self.inner.dialer
    }

    /// Where what may wait for the disk is done.
    pub fn blocking(&self) -> &Blocking {
        &self.inner.blocking
    }

    /// Becomes true when the node is to be started anew.
    pub fn watch_restart(&self) -> watch::Receiver<bool> {
        self.inner.restart.subscribe()
    }

    /// Becomes true once this node stops.
    pub(crate) fn watch_stopping(&self) -> watch::Receiver<bool> {
        self.inner.stopping.subscribe()
    }

    /// Cluster time now, in milliseconds.
    pub fn cluster_now_ms(&self) -> u64 {
        self.inner.clock.now_ms()
    }

    fn election_timeout(&self) -> Duration {
        Duration::from_millis(self.inner.options.election_timeout_ms)
    }

    /// Proposes an encoded store command, here or at the leader, and waits until it is applied.
    ///
    /// Until the deadline it looks for a leader again as long as the command is surely not in any
    /// log. After that an error says that the outcome is unknown.
    pub async fn propose(&self, command: Bytes, deadline: Instant) -> Result<Applied, RequestError> {
        loop {
            let (core, overview) = (self.core()?, self.overview());
            if overview.leader.is_none() {
                // Nothing is begun that may be under way when the time is up, so that nobody is left in doubt.
                self.pause(RequestError::NoLeader, deadline).await?;
                continue;
            }
            let attempt = if overview.is_leader() { &core.proposer } else { &core.forwarder };
            match attempt.submit(command.clone(), deadline).await {
                Err(error) if error.is_not_proposed() => self.pause(error, deadline).await?,
                result => return result,
            }
        }
    }

    /// Proposes a command as the leader, and nowhere else.
    pub async fn propose_here(&self, command: Bytes, deadline: Instant) -> Result<Applied, RequestError> {
        if !self.overview().is_leader() {
            return Err(self.not_leader());
        }
        self.core()?.proposer.submit(command, deadline).await
    }

    /// Waits a moment for a leader, or gives up with the error at the deadline.
    async fn pause(&self, error: RequestError, deadline: Instant) -> Result<(), RequestError> {
        let in_vain =
            self.inner.core.get().is_none() || self.overview().removed || *self.inner.stopping.borrow();
        if in_vain || Instant::now() + RETRY_PAUSE >= deadline {
            return Err(error);
        }
        let mut overview = self.watch_overview();
        overview.mark_unchanged();
        tokio::select! {
            () = sleep(RETRY_PAUSE) => {}
            _ = overview.changed() => {}
            () = sleep_until(deadline) => {}
        }
        Ok(())
    }

    fn not_leader(&self) -> RequestError {
        match &self.overview().leader {
            Some(leader) => RequestError::NotLeader { client_address: Some(leader.client.clone()) },
            None => RequestError::NoLeader,
        }
    }

    /// The way to a member: the connection that is open anyway, or else one of its own. A client that is new asks
    /// for all members, and would cost each of them a handshake otherwise.
    pub fn way_to(&self, member: &Member) -> Option<Way> {
        let kept = self.core().ok().and_then(|core| core.connections.way(member.node_id));
        kept.or_else(|| self.inner.dialer.channel(&member.peer).ok())
    }

    /// The way to the leader. An error says that there is none yet, and nothing was asked.
    fn leader_client(&self) -> Result<(PeerClient, Option<peer::Envelope>), RequestError> {
        let core = self.core()?;
        let overview = self.overview();
        let leader = overview.leader.as_ref().ok_or(RequestError::NoLeader)?;
        if leader.node_id == core.identity.node_id {
            // It was just elected, or has just lost an election: the next look tells which.
            return Err(RequestError::NoLeader);
        }
        let client = core.connections.open_client(leader.node_id).ok_or(RequestError::NoLeader)?;
        Ok((client, core.identity.envelope(leader.node_id)))
    }

    /// The address this node tells others.
    fn address(&self) -> Address {
        let RaftOptions { advertise_peer, advertise_client, .. } = &self.inner.options;
        Address { peer: advertise_peer.clone(), client: advertise_client.clone() }
    }
}
