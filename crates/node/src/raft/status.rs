//! What this node says of itself.

use kvorum_proto::admin::v1 as admin;
use kvorum_store::entry::FORMAT_VERSION;
use kvorum_store::{ReadError, Store};
use kvorum_tls::Mode;
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Raft;
use super::types::{wire_log_id, wire_membership};
use crate::error::RequestError;
use crate::metrics::TlsMetrics;
use crate::net::tls::NodeTls;
use crate::place::{Positions, Stall, StatusOnly};

impl Raft {
    /// Positions in this node's log, now.
    pub fn positions(&self) -> Positions {
        let log = self.inner.log.state();
        let metrics = self.inner.core.get().map(|core| core.raft.data_metrics());
        let committed = metrics.and_then(|metrics| metrics.borrow_watched().cluster_committed);
        Positions {
            applied: self.inner.store.applied().map_or(0, |id| id.index),
            committed: committed.map_or(0, |id| id.index()),
            last_log: log.last.map_or(0, |id| id.index),
        }
    }

    /// Everything this node knows of itself, for `admin.v1.Status`; the space on disk is that of the last look.
    pub fn status(&self) -> admin::StatusResponse {
        let inner = &self.inner;
        let auth = inner.store.auth();
        let (overview, store, log) = (self.overview(), inner.store.stats(), inner.log.state());
        let metrics = inner.core.get().map(|core| core.raft.metrics().borrow_watched().clone());
        let space = *inner.disk.borrow();
        let log_id = |id: kvorum_store::entry::LogId| admin::LogId { term: id.term, index: id.index };
        admin::StatusResponse {
            node_id: overview.node_id,
            cluster_id: overview.cluster_id,
            incarnation: overview.incarnation,
            state: overview.state.into(),
            term: overview.term,
            leader_id: overview.leader.as_ref().map_or(0, |leader| leader.node_id),
            committed: match &metrics {
                Some(metrics) => metrics.cluster_committed.as_ref().map(wire_log_id),
                None => log.committed.map(log_id),
            },
            applied: inner.store.applied().map(log_id),
            last_log: log.last.map(log_id),
            membership: metrics
                .as_ref()
                .map(|metrics| &metrics.membership_config)
                .or_else(|| inner.set_aside.get().map(|aside| &aside.membership))
                .map(|stored| wire_membership(stored.membership(), stored.log_id().as_ref())),
            progress: metrics.as_ref().map(|metrics| self.progress(metrics)).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").into(),
            format_version_max: FORMAT_VERSION.into(),
            revision: inner.store.revision(),
            compacted_revision: inner.store.compacted(),
            keys: inner.store.keys(),
            store_bytes: store.disk_bytes,
            log_bytes: inner.log.bytes(),
            disk_free_bytes: space.map_or(0, |space| space.free_bytes),
            disk_bytes: space.map_or(0, |space| space.total_bytes),
            alarms: self.alarms(),
            peer_address: inner.options.advertise_peer.clone(),
            client_address: inner.options.advertise_client.clone(),
            voter: overview.voter,
            logical_bytes: inner.store.logical_bytes(),
            quota_bytes: inner.store.quota_bytes(),
            hash: 0,
            status_only: overview.status_only.as_ref().map(ToString::to_string).unwrap_or_default(),
            confirmed: false,
            feature_level: inner.store.feature_level(),
            feature_level_max: inner.options.feature_level_max,
            cluster_time_ms: self.cluster_now_ms(),
            founding: self.founding(),
            closed: self.is_closed(),
            corrupt_node_ids: inner.store.corrupt_alarms(),
            tls: inner.dialer.tls().map(|tls| tls_status(tls, &inner.metrics.tls)),
            disk_went_back: matches!(overview.status_only, Some(StatusOnly::WentBack { .. })),
            auth_revision: auth.revision(),
            auth_hash: auth.hash(),
            // Who takes tokens knows that.
            unknown_token_key: false,
            let_pass: Vec::new(),
        }
    }

    /// The hash of the records visible at a revision. It reads the whole store, off the runtime; callers
    /// wait for one another.
    pub async fn hash(&self, revision: u64) -> Result<u64, RequestError> {
        let turn = self.inner.hashing.clone().acquire_owned().await;
        let turn = turn.map_err(|_| RequestError::ShuttingDown)?;
        self.read_in_turn(turn, move |store| store.hash(revision)).await
    }

    /// Reads much of the store, off the runtime. The turn ends with the reading, which goes on when the caller is
    /// gone.
    pub(super) async fn read_in_turn<T: Send + 'static>(
        &self,
        turn: OwnedSemaphorePermit,
        read: impl FnOnce(&Store) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, RequestError> {
        let store = self.inner.store.clone();
        let read = self.inner.blocking.run(move || {
            let read = read(&store);
            drop(turn);
            read
        });
        read.await.map_err(|_| RequestError::ShuttingDown)?.map_err(RequestError::from)
    }

    /// The alarms that stand on this node's account.
    pub fn alarms(&self) -> Vec<String> {
        let node_id = self.overview().node_id;
        let no_space = self.inner.store.space_alarms().contains(&node_id).then_some("NO_SPACE");
        let checkpoint = self.inner.snapshots.failures.failing(Instant::now()).then_some("CHECKPOINT_FAILED");
        let stalled = self.stalled().map(Stall::alarm);
        [no_space, checkpoint, stalled].into_iter().flatten().map(str::to_owned).collect()
    }
}

fn tls_status(tls: &NodeTls, metrics: &TlsMetrics) -> admin::Tls {
    let (clients, peers) = (metrics.open("client"), metrics.open("peer"));
    let loaded = tls.member.current();
    let mode = match tls.mode {
        Mode::Optional => admin::tls::Mode::Optional,
        Mode::Required => admin::tls::Mode::Required,
    };
    admin::Tls {
        mode: mode.into(),
        bundle_sha256: loaded.bundle_fingerprint().to_vec().into(),
        leaf_sha256: loaded.leaf_fingerprint().to_vec().into(),
        not_after: loaded.facts().not_after,
        plain_clients: clients.plain,
        plain_peers: peers.plain,
        old_ca_clients: clients.old_ca,
        old_ca_peers: metrics.old_members(),
    }
}
