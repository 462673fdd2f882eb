//! The members' disks, as the spec wants them.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The members' disks.
#[derive(JsonSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "has(self.storageClassName) == has(oldSelf.storageClassName) && \
                 (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
        "message": "spec.storage.storageClassName cannot change; make another cluster and move the data",
    },
]))]
pub struct Storage {
    /// The size of each disk. It can grow, where its class lets it; where not, it can go back to what the disks have.
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

fn size_schema(_: &mut SchemaGenerator) -> Schema {
    let mut schema = int_or_string();
    schema["x-kubernetes-validations"] = json!([{
        "rule": "isQuantity(string(self)) && quantity(string(self)).isGreaterThan(quantity('0'))",
        "message": "spec.storage.size must be a quantity above zero, such as 10Gi",
    }]);
    schema.try_into().expect("an object is a schema")
}

/// What Kubernetes' own types have for a quantity.
pub(crate) fn int_or_string() -> Value {
    json!({"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": true})
}
