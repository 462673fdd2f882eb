//! `KvCluster`, the resource: its fields, what the API server refuses, and its definition for charts.
//!
//! The rules are CEL in the definition, so that no webhook is needed; the tests run the same rules.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, CustomResourceExt as _, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The group of the resource, and the prefix of its annotations and labels.
pub const GROUP: &str = "kvorum.io";

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
    /// What scrapes the members.
    #[serde(default)]
    pub metrics: Metrics,
    /// The operator only observes.
    #[serde(default)]
    pub paused: bool,
}

/// The members' disks.
#[derive(JsonSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) >= 0",
        "message": "spec.storage.size cannot shrink",
    },
    {
        "rule": "has(self.storageClassName) == has(oldSelf.storageClassName) && \
                 (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
        "message": "spec.storage.storageClassName cannot change; make another cluster and move the data",
    },
]))]
pub struct Storage {
    /// The size of each disk. It can grow.
    #[schemars(schema_with = "size_schema")]
    pub size: Quantity,
    /// The class of the disks. Without it: the default class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// What becomes of a disk whose member is no longer wanted.
    pub when_scaled: Keep,
    /// What becomes of the disks when the KvCluster is deleted.
    pub when_deleted: Keep,
}

impl Default for Storage {
    fn default() -> Self {
        Storage {
            size: Quantity("10Gi".into()),
            storage_class_name: None,
            when_scaled: Keep::Delete,
            when_deleted: Keep::Retain,
        }
    }
}

/// What becomes of a disk.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Keep {
    /// It stays, with its data.
    #[default]
    Retain,
    /// It goes.
    Delete,
}

/// Everything that is shaped as in a PodSpec.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    /// CPU and memory of a member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Labels of the machines that members may run on.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Replaces the operator's own anti-affinity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Taints of machines that members tolerate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Replaces the operator's own spread over zones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// The members' priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// More labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// More annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// When to pull the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<String>,
    /// With what to pull the image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// The members' ServiceAccount. They need no rights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// More environment variables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Whether two members may share a machine where there are too few.
    pub anti_affinity: AntiAffinity,
}

/// Whether two members may share a machine.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum AntiAffinity {
    /// Where there are too few machines.
    #[default]
    Preferred,
    /// Never; a member waits for a machine of its own.
    Required,
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

/// What is, as the operator last saw it.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(oldSelf.clusterID) || (has(self.clusterID) && self.clusterID == oldSelf.clusterID)",
    "message": "status.clusterID never changes: a KvCluster is one cluster for ever",
}]))]
pub struct KvClusterStatus {
    /// The generation of the spec that this describes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The cluster's id, 16 hexadecimal digits.
    #[serde(rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// 1 until the cluster is recovered from the loss of its quorum, and higher after each time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<i64>,
    /// The survivor that a person named and for which the incarnation was raised, while that goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<String>,
    /// Pods that exist.
    pub replicas: i32,
    /// Members that take part and answer.
    pub ready_members: i32,
    /// Selects the members' pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Where clients connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The pod that leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The members' version; the lowest while they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The risky step that is under way. It is written before the step is taken, and whoever finds it
    /// finishes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<StepRecord>,
    /// Each pod, by ordinal.
    #[schemars(schema_with = "members_schema")]
    pub members: Vec<MemberStatus>,
    /// Ready, Available, Progressing, Degraded, QuorumLost, StorageProblem, NameTaken, UpdatePending, Paused.
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
}

/// A risky step that is under way.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StepRecord {
    /// What is done.
    pub kind: String,
    /// To what: a pod, a claim, a StatefulSet, or node ids.
    pub target: String,
    /// The object's uid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The object's version that the step was planned for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// The log id, term and index, that the step was planned for: the membership's, or in a recovery the
    /// survivor's last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub membership: Option<String>,
}

/// One member.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemberStatus {
    /// Its pod.
    pub pod: String,
    /// Its disk's node id, 16 hexadecimal digits.
    #[serde(rename = "nodeID", skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// Unjoined, Learner, Follower, Candidate, Leader, StatusOnly, or Unknown.
    pub role: String,
    /// Whether clients are sent to it.
    pub ready: bool,
    /// Log entries that it lacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// The term of its last log entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_log_term: Option<i64>,
    /// The index of its last log entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_log_index: Option<i64>,
    /// Its claim.
    pub claim: String,
    /// The machine it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// The definition to install.
pub fn definition() -> CustomResourceDefinition {
    let mut definition = serde_json::to_value(KvCluster::crd()).expect("a definition is plain data");
    definition["metadata"]["annotations"] = json!({"helm.sh/resource-policy": "keep"});
    tidy(&mut definition, false);
    serde_json::from_value(definition).expect("what was added are valid fields")
}

/// Makes quantities take numbers as they do everywhere else in Kubernetes, and leaves the
/// descriptions of Kubernetes' own types out: they are most of the definition's size.
fn tidy(value: &mut Value, embedded: bool) {
    match value {
        Value::Object(fields) => {
            let described = fields.get("description").and_then(Value::as_str);
            if described.is_some_and(|text| text.starts_with("Quantity is")) {
                *value = int_or_string();
                return;
            }
            if embedded && described.is_some() {
                fields.remove("description");
            }
            for (name, field) in fields.iter_mut() {
                let embeds = embedded || EMBEDDED.contains(&name.as_str());
                // The field's own description is ours.
                let own = (!embedded && embeds).then(|| field.get("description").cloned()).flatten();
                tidy(field, embeds);
                if let (Some(own), Value::Object(field)) = (own, field) {
                    field.insert("description".into(), own);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| tidy(value, embedded)),
        _ => {}
    }
}

/// Fields whose types are Kubernetes' own.
const EMBEDDED: [&str; 6] =
    ["resources", "affinity", "tolerations", "topologySpreadConstraints", "imagePullSecrets", "env"];

/// What Kubernetes' own types have for a quantity.
fn int_or_string() -> Value {
    json!({"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": true})
}

fn size_schema(_: &mut SchemaGenerator) -> Schema {
    let mut schema = int_or_string();
    schema["x-kubernetes-validations"] = json!([{
        "rule": "isQuantity(string(self)) && quantity(string(self)).isGreaterThan(quantity('0'))",
        "message": "spec.storage.size must be a quantity above zero, such as 10Gi",
    }]);
    schema.try_into().expect("an object is a schema")
}

fn three() -> i32 {
    3
}

fn members_schema(generator: &mut SchemaGenerator) -> Schema {
    keyed_list("pod", generator.subschema_for::<MemberStatus>())
}

fn conditions_schema(generator: &mut SchemaGenerator) -> Schema {
    keyed_list("type", generator.subschema_for::<Condition>())
}

fn keyed_list(key: &str, items: Schema) -> Schema {
    json_schema!({
        "type": "array",
        "items": items,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": [key],
    })
}

#[cfg(test)]
mod tests;
