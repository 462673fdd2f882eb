//! Consensus: the one place that knows openraft. The rest of the node sees [`Raft`].
//!
//! One Put: [`Raft::propose`] -> `gather` -> `proposer` -> `log_store` -> (quorum) -> `state_machine` -> `apply`.
//! One linearizable read: [`Raft::read_barrier`] -> `read_index` -> wait until that index is applied.

mod admit;
mod alone;
mod apply;
mod checkpoints;
mod clock;
mod connections;
mod core_end;
mod election;
mod feature;
mod gather;
mod holds;
mod housekeeping;
mod lag;
mod leadership;
mod log_store;
#[cfg(test)]
mod log_store_suite;
mod membership;
mod network;
mod outgoing;
mod peers;
mod proposer;
mod read_index;
mod recovery;
mod snapshot;
mod state_machine;
mod status;
mod status_only;
pub(crate) mod types;
mod watchdog;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use kvorum_proto::peer::v1 as peer;
use kvorum_store::command::Outcome;
use kvorum_store::data_dir::{self, DataDir};
use kvorum_store::log::Log;
use kvorum_store::{Store, space::Space};
use tokio::sync::{Mutex, Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tonic::transport::Channel;

use crate::error::RequestError;
use crate::metrics::Metrics;
use crate::watch::WatchHub;
use apply::Applier;
use checkpoints::Checkpoints;
use clock::ClusterClock;
use connections::Connections;
use gather::Gather;
use lag::Lags;
use leadership::Leadership;
use log_store::LogStore;
use network::{Identity, PeerNetworks};
use read_index::{Confirm, ReadIndex};
use snapshot::Snapshots;
use state_machine::StateMachine;
use status_only::SetAside;
use types::{Address, TypeConfig};

pub use gather::BATCH_COMMANDS_MAX;
pub use membership::{MembershipError, founding_membership};
pub use proposer::wire_result;
pub use status::{Member, Overview, Positions};
pub use status_only::StatusOnly;
pub use watchdog::Stall;

type OpenRaft = openraft::Raft<TypeConfig, StateMachine>;
type PeerClient = peer::peer_client::PeerClient<Channel>;

/// Between two attempts at a request that found no leader.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A leader that was removed stays until those who remain have heard that it was, then hands over.
const STEP_DOWN_DELAY: openraft::StepDownPolicy = openraft::StepDownPolicy::After(150);

/// What became of a proposed command.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The store's answer.
    pub outcome: Outcome,
    /// The term in which it was committed.
    pub term: u64,
}

/// How this node takes part in consensus.
#[derive(Clone, Debug)]
pub struct RaftOptions {
    /// Where this node tells others that it listens.
    pub advertise_peer: String,
    /// Where this node tells clients that it listens.
    pub advertise_client: String,
    /// The only cluster that an empty disk may found or join; `None`: any.
    pub cluster_id: Option<u64>,
    /// A disk of a lower incarnation of its cluster takes no part.
    pub incarnation_min: u64,
    /// The leader's lease in milliseconds. A follower that hears nothing for that long, and then for
    /// half as long to as long again, stands for election.
    pub election_timeout_ms: u64,
    /// The leader makes itself heard so often, in milliseconds.
    pub heartbeat_interval_ms: u64,
    /// Bytes of log that are kept for followers that lag.
    pub log_retain_bytes: u64,
    /// Logical bytes the store may hold; 0: no limit.
    pub quota_bytes: u64,
    /// History older than this is compacted; zero: never.
    pub auto_compaction_retention: Duration,
    /// The highest feature level that this node takes part in.
    pub feature_level_max: u32,
}

/// What a node works with once its data directory is open.
pub struct Parts {
    /// The data directory, and the lock on it.
    pub data_dir: DataDir,
    /// The state.
    pub store: Store,
    /// The raft log.
    pub log: Log,
    /// Looks after the space on disk.
    pub space: Space,
    /// Applied changes go here.
    pub hub: Arc<WatchHub>,
    /// Everything that is counted.
    pub metrics: Arc<Metrics>,
}

