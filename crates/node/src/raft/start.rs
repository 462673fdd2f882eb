//! Starts this node's part in consensus, and puts together what it consists of.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use kvorum_store::Store;
use kvorum_store::data_dir::{self, DataDir};
use kvorum_store::log::Log;
use kvorum_store::space::Space;
use kvorum_store::threads::Threads;
use tokio::sync::{Mutex, Notify, Semaphore, watch};

use super::apply::{self, Applier};
use super::clock::ClusterClock;
use super::connections::{self, Connections};
use super::contact::Contact;
use super::gather::Gather;
use super::identity::Identity;
use super::lag::Lags;
use super::leadership::Leadership;
use super::log_store::LogStore;
use super::network::{Acknowledged, PeerNetworks, Ways};
use super::options::RaftOptions;
use super::read_index::ReadIndex;
use super::reads::AskLeader;
use super::snapshot::places::Snapshots;
use super::state_machine::StateMachine;
use super::went_back::Doubt;
use super::{
    Core, Inner, OpenRaft, Raft, compare, election, housekeeping, leaderless, progress, propose, publish,
    recovery, watchdog,
};
use crate::blocking::Blocking;
use crate::metrics::Metrics;
use crate::net::dialer::Dialer;
use crate::observer::Observer;
use crate::place::Overview;
use crate::watch::WatchHub;

pub use super::options::StartError;

/// A leader that was removed stays until those who remain have heard that it was, then hands over.
const STEP_DOWN_DELAY: openraft::StepDownPolicy = openraft::StepDownPolicy::After(150);

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
    /// Reaches the other members.
    pub dialer: Dialer,
    /// Does what may wait for the disk.
    pub blocking: Blocking,
    /// Runs the apply worker.
    pub threads: Arc<dyn Threads>,
    /// Who looks on.
    pub observer: Option<Arc<dyn Observer>>,
}

impl Raft {
    /// Starts this node's part: at once if its disk has joined a cluster, else when it is told to.
    pub async fn start(parts: Parts, options: RaftOptions) -> Result<Raft, StartError> {
        let Parts { data_dir, store, log, space, hub, metrics, dialer, blocking, threads, observer } = parts;
        recovery::check_positions(&store, &log)?;
        let clock = Arc::new(ClusterClock::new(store.cluster_time_ms()));
        let applied_by = apply::Parts {
            store: store.clone(),
            log: log.clone(),
            clock: clock.clone(),
            hub,
            metrics: metrics.clone(),
            observer: observer.clone(),
        };
        let applier = Applier::start(&*threads, applied_by)?;
        let identity = data_dir
            .identity()
            .ok_or_else(|| StartError::Inconsistent("the data directory has no identity yet".into()))?;
        let overview = Overview::unjoined(identity.node_id);
        let closed = AtomicBool::new(data_dir.is_closed());
        let raft = Raft {
            inner: Arc::new(Inner {
                options,
                dialer,
                blocking: blocking.clone(),
                data_dir,
                store,
                log,
                space,
                metrics,
                observer,
                clock,
                applier,
                lags: Lags::default(),
                snapshots: Snapshots::new(blocking.clone()),
                disk: watch::Sender::new(None),
                hashing: Arc::new(Semaphore::new(1)),
                core: OnceLock::new(),
                set_aside: OnceLock::new(),
                closed,
                joining: Mutex::new(()),
                contact: Contact::default(),
                doubt: Doubt::default(),
                overview: watch::Sender::new(Arc::new(overview)),
                recovered: watch::Sender::new(false),
                stopping: watch::Sender::new(false),
                stalled: watch::Sender::new(None),
                restart: watch::Sender::new(false),
            }),
        };
        if let Err(error) = raft.look_at_disk().await {
            tracing::warn!(%error, "the space on disk could not be read");
        }
        if identity.cluster_id != 0 {
            raft.start_core(identity).await?;
        }
        Ok(raft)
    }

    pub(super) async fn start_core(&self, disk: data_dir::Identity) -> Result<(), StartError> {
        let inner = &self.inner;
        let append_bytes_max = inner.options.limits.append_bytes_max;
        let (log, observer) = (inner.log.clone(), inner.observer.clone());
        let mut log_store = LogStore::new(log, inner.blocking.clone(), append_bytes_max, observer);
        let mut state_machine = StateMachine::new(
            inner.store.clone(),
            inner.applier.clone(),
            inner.snapshots.clone(),
            inner.blocking.clone(),
        );
        if self.sets_aside(&disk, &mut log_store, &mut state_machine).await? {
            return Ok(());
        }
        let data_dir::Identity { node_id, cluster_id, incarnation } = disk;
        let identity = Identity { cluster_id, incarnation, node_id };
        let commit_wanted = Arc::new(Notify::new());
        let connections = Connections::new(inner.dialer.clone(), identity, &inner.options.advertise_peer);
        let networks = PeerNetworks::new(Ways {
            dialer: inner.dialer.clone(),
            blocking: inner.blocking.clone(),
            identity,
            append_timeout: self.election_timeout(),
            connections: connections.clone(),
            log: inner.log.clone(),
            snapshot_sent: inner.snapshots.tell_sent(),
            commit_wanted: commit_wanted.clone(),
            clock: inner.clock.clone(),
            metrics: inner.metrics.clone(),
            acknowledged: Acknowledged::default(),
            unreachable: std::sync::Mutex::default(),
        });
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

        let (proposer, forwarder) = (self.downgrade(), self.downgrade());
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
            proposer: Gather::start(move |batch| propose::commit(proposer.clone(), batch)),
            forwarder: Gather::start(move |batch| propose::forward(forwarder.clone(), batch)),
            leader_index: ReadIndex::start(leadership),
            follower_index: ReadIndex::start(AskLeader(self.downgrade())),
            commit_wanted,
            changing: Mutex::new(()),
            connections: connections.clone(),
            raft,
        };
        if inner.core.set(core).is_err() {
            return Err(StartError::Raft("it was started twice".into()));
        }
        publish::follow(self.clone());
        watchdog::start(self.clone());
        let (overview, stopping) = (self.watch_overview(), self.watch_stopping());
        tokio::spawn(connections::keep(connections, overview, stopping));
        tokio::spawn(progress::follow(self.clone()));
        tokio::spawn(compare::follow(self.clone()));
        tokio::spawn(election::stand_again(self.clone()));
        tokio::spawn(election::leave_strangers(self.clone()));
        tokio::spawn(leaderless::tell(self.clone()));
        recovery::follow(self.clone());
        housekeeping::start(self.clone());
        Ok(())
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
