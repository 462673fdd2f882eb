//! The status of a `KvCluster`: what is, as the operator last saw it, and the risky step that is under way.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::access::AuthStatus;
use crate::tls::TlsStatus;

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
    /// The operator's image that the cluster is taking over, while that goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub following: Option<String>,
    /// The size of the smallest volume: spec.storage.size may go back to it where a larger one cannot be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub volume_size: Option<String>,
    /// Pods that exist.
    pub replicas: i32,
    /// Members that take part and answer.
    pub ready_members: i32,
    /// Selects the members' pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Where clients within Kubernetes connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Where clients outside connect, once the Service's balancer has an address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_endpoint: Option<String>,
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
    /// What is of TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsStatus>,
    /// What is of users and rights, once the operator has declared any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthStatus>,
    /// Each pod, by ordinal.
    #[schemars(schema_with = "members_schema")]
    pub members: Vec<MemberStatus>,
    /// Ready, Available, Progressing, Degraded, QuorumLost, StorageProblem, NameTaken, CertificateProblem,
    /// AccessProblem, WouldRefuse, UpdatePending, Paused.
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
