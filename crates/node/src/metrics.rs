//! What Prometheus is told. Each metric has its home here, with name and help; whoever measures
//! calls a method and knows neither.
//!
//! Cardinality is bounded: the only labels are gRPC methods, gRPC codes, peers' node ids, and a few words of ours.

mod auth;
mod groups;
mod make;
mod tls;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kvorum_proto::admin::v1 as admin;
use kvorum_store::Store;
use kvorum_store::log::LogObserver;
use prometheus::{
    Encoder as _, Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder,
};
use prost::Message as _;

use crate::place::Overview;
use groups::{ProcessMetrics, StoreMetrics};
use make::{Make, call_buckets, disk_buckets, size_buckets};

pub use auth::{AuthMetrics, CheckResult};
pub use tls::{Held, TlsMetrics};

pub use groups::{LogMetrics, RaftMetrics, SnapshotMetrics, WatchMetrics};

/// gRPC has 17 status codes.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A status code as labels and lines name it.
pub fn code_name(code: tonic::Code) -> &'static str {
    CODES[code as usize]
}

/// All metrics of a node.
pub struct Metrics {
    registry: Registry,
    methods: HashMap<String, Arc<MethodMetrics>>,
    unknown_method: Arc<MethodMetrics>,
    /// The raft group as this node sees it.
    pub raft: RaftMetrics,
    /// The raft log.
    pub log: LogMetrics,
    /// Watches.
    pub watch: WatchMetrics,
    /// Snapshots.
    pub snapshots: SnapshotMetrics,
    /// Bytes that wait to be sent.
    pub send_budget: IntGauge,
    /// Bytes of requests, by port.
    pub receive_budget: IntGaugeVec,
    /// The store, and what members hold of it.
    pub store: StoreMetrics,
    apply_seconds: Histogram,
    apply_entries: Histogram,
    /// How long the store has made no progress with a run.
    pub apply_stall_seconds: Gauge,
    /// How long the raft core has not answered.
    pub core_stall_seconds: Gauge,
    expired: IntCounter,
    /// Users and rights.
    pub auth: AuthMetrics,
    /// Lines of the audit that nobody took.
    pub audit_dropped: IntCounter,
    /// TLS, and connections.
    pub tls: TlsMetrics,
    process: ProcessMetrics,
}

/// One gRPC method's counters. A code's counter is made when it first occurs.
pub struct MethodMetrics {
    requests: IntCounterVec,
    name: String,
    streams: bool,
    by_code: [OnceLock<IntCounter>; CODES.len()],
    seconds: Histogram,
}

impl MethodMetrics {
    /// `package.Service/Method`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it answers with a stream, which goes on after the call was answered.
    pub fn streams(&self) -> bool {
        self.streams
    }

    /// A call was answered, or given up, after so long.
    pub fn answered(&self, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
    }

    /// Counts a call that is over.
    pub fn ended(&self, code: tonic::Code) {
        let code = code as usize;
        self.by_code[code]
            .get_or_init(|| self.requests.with_label_values(&[self.name.as_str(), CODES[code]]))
            .inc();
    }
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Metrics {
        let make = Make(Registry::new());
        let requests = make.counter_vec(
            "kvorum_grpc_requests_total",
            "gRPC requests that are over, by method and status code; a stream counts when it ends.",
            &["method", "code"],
        );
        let seconds = make.histogram_vec(
            "kvorum_grpc_request_seconds",
            "Time from a gRPC request to its response; a stream counts when it is opened.",
            &["method"],
            call_buckets(),
        );
        let method = |Method { name, streams }: Method| {
            let seconds = seconds.with_label_values(&[name.as_str()]);
            let by_code = std::array::from_fn(|_| OnceLock::new());
            Arc::new(MethodMetrics { requests: requests.clone(), name, streams, by_code, seconds })
        };
        let methods = known_methods().map(|known| (format!("/{}", known.name), method(known))).collect();
        let build = make.gauge_vec(
            "kvorum_build_info",
            "Always 1; the labels say which build this is.",
            &["version"],
        );
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Metrics {
            methods,
            unknown_method: method(Method { name: "unknown".into(), streams: false }),
            raft: RaftMetrics::new(&make),
            log: LogMetrics::new(&make),
            watch: WatchMetrics::new(&make),
            snapshots: SnapshotMetrics::new(&make),
            send_budget: make.gauge(
                "kvorum_send_budget_bytes",
                "Bytes of answers that wait for their clients to take them, or that there is room for.",
            ),
            receive_budget: make.gauge_vec(
                "kvorum_receive_budget_bytes",
                "Bytes of requests that are being received or answered, by port.",
                &["port"],
            ),
            store: StoreMetrics::new(&make),
            apply_seconds: make.histogram(
                "kvorum_apply_seconds",
                "Time to apply one run of log entries to the store.",
                disk_buckets(),
            ),
            apply_entries: make.histogram(
                "kvorum_apply_entries",
                "Log entries applied in one run.",
                size_buckets(),
            ),
            apply_stall_seconds: make.seconds(
                "kvorum_apply_stall_seconds",
                "How long the store has made no progress with entries it is to apply; 0: it makes some.",
            ),
            core_stall_seconds: make.seconds(
                "kvorum_core_stall_seconds",
                "How long the raft core has not answered; 0: it does.",
            ),
            expired: make.counter(
                "kvorum_expired_keys_total",
                "Keys deleted because their TTL had passed, on the word of this node.",
            ),
            auth: AuthMetrics::new(&make),
            audit_dropped: make.counter(
                "kvorum_audit_dropped_total",
                "Lines of the audit that were lost, since whoever reads the standard output does not keep up.",
            ),
            tls: TlsMetrics::new(&make),
            process: ProcessMetrics::new(&make),
            registry: make.0,
        }
    }

