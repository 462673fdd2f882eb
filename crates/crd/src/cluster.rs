//! `KvCluster` and its spec.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::access::{Access, Auth, NEEDS_MODE, NEEDS_TLS, TLS_STAYS, access_schema};
use crate::pod::Pod;
use crate::service::Service;
use crate::status::KvClusterStatus;
use crate::storage::Storage;
use crate::tls::{NetworkPolicy, Tls};

/// A size may be larger than before, or as large as every volume already is.
const SIZE_GROWS: &str = "!has(self.spec.storage) || !has(oldSelf.spec.storage) || \
    !has(self.spec.storage.size) || !has(oldSelf.spec.storage.size) || \
    quantity(string(self.spec.storage.size)).compareTo(quantity(string(oldSelf.spec.storage.size))) >= 0 || \
    (has(self.status) && has(self.status.volumeSize) && \
    quantity(string(self.spec.storage.size)).compareTo(quantity(self.status.volumeSize)) >= 0)";

/// A replicated key-value store.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "kvorum.io",
    version = "v1alpha1",
    kind = "KvCluster",
    plural = "kvclusters",
    shortname = "kvc",
    category = "all",
    namespaced,
    status = "KvClusterStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "A strongly consistent, replicated key-value store.",
    scale(
        spec_replicas_path = ".spec.members",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Members", type_ = "integer", json_path = ".spec.members"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyMembers"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new(
        "size(self.metadata.name) <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"
    )
    .message(
        "metadata.name must be at most 40 lower-case letters, digits and '-', and begin with a letter: the names \
         of pods and Services are made of it"
    ),
    validation = Rule::new(SIZE_GROWS).field_path(".spec.storage.size").message(
        "spec.storage.size cannot shrink; where a larger one cannot be had, it can go back to status.volumeSize, the size \
         of the smallest volume"
    ),
    validation = Rule::new(NEEDS_TLS).field_path(".spec.auth.mode").message(
        "spec.auth.mode: Required, or Observe, needs spec.tls.mode: Required: on a plain connection nobody can prove who he is"
    ),
    validation = Rule::new(NEEDS_MODE).field_path(".spec.access").message(
        "spec.access needs spec.tls.mode: Required, or spec.auth.mode: Disabled while it is to be declared without counting \
         yet"
    ),
    validation = Rule::new(TLS_STAYS).field_path(".spec.tls.mode").message(
        "rights count in this cluster, and need spec.tls.mode: Required; say spec.auth.mode: Disabled first"
    ),
)]
#[serde(rename_all = "camelCase")]
pub struct KvClusterSpec {
    /// How many members: 1, 3, 5 or 7. An even number is taken, but tolerates no more failures than
    /// one member less.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 7))]
    pub members: i32,
    /// The members' image. Without it: that of the operator on the day the cluster was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The members' disks.
    #[serde(default)]
    pub storage: Storage,
    /// Everything that is shaped as in a PodSpec.
    #[serde(default)]
    pub pod: Pod,
    /// The nodes' flags. They change by a rolling restart.
    #[serde(default)]
    pub node: Node,
    /// How clients reach the members.
    #[serde(default)]
    pub service: Service,
    /// Whether the members' ports speak TLS.
    #[serde(default)]
    pub tls: Tls,
    /// Whether it counts who somebody is and what he may do.
    #[serde(default)]
    pub auth: Auth,
    /// Who may do what. All of it is one declaration: whoever is not in it any more may do nothing by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "access_schema")]
    pub access: Vec<Access>,
    /// From where members are reached, on networks that keep to that.
    #[serde(default)]
    pub network_policy: NetworkPolicy,
    /// What scrapes the members.
    #[serde(default)]
    pub metrics: Metrics,
    /// The operator only observes.
    #[serde(default)]
    pub paused: bool,
}

/// The nodes' flags.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    /// Milliseconds without a leader after which a member stands for election, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 60000))]
    pub election_timeout_ms: Option<i64>,
    /// Milliseconds between the leader's heartbeats; at most a quarter of the election timeout.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 15000))]
    pub heartbeat_interval_ms: Option<i64>,
    /// How long history is kept, such as 30m or 1h; "0": for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_compaction_retention: Option<String>,
    /// The largest request, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 8388608))]
    pub request_bytes_max: Option<i64>,
    /// Memory for caches and write buffers, in bytes. The pod's memory limit must fit it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 8388608))]
    pub cache_bytes: Option<i64>,
    /// Refuse writes beyond so many bytes of keys, values and history; 0: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub quota_bytes: Option<i64>,
    /// Raft log kept for members that were away, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub log_retain_bytes: Option<i64>,
    /// How the log is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<LogFormat>,
    /// What is logged: error, warn, info, debug, trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// Of which calls a line is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audit>,
}

/// Of which calls a node writes a line of JSON to standard output: who did what, and what came of it.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Audit {
    /// Of none. It is not called `off` as the node's flag is: that is no text in YAML.
    Disabled,
    /// Of what changes keys, users, rights or the cluster, of log-ins and snapshots.
    Writes,
    /// Of what reads, too.
    All,
}

/// How a node's log is written.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What scrapes the members.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metrics {
    /// Make a PodMonitor for the Prometheus operator. Where the operator's chart made one for the members
    /// of all clusters, another one would have them scraped twice.
    pub pod_monitor: bool,
}

fn three() -> i32 {
    3
}
