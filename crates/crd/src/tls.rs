//! Who may reach a cluster, and how, as the spec wants it.

use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// How the members' ports speak TLS.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.issuerRef) == (has(self.extraNames) && size(self.extraNames) > 0)",
    "message": "spec.tls.issuerRef and spec.tls.extraNames go together: who makes a certificate, and for which names",
}]))]
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
    /// Further CAs of clients, on the client port alone: the common name of a certificate of theirs is a user, but never
    /// root.
    #[serde(rename = "clientCA", skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<ClientCa>,
    /// The issuer of cert-manager's that makes a certificate for extraNames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerRef>,
    /// Names outside of Kubernetes by which clients reach the client port, such as kv.example.com: whoever asks for one of
    /// them is shown the issuer's certificate, all others the cluster's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "outside_names")]
    pub extra_names: Vec<String>,
}

/// The CAs of clients.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientCa {
    /// A ConfigMap of the KvCluster's namespace, whose ca.crt holds them. Members read it anew, without a restart.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// An issuer of cert-manager's.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuerRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its kind; without it Issuer, of the KvCluster's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: Option<String>,
    /// The group of its kind; without it cert-manager.io.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub group: Option<String>,
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

fn outside_names(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let name = "^(\\*\\.)?([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\\.)+[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$";
    let schema: Value = json!({
        "type": "array", "maxItems": 32,
        "items": {"type": "string", "maxLength": 253, "pattern": name},
    });
    schema.try_into().expect("an object is a schema")
}
