//! The metrics by what they are about.

use std::time::Duration;

use kvorum_proto::admin::v1 as admin;
use kvorum_store::Store;
use prometheus::{Counter, Gauge, Histogram, IntCounter, IntGauge, IntGaugeVec};

use super::make::{Make, buckets, disk_buckets, size_buckets};

/// The raft group as this node sees it.
pub struct RaftMetrics {
    /// 1 while a leader is known.
    pub has_leader: IntGauge,
    /// 1 while this node leads.
    pub is_leader: IntGauge,
    /// The current term.
    pub term: IntGauge,
    /// How often another leader was seen.
    pub leader_changes: IntCounter,
    /// The last committed log index.
    pub committed_index: IntGauge,
    /// The last applied log index.
    pub applied_index: IntGauge,
    /// By peer: bytes of log it still has to be sent. The leader's view only.
    pub peer_lag_bytes: IntGaugeVec,
    /// By peer: entries it still has to acknowledge. The leader's view only.
    pub peer_lag_entries: IntGaugeVec,
    pub(super) proposals_failed: IntCounter,
    pub(super) batch_commands: Histogram,
    pub(super) batch_bytes: Histogram,
}

impl RaftMetrics {
    pub(super) fn new(make: &Make) -> Self {
        RaftMetrics {
            has_leader: make.gauge("kvorum_raft_has_leader", "1 while this node knows a leader."),
            is_leader: make.gauge("kvorum_raft_is_leader", "1 while this node is the leader."),
            term: make.gauge("kvorum_raft_term", "The current term."),
            leader_changes: make.counter("kvorum_raft_leader_changes_total", "How often this node saw another leader."),
            committed_index: make.gauge("kvorum_raft_committed_index", "The last committed log index this node knows."),
            applied_index: make.gauge("kvorum_raft_applied_index", "The last log index applied to the store."),
            peer_lag_bytes: make.gauge_vec(
                "kvorum_raft_peer_lag_bytes",
                "Bytes of log a peer has not acknowledged yet, by the peer's node id; set on the leader only.",
                &["peer"],
            ),
            peer_lag_entries: make.gauge_vec(
                "kvorum_raft_peer_lag_entries",
                "Log entries a peer has not acknowledged yet, by the peer's node id; set on the leader only.",
                &["peer"],
            ),
            proposals_failed: make.counter(
                "kvorum_raft_proposals_failed_total",
                "Commands proposed by this node that failed or whose outcome is unknown.",
            ),
            batch_commands: make.histogram("kvorum_raft_batch_commands", "Commands proposed in one log entry.", size_buckets()),
            batch_bytes: make.histogram("kvorum_raft_batch_bytes", "Bytes of one proposed log entry.", buckets(64.0, 4.0, 9)),
        }
    }

    /// Only the leader's status names peers; elsewhere, and for members that left, nothing stays.
    pub(super) fn observe_peers(&self, status: &admin::StatusResponse) {
        self.peer_lag_bytes.reset();
        self.peer_lag_entries.reset();
        let last = status.last_log.map_or(0, |id| id.index);
        for peer in &status.progress {
            let id = format!("{:016x}", peer.node_id);
            let behind = last.saturating_sub(peer.matched.map_or(0, |id| id.index));
            self.peer_lag_bytes.with_label_values(&[&id]).set(peer.bytes_behind as i64);
            self.peer_lag_entries.with_label_values(&[&id]).set(behind as i64);
        }
    }
}

/// The raft log.
pub struct LogMetrics {
    pub(super) append_seconds: Histogram,
    pub(super) fsync_seconds: Histogram,
    pub(super) append_bytes: IntCounter,
    pub(super) append_entries: Histogram,
    /// Bytes of the log on disk.
    pub bytes: IntGauge,
    /// How long the log has waited for its disk.
    pub stall_seconds: Gauge,
}