/// This node's part in consensus. Clones share it.
#[derive(Clone)]
pub struct Raft {
    inner: Arc<Inner>,
}

struct Inner {
    options: RaftOptions,
    data_dir: DataDir,
    store: Store,
    log: Log,
    space: Space,
    metrics: Arc<Metrics>,
    clock: Arc<ClusterClock>,
    applier: Applier,
    /// Since when its peers lag, while this node leads.
    lags: Lags,
    checkpoints: Arc<Checkpoints>,
    snapshots: Snapshots,
    /// One hash of the store is computed at a time: each reads all of it.
    hashing: Arc<Semaphore>,
    /// Absent while the node is Unjoined, and where its disk is set aside.
    core: OnceLock<Core>,
    /// Present where the disk must take no part.
    set_aside: OnceLock<SetAside>,
    /// Held while the node joins, so that it joins once.
    joining: Mutex<()>,
    /// The term of the last message of a leader's, and whose it was.
    leader: std::sync::Mutex<Option<(u64, u64)>>,
    overview: watch::Sender<Arc<Overview>>,
    /// Set when the log is replayed and reads may be served.
    recovered: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
    /// What stands still, so that this node does not lead.
    stalled: watch::Sender<Option<Stall>>,
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
    /// Starts this node's part: at once if its disk has joined a cluster, else when it is told to.
    pub async fn start(parts: Parts, options: RaftOptions) -> Result<Raft, StartError> {
        let Parts { data_dir, store, log, space, hub, metrics } = parts;
        recovery::check_positions(&store, &log)?;
        let clock = Arc::new(ClusterClock::new(store.cluster_time_ms()));
        let applier = Applier::start(apply::Parts {
            store: store.clone(),
            log: log.clone(),
            clock: clock.clone(),
            hub,
            metrics: metrics.clone(),
        })?;
        let identity = data_dir
            .identity()
            .ok_or_else(|| StartError::Inconsistent("the data directory has no identity yet".into()))?;
        let overview = Overview::unjoined(identity.node_id);
        let raft = Raft {
            inner: Arc::new(Inner {
                options,
                data_dir,
                store,
                log,
                space,
                metrics,
                clock,
                applier,
                lags: Lags::default(),
                checkpoints: Arc::default(),
                snapshots: Snapshots::default(),
                hashing: Arc::new(Semaphore::new(1)),
                core: OnceLock::new(),
                set_aside: OnceLock::new(),
                joining: Mutex::new(()),
                leader: std::sync::Mutex::default(),
                overview: watch::Sender::new(Arc::new(overview)),
                recovered: watch::Sender::new(false),
                stopping: watch::Sender::new(false),
                stalled: watch::Sender::new(None),
            }),
        };
        if identity.cluster_id != 0 {
            raft.start_core(identity).await?;
        }
        Ok(raft)
    }

