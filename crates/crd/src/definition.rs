//! The definition of `KvCluster`, as it is installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::{Value, json};

use crate::cluster::KvCluster;
use crate::storage::int_or_string;

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
const EMBEDDED: [&str; 8] = [
    "resources",
    "affinity",
    "tolerations",
    "topologySpreadConstraints",
    "imagePullSecrets",
    "securityContext",
    "env",
    "from",
];