impl LogMetrics {
    pub(super) fn new(make: &Make) -> Self {
        LogMetrics {
            append_seconds: make.histogram(
                "kvorum_log_append_seconds",
                "Time to write one frame of the log, without the fsync.",
                disk_buckets(),
            ),
            fsync_seconds: make.histogram(
                "kvorum_log_fsync_seconds",
                "Time of one fsync of the log.",
                disk_buckets(),
            ),
            append_bytes: make.counter("kvorum_log_append_bytes_total", "Bytes written to the log."),
            append_entries: make.histogram(
                "kvorum_log_append_entries",
                "Entries in one frame of the log.",
                size_buckets(),
            ),
            bytes: make.gauge("kvorum_log_bytes", "Bytes of the log on disk."),
            stall_seconds: make.seconds(
                "kvorum_log_stall_seconds",
                "How long the oldest write to the log has waited without any reaching the disk; 0: none waits.",
            ),
        }
    }
}

/// Watches.
pub struct WatchMetrics {
    /// Open watches.
    pub watchers: IntGauge,
    /// Watches that read from disk until they have caught up.
    pub lagging: IntGauge,
    /// Events sent.
    pub events: IntCounter,
}

impl WatchMetrics {
    pub(super) fn new(make: &Make) -> Self {
        WatchMetrics {
            watchers: make.gauge("kvorum_watch_watchers", "Open watches."),
            lagging: make
                .gauge("kvorum_watch_lagging_watchers", "Watches that fell behind and read from disk."),
            events: make.counter("kvorum_watch_events_total", "Events sent to watches."),
        }
    }
}

/// Snapshots between members and to the administrator.
pub struct SnapshotMetrics {
    sent: IntCounter,
    received: IntCounter,
    failed: IntCounter,
    sent_bytes: IntCounter,
    received_bytes: IntCounter,
    send_seconds: Histogram,
    receive_seconds: Histogram,
}

impl SnapshotMetrics {
    pub(super) fn new(make: &Make) -> Self {
        let seconds = || buckets(0.01, 2.0, 16);
        SnapshotMetrics {
            sent: make.counter("kvorum_snapshots_sent_total", "Snapshots sent to peers."),
            received: make.counter("kvorum_snapshots_received_total", "Snapshots received and installed."),
            failed: make
                .counter("kvorum_snapshots_failed_total", "Snapshots that broke off, in either direction."),
            sent_bytes: make.counter("kvorum_snapshot_sent_bytes_total", "Bytes of snapshots sent."),
            received_bytes: make
                .counter("kvorum_snapshot_received_bytes_total", "Bytes of snapshots received."),
            send_seconds: make.histogram(
                "kvorum_snapshot_send_seconds",
                "Time to send a snapshot.",
                seconds(),
            ),
            receive_seconds: make.histogram(
                "kvorum_snapshot_receive_seconds",
                "Time to receive and install a snapshot.",
                seconds(),
            ),
        }
    }

    /// A snapshot was sent.
    pub fn sent(&self, bytes: u64, took: Duration) {
        self.sent.inc();
        self.sent_bytes.inc_by(bytes);
        self.send_seconds.observe(took.as_secs_f64());
    }

    /// A snapshot was received and installed.
    pub fn received(&self, bytes: u64, took: Duration) {
        self.received.inc();
        self.received_bytes.inc_by(bytes);
        self.receive_seconds.observe(took.as_secs_f64());
    }

    /// A snapshot broke off.
    pub fn failed(&self) {
        self.failed.inc();
    }
}

/// The store.
pub struct StoreMetrics {
    revision: IntGauge,
    compacted_revision: IntGauge,
    keys: IntGauge,
    logical_bytes: IntGauge,
    quota_bytes: IntGauge,
    disk_bytes: IntGauge,
    cache_bytes: IntGauge,
    memtable_bytes: IntGauge,
    pending_compaction_bytes: IntGauge,
    write_stalled: IntGauge,
    space_alarms: IntGauge,
    corrupt_alarms: IntGauge,
    /// A pass over all keys was compared to its end.
    pub compare_passes: IntCounter,
    /// Members were found to differ.
    pub differences: IntCounter,
}

