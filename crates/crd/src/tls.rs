//! Who may reach a cluster, and how, as the spec wants it.

use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// How the members' ports speak TLS.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tls {
    /// Disabled: plain. Optional: with TLS or without, as whoever connects begins. Required: with TLS only. Without it:
    /// Required in a new cluster; one that exists stays as it is. Each change is a rolling restart; between Disabled and Required the operator goes by Optional.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<TlsMode>,
    /// How long a new CA is believed beside the old one before certificates of it are shown, and how long at most the old one
    /// is believed after that, such as 24h (the default) or 30m: the time for copies of the CA outside of the namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration")]
    pub overlap: Option<String>,
}

/// How ports speak TLS.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub enum TlsMode {
    /// Not at all.
    #[default]
    Disabled,
    /// Whoever connects decides.
    Optional,
    /// Always.
    Required,
}

/// What is of TLS.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsStatus {
    /// What the members speak: Disabled, Optional or Required; and Trust, Issue or Drop while the whole CA is replaced.
    pub phase: String,
    /// When the CA ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_expires: Option<String>,
    /// When the members' certificate ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<String>,
    /// Clients' connections without TLS, while both are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plaintext_connections: Option<i64>,
    /// What comes next, and what it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
}

/// From where members are reached.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicy {
    /// Whether there is a NetworkPolicy. Without it: for clusters that were made with one, and for new ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Who reaches the ports for clients and for metrics; without any: everybody. The port for members is for them and the
    /// operator alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub from: Vec<NetworkPolicyPeer>,
}

fn duration(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let schema: Value = json!({"type": "string", "pattern": "^([0-9]{1,6}(s|m|h|d))+$", "maxLength": 32});
    schema.try_into().expect("an object is a schema")
}