    async fn start_core(&self, disk: data_dir::Identity) -> Result<(), StartError> {
        let inner = &self.inner;
        let mut log_store = LogStore::new(inner.log.clone());
        let mut state_machine = StateMachine::new(
            inner.store.clone(),
            inner.applier.clone(),
            inner.checkpoints.clone(),
            inner.snapshots.clone(),
        );
        if self.sets_aside(&disk, &mut log_store, &mut state_machine).await? {
            return Ok(());
        }
        let data_dir::Identity { node_id, cluster_id, incarnation } = disk;
        let identity = Identity { cluster_id, incarnation, node_id };
        let commit_wanted = Arc::new(Notify::new());
        let connections = Connections::new(identity, &inner.options.advertise_peer);
        let networks = PeerNetworks {
            identity,
            append_timeout: self.election_timeout(),
            connections: connections.clone(),
            log: inner.log.clone(),
            commit_wanted: commit_wanted.clone(),
            clock: inner.clock.clone(),
            metrics: inner.metrics.clone(),
            unreachable: Arc::default(),
        };
        let raft = OpenRaft::new(
            identity.node_id,
            Arc::new(openraft_config(&inner.options)?),
            networks,
            log_store,
            state_machine.clone(),
        )
        .await
        .map_err(|error| StartError::Raft(error.to_string()))?;
        state_machine.serve_snapshots();

        let (proposer, forwarder) = (self.clone(), self.clone());
        let leadership = Leadership::new(
            raft.clone(),
            inner.log.clone(),
            identity,
            connections.clone(),
            self.inner.stalled.subscribe(),
            self.election_timeout(),
        );
        let core = Core {
            identity,
            proposer: Gather::start(move |batch| proposer::commit(proposer.clone(), batch)),
            forwarder: Gather::start(move |batch| proposer::forward(forwarder.clone(), batch)),
            leader_index: ReadIndex::start(leadership),
            follower_index: ReadIndex::start(AskLeader(self.clone())),
            commit_wanted,
            changing: Mutex::new(()),
            connections,
            raft,
        };
        if inner.core.set(core).is_err() {
            return Err(StartError::Raft("it was started twice".into()));
        }
        status::follow(self.clone());
        watchdog::start(self.clone());
        tokio::spawn(connections::keep(self.clone()));
        tokio::spawn(lag::follow(self.clone()));
        tokio::spawn(election::stand_again(self.clone()));
        recovery::follow(self.clone());
        housekeeping::start(self.clone());
        crate::duties::start(self.clone());
        Ok(())
    }

