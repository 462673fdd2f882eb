//! The members' pods, as the spec wants them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, LocalObjectReference, PodSecurityContext, ResourceRequirements, Toleration,
    TopologySpreadConstraint,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Environment variables by which a node's disk, place and cluster would be other than the operator has them.
pub const RESERVED_ENV: [&str; 14] = [
    "POD_NAME",
    "KVORUM_DATA_DIR",
    "KVORUM_LISTEN_CLIENT",
    "KVORUM_LISTEN_PEER",
    "KVORUM_LISTEN_HTTP",
    "KVORUM_ADVERTISE_CLIENT",
    "KVORUM_ADVERTISE_PEER",
    "KVORUM_BOOTSTRAP",
    "KVORUM_CLUSTER_ID",
    "KVORUM_INCARNATION_MIN",
    "KVORUM_TLS",
    "KVORUM_TLS_DIR",
    "KVORUM_TLS_CLIENT_CA",
    "KVORUM_TLS_OUTSIDE_DIR",
];

/// Everything that is shaped as in a PodSpec.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = reserved_env()))]
pub struct Pod {
    /// CPU and memory of a member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Labels of the machines that members may run on.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// In addition to the operator's own anti-affinity, which is left out where antiAffinity is Preferred and this has a
    /// podAntiAffinity of its own.
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
    /// Replaces the operator's own, of which runAsNonRoot, seccompProfile and fsGroupChangePolicy stay where this has
    /// none. `{}` leaves user and group ids to the platform, as OpenShift wants it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurityContext>,
    /// More environment variables; those that say where a node is and which disk it has are reserved.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub env: Vec<EnvVar>,
    /// Whether two members may share a machine where there are too few.
    pub anti_affinity: AntiAffinity,
}

fn reserved_env() -> Value {
    let names = json!(RESERVED_ENV).to_string();
    json!([{
        "rule": format!("!has(self.env) || self.env.all(variable, !(variable.name in {names}))"),
        "message": format!("spec.pod.env cannot set what the operator decides: {}", RESERVED_ENV.join(", ")),
    }])
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