    /// The counters of the method with this request path.
    pub fn method(&self, path: &str) -> &Arc<MethodMetrics> {
        self.methods.get(path).unwrap_or(&self.unknown_method)
    }

    /// A batch of commands was proposed as one log entry.
    pub fn proposed(&self, commands: usize, bytes: usize) {
        self.raft.batch_commands.observe(commands as f64);
        self.raft.batch_bytes.observe(bytes as f64);
    }

    /// So many commands were proposed and came to nothing, or to nobody knows what.
    pub fn proposals_failed(&self, commands: usize) {
        self.raft.proposals_failed.inc_by(commands as u64);
    }

    /// A run of entries was applied.
    pub fn applied(&self, took: Duration, entries: usize) {
        self.apply_seconds.observe(took.as_secs_f64());
        self.apply_entries.observe(entries as f64);
    }

    /// A snapshot was sent to a peer.
    pub fn snapshot_sent(&self, bytes: u64, took: Duration) {
        self.snapshots.sent(bytes, took);
    }

    /// A snapshot was received and installed.
    pub fn snapshot_received(&self, bytes: u64, took: Duration) {
        self.snapshots.received(bytes, took);
    }

    /// This node, as the leader, had so many keys expire.
    pub fn expired(&self, keys: u64) {
        self.expired.inc_by(keys);
    }

    /// This node's place in the cluster is another; `new_leader` when another leader was seen.
    pub fn place_changed(&self, overview: &Overview, new_leader: bool) {
        self.raft.has_leader.set(i64::from(overview.leader.is_some()));
        self.raft.is_leader.set(i64::from(overview.is_leader()));
        self.raft.term.set(overview.term as i64);
        if new_leader {
            self.raft.leader_changes.inc();
        }
    }

    /// Reads what is not counted as it happens. It may wait for the disk.
    pub fn observe(&self, store: &Store, status: &admin::StatusResponse) {
        let index = |id: Option<admin::LogId>| id.map_or(0, |id| id.index as i64);
        self.raft.committed_index.set(index(status.committed));
        self.raft.applied_index.set(index(status.applied));
        self.raft.observe_peers(status);
        self.log.bytes.set(status.log_bytes as i64);
        self.store.observe(store, status);
        self.auth.observe(store);
        self.process.observe();
    }

    /// Everything in Prometheus' text format.
    pub fn encode(&self) -> String {
        let mut text = Vec::new();
        // Writing to memory cannot fail, and the names were checked when they were registered.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

/// A method as it is declared.
struct Method {
    /// `package.Service/Method`.
    name: String,
    streams: bool,
}

/// Everything that is served.
fn known_methods() -> impl Iterator<Item = Method> {
    let sets = [kvorum_proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];
    let files = sets.into_iter().flat_map(|set| {
        prost_types::FileDescriptorSet::decode(set).expect("the descriptors were generated by the build").file
    });
    files.flat_map(|file| {
        let package = file.package().to_owned();
        file.service.into_iter().flat_map(move |service| {
            let prefix = format!("{package}.{}", service.name());
            service.method.into_iter().map(move |method| Method {
                name: format!("{prefix}/{}", method.name()),
                streams: method.server_streaming(),
            })
        })
    })
}

impl LogObserver for Metrics {
    fn synced(&self, bytes: usize, entries: usize, write: Duration, sync: Duration) {
        self.log.append_seconds.observe(write.as_secs_f64());
        self.log.fsync_seconds.observe(sync.as_secs_f64());
        self.log.append_bytes.inc_by(bytes as u64);
        self.log.append_entries.observe(entries as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every method that is served is counted under its name, an unknown one under `unknown`, so
    /// that callers cannot make up labels.
    #[test]
    fn methods_are_counted_by_name_and_code() {
        let metrics = Metrics::new();
        for (path, code) in [
            ("/kv.v1.Kv/Get", tonic::Code::Ok),
            ("/kv.v1.Kv/Get", tonic::Code::Unavailable),
            ("/made/Up", tonic::Code::Unimplemented),
        ] {
            let method = metrics.method(path);
            method.answered(Duration::from_millis(1));
            method.ended(code);
            assert!(!method.streams());
        }
        assert!(metrics.method("/kv.v1.Kv/Watch").streams());
        let text = metrics.encode();
        for line in [
            r#"kvorum_grpc_requests_total{code="OK",method="kv.v1.Kv/Get"} 1"#,
            r#"kvorum_grpc_requests_total{code="UNAVAILABLE",method="kv.v1.Kv/Get"} 1"#,
            r#"kvorum_grpc_requests_total{code="UNIMPLEMENTED",method="unknown"} 1"#,
            r#"kvorum_grpc_request_seconds_count{method="kv.v1.Kv/Get"} 2"#,
        ] {
            assert!(text.contains(line), "{line} is missing in {text}");
        }
    }
}
