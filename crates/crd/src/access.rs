//! Who may do what in a cluster, as the spec wants it.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A member's certificate, root's and a server's are in Secrets of these names; and root is who he is.
pub const RESERVED_USERS: [&str; 3] = ["root", "member", "server"];

/// Rights count with TLS only: without it nobody can say who he is.
pub(crate) const NEEDS_TLS: &str = "!has(self.spec.auth) || !has(self.spec.auth.mode) || \
    self.spec.auth.mode == 'Disabled' || \
    (has(self.spec.tls) && has(self.spec.tls.mode) && self.spec.tls.mode == 'Required')";
/// What is declared for a plain cluster, and not said to count one day, would do nothing.
pub(crate) const NEEDS_MODE: &str = "!has(self.spec.access) || size(self.spec.access) == 0 || \
    (has(self.spec.auth) && has(self.spec.auth.mode)) || \
    !has(self.spec.tls) || !has(self.spec.tls.mode) || self.spec.tls.mode == 'Required'";
/// Where rights count by what is on record, TLS goes only after them.
pub(crate) const TLS_STAYS: &str = "!has(oldSelf.status) || !has(oldSelf.status.auth) || \
    oldSelf.status.auth.mode == 'Disabled' || (has(self.spec.auth) && has(self.spec.auth.mode)) || \
    !has(self.spec.tls) || !has(self.spec.tls.mode) || self.spec.tls.mode == 'Required' || \
    (has(oldSelf.spec.tls) && has(oldSelf.spec.tls.mode) && oldSelf.spec.tls.mode == self.spec.tls.mode)";

/// Whether it counts who somebody is and what he may do.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Auth {
    /// Disabled: everybody may do everything. Required: what spec.access, roles and users say. Observe: everybody may do
    /// everything, and the condition WouldRefuse says whom Required would refuse. Without it: Required in a new cluster that
    /// speaks TLS alone; one that exists stays as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<AuthMode>,
}

/// Whether rights count.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub enum AuthMode {
    /// They do not.
    #[default]
    Disabled,
    /// They are looked at, and nobody is refused.
    Observe,
    /// They do.
    Required,
}

/// What is of users and rights.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthStatus {
    /// Whether rights count, as of what the members took last.
    pub mode: AuthMode,
}

/// Somebody, and what he may do.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = entry_rules()))]
pub struct Access {
    /// What the role is called that holds the keys; and the user who shows the certificate.
    #[schemars(length(min = 1, max = 63), extend("pattern" = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// ServiceAccounts whose tokens prove it, as NAMESPACE/NAME.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(
            length(max = 317),
            regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")
        )
    )]
    pub service_accounts: Vec<String>,
    /// Make a certificate that proves it, in a Secret that is called as the KvCluster, this name and "tls", with '-' in between.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub certificate: bool,
    /// Every key and every call.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub root: bool,
    /// What may be done with which keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub keys: Vec<Keys>,
}

/// Keys, and what may be done with them.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = keys_rules()))]
pub struct Keys {
    /// All keys that begin so; with "", all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub prefix: Option<String>,
    /// This key; with rangeEnd, the first one of a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub key: Option<String>,
    /// The first key after the range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub range_end: Option<String>,
    /// What may be done with them.
    pub permission: Permission,
}

/// What may be done with keys.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub enum Permission {
    /// They may be read.
    #[default]
    Read,
    /// They may be written.
    Write,
    /// Both.
    ReadWrite,
}

fn entry_rules() -> Value {
    let reserved: Vec<String> = RESERVED_USERS.iter().map(|name| format!("self.name == '{name}'")).collect();
    json!([
        {
            "rule": format!("!({})", reserved.join(" || ")),
            "message": format!(
                "spec.access[].name is none of {}: these are the cluster's own",
                RESERVED_USERS.join(", ")
            ),
        },
        {
            "rule": "(has(self.serviceAccounts) && size(self.serviceAccounts) > 0) || \
                     (has(self.certificate) && self.certificate)",
            "message": "an entry of spec.access says who it is for: by serviceAccounts, certificate: true, or both",
        },
        {
            "rule": "(has(self.root) && self.root) != (has(self.keys) && size(self.keys) > 0)",
            "message": "an entry of spec.access says what may be done: either by keys, or by root: true, which is every key \
                        and every call",
        },
    ])
}

fn keys_rules() -> Value {
    json!([
        {
            "rule": "has(self.prefix) != has(self.key)",
            "message": "keys are named by a prefix, or by a key with or without rangeEnd",
        },
        {
            "rule": "!has(self.rangeEnd) || (has(self.key) && self.key < self.rangeEnd)",
            "message": "rangeEnd comes after key, and goes with it alone",
        },
    ])
}

/// Each name once.
pub(crate) fn access_schema(generator: &mut SchemaGenerator) -> Schema {
    let items = generator.subschema_for::<Access>();
    let schema = json!({
        "type": "array",
        "items": items,
        "maxItems": 256,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
    });
    schema.try_into().expect("an object is a schema")
}