    fn core(&self) -> Result<&Core, RequestError> {
        self.inner.core.get().ok_or_else(|| match self.status_only() {
            Some(reason) => RequestError::StatusOnly(reason.clone()),
            None => RequestError::Unjoined,
        })
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
            let core = self.core()?;
            let attempt = if self.overview().is_leader() { &core.proposer } else { &core.forwarder };
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

    /// Returns once this node has applied everything that was committed when the call came in.
    pub async fn read_barrier(&self, deadline: Instant) -> Result<(), RequestError> {
        let index = loop {
            let core = self.core()?;
            let readers = if self.overview().is_leader() { &core.leader_index } else { &core.follower_index };
            match readers.get(deadline).await {
                Ok(index) => break index,
                Err(error) if error.is_not_proposed() => self.pause(error, deadline).await?,
                Err(error) => return Err(error),
            }
        };
        self.wait_applied(index, deadline).await
    }

    /// Confirms leadership and answers the index that a read on a follower must wait for, as the leader
    /// only.
    pub async fn read_index_here(&self, deadline: Instant) -> Result<u64, RequestError> {
        if !self.overview().is_leader() {
            return Err(self.not_leader());
        }
        let core = self.core()?;
        let index = core.leader_index.get(deadline).await?;
        core.commit_wanted.notify_waiters();
        Ok(index)
    }

    /// Whether this node has, within an election timeout, heard from the leader and its quorum again.
    pub async fn confirm(&self) -> bool {
        self.read_barrier(Instant::now() + self.election_timeout()).await.is_ok()
    }

    /// Returns once this node may serve what it holds: a read from its own state that came after
    /// this can't be older than one from before the node was restarted.
    pub async fn recovered(&self, deadline: Instant) -> Result<(), RequestError> {
        if *self.inner.recovered.borrow() {
            return Ok(());
        }
        self.core()?;
        let mut recovered = self.inner.recovered.subscribe();
        match timeout_at(deadline, recovered.wait_for(|recovered| *recovered)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(RequestError::NoLeader),
        }
    }

    async fn wait_applied(&self, index: u64, deadline: Instant) -> Result<(), RequestError> {
        let mut applied = self.inner.applier.applied();
        if *applied.borrow() > index {
            return Ok(());
        }
        match timeout_at(deadline, applied.wait_for(|next| *next > index)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(RequestError::ShuttingDown),
            Err(_) => Err(RequestError::Deadline { outcome_unknown: false }),
        }
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

    /// Hands leadership over, if this node holds it and another voter can take it; returns when
    /// that is done, or when the time is up.
    pub async fn hand_over(&self, within: Duration) {
        if self.overview().is_leader() {
            match timeout(within, self.transfer_leader(0)).await {
                Ok(Ok(to)) => tracing::info!(to = format!("{to:016x}"), "leadership handed over"),
                Ok(Err(error)) => tracing::info!(%error, "leadership not handed over"),
                Err(_) => tracing::warn!("leadership not handed over in time"),
            }
        }
    }

    /// Waits until all writes that came to this node, from members too, are answered, or the time is up: one
    /// that it took as the leader it answers when the next leader has committed it.
    pub async fn settle(&self, within: Duration) {
        let Ok(core) = self.core() else { return };
        let answered = async { tokio::join!(core.proposer.idle(), core.forwarder.idle()) };
        if timeout(within, answered).await.is_err() {
            tracing::warn!("some writes were not answered in time");
        }
    }

    /// From now on nobody waits for a leader here.
    pub fn stop_waiting(&self) {
        self.inner.stopping.send_replace(true);
    }

    /// Stops taking part in consensus, and flushes the store so that the next start is quick.
    pub async fn shutdown(&self) {
        self.stop_waiting();
        if let Some(core) = self.inner.core.get()
            && let Err(error) = core.raft.shutdown().await
        {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
        let store = self.inner.store.clone();
        match tokio::task::spawn_blocking(move || store.flush()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the store was not flushed"),
            Err(error) => tracing::warn!(%error, "the store was not flushed"),
        }
    }

    /// The address this node tells others.
    fn address(&self) -> Address {
        let RaftOptions { advertise_peer, advertise_client, .. } = &self.inner.options;
        Address { peer: advertise_peer.clone(), client: advertise_client.clone() }
    }
}

/// Confirms as a follower: it asks the leader for the index.
struct AskLeader(Raft);

impl Confirm for AskLeader {
    async fn confirm(&mut self) -> Result<u64, RequestError> {
        let (mut client, envelope) = self.0.leader_client()?;
        let limit = self.0.election_timeout();
        let mut request = tonic::Request::new(peer::ReadIndexRequest { envelope });
        request.set_timeout(limit);
        match timeout(limit, client.read_index(request)).await {
            Ok(Ok(response)) => Ok(response.into_inner().index),
            // A read can be asked again whatever became of it.
            Ok(Err(_)) | Err(_) => Err(RequestError::NoLeader),
        }
    }
}

fn openraft_config(options: &RaftOptions) -> Result<openraft::Config, StartError> {
    let config = openraft::Config {
        cluster_name: "kvorum".into(),
        election_timeout_max: options.election_timeout_ms,
        election_timeout_min: options.election_timeout_ms / 2,
        heartbeat_interval: options.heartbeat_interval_ms,
        // The log is purged by bytes, see `housekeeping`.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // Only a purged log makes a snapshot necessary, however far a follower is behind.
        replication_lag_threshold: u64::MAX,
        removed_leader_step_down: STEP_DOWN_DELAY,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        ..openraft::Config::default()
    };
    config.validate().map_err(|error| {
        StartError::Raft(format!("--election-timeout-ms and --heartbeat-interval-ms do not fit: {error}"))
    })
}

/// Why consensus could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Log and state do not belong together.
    #[error(
        "{0}; this member's disk can't be trusted: remove the member, empty its data directory and add it again"
    )]
    Inconsistent(String),
    /// openraft refused.
    #[error("start raft: {0}")]
    Raft(String),
    /// The state could not be read.
    #[error("start raft: {0}")]
    Io(#[from] std::io::Error),
}