impl StoreMetrics {
    pub(super) fn new(make: &Make) -> Self {
        StoreMetrics {
            revision: make.gauge("kvorum_store_revision", "The store's revision."),
            compacted_revision: make
                .gauge("kvorum_store_compacted_revision", "The oldest revision that can be read."),
            keys: make.gauge("kvorum_store_keys", "Keys that exist."),
            logical_bytes: make.gauge(
                "kvorum_store_logical_bytes",
                "Bytes of keys, values and history, as the quota counts them.",
            ),
            quota_bytes: make.gauge("kvorum_store_quota_bytes", "The quota; 0: none."),
            disk_bytes: make.gauge("kvorum_store_disk_bytes", "Bytes of the store on disk."),
            cache_bytes: make.gauge("kvorum_store_cache_bytes", "Memory in use by the block cache."),
            memtable_bytes: make.gauge("kvorum_store_memtable_bytes", "Memory in use by write buffers."),
            pending_compaction_bytes: make
                .gauge("kvorum_store_pending_compaction_bytes", "Bytes that RocksDB has yet to compact."),
            write_stalled: make
                .gauge("kvorum_store_write_stalled", "1 while RocksDB holds up or slows down writes."),
            space_alarms: make.gauge(
                "kvorum_store_space_alarms",
                "Members whose disk is nearly full; while there is any, writes are refused.",
            ),
            corrupt_alarms: make.gauge(
                "kvorum_store_corrupt_alarms",
                "Members whose data differs from what a majority holds.",
            ),
            compare_passes: make.counter(
                "kvorum_store_compare_passes_total",
                "Passes over all keys in which this leader has compared what members hold.",
            ),
            differences: make
                .counter("kvorum_store_differences_total", "Times that members were found to differ."),
        }
    }

    pub(super) fn observe(&self, store: &Store, status: &admin::StatusResponse) {
        let stats = store.stats();
        self.revision.set(status.revision as i64);
        self.compacted_revision.set(status.compacted_revision as i64);
        self.keys.set(status.keys as i64);
        self.logical_bytes.set(status.logical_bytes as i64);
        self.quota_bytes.set(status.quota_bytes as i64);
        self.space_alarms.set(store.space_alarms().len() as i64);
        self.corrupt_alarms.set(store.corrupt_alarms().len() as i64);
        self.disk_bytes.set(stats.disk_bytes as i64);
        self.cache_bytes.set(stats.cache_bytes as i64);
        self.memtable_bytes.set(stats.memtable_bytes as i64);
        self.pending_compaction_bytes.set(stats.pending_compaction_bytes as i64);
        self.write_stalled.set(i64::from(stats.writes_stopped || stats.delayed_write_rate > 0));
    }
}

pub(super) struct ProcessMetrics {
    resident_bytes: IntGauge,
    cpu_seconds: Counter,
    open_files: IntGauge,
}

impl ProcessMetrics {
    /// Under the names that every Prometheus client library uses.
    pub(super) fn new(make: &Make) -> Self {
        let name = "process_cpu_seconds_total";
        let cpu_seconds =
            Counter::new(name, "CPU time of the process, user and system.").expect("the name is valid");
        make.register(cpu_seconds.clone());
        ProcessMetrics {
            resident_bytes: make.gauge("process_resident_memory_bytes", "Resident memory of the process."),
            cpu_seconds,
            open_files: make.gauge("process_open_fds", "Open file descriptors."),
        }
    }

    /// Where there is no /proc, memory and files stay at zero.
    pub(super) fn observe(&self) {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        if let Some(pages) = statm.split(' ').nth(1).and_then(|pages| pages.parse::<i64>().ok()) {
            self.resident_bytes.set(pages * rustix::param::page_size() as i64);
        }
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let seconds = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
        // Two scrapes at once may each see the other's time: a counter must not go back.
        self.cpu_seconds.inc_by((seconds - self.cpu_seconds.get()).max(0.0));
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            self.open_files.set(files.count() as i64);
        }
    }
}
