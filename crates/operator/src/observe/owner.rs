//! Whose an object is. Nothing is applied onto, counted as a member or deleted that belongs to somebody else, whatever
//! its name.

use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt as _};

use crate::names;
use crate::observed::Taken;

/// The KvCluster that asks.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its uid.
    pub uid: &'a str,
}

impl Owner<'_> {
    /// The object, or none where it is somebody else's; that is added to `taken` then.
    pub fn own<K: Resource>(
        &self,
        object: Option<K>,
        kind: &'static str,
        taken: &mut Vec<Taken>,
    ) -> Option<K> {
        let object = object?;
        let Some(whose) = self.whose(&object) else { return Some(object) };
        taken.push(self.taken(kind, &object, &whose));
        None
    }

    /// A pod or a claim, which the StatefulSet of this cluster makes.
    pub fn own_made<K: Resource>(&self, object: &K, kind: &'static str, taken: &mut Vec<Taken>) -> bool {
        let of_set = |owner: &OwnerReference| owner.kind == "StatefulSet" && owner.name == self.name;
        match controller(object).filter(|owner| !of_set(owner) && owner.uid != self.uid) {
            None => true,
            Some(owner) => {
                taken.push(self.taken(kind, object, &format!("belongs to {} {}", owner.kind, owner.name)));
                false
            }
        }
    }

    /// Whose it is, where it is neither this cluster's nor left over from it: such has no controller, and all labels.
    pub fn whose(&self, object: &impl Resource) -> Option<String> {
        if let Some(owner) = controller(object) {
            return match owner {
                owner if owner.uid == self.uid => None,
                owner if owner.kind == "KvCluster" && owner.name == self.name => {
                    Some("belongs to a KvCluster of this name that was deleted, and goes with it".into())
                }
                owner => Some(format!("belongs to {} {}", owner.kind, owner.name)),
            };
        }
        let expected = [
            (names::LABEL_NAME, names::APPLICATION),
            (names::LABEL_INSTANCE, self.name),
            (names::LABEL_MANAGED_BY, names::FIELD_MANAGER),
        ];
        let labels = object.labels();
        let ours = expected.iter().all(|(key, value)| labels.get(*key).is_some_and(|found| found == value));
        (!ours).then(|| "was not made for this KvCluster".into())
    }

    fn taken(&self, kind: &'static str, object: &impl Resource, whose: &str) -> Taken {
        let name = object.meta().name.clone().unwrap_or_default();
        let said = format!(
            "{kind} {name} {whose}: it is neither changed nor deleted. If it stays, delete it, or give it or KvCluster {} \
             another name.",
            self.name
        );
        Taken { kind, said }
    }
}

fn controller(object: &impl Resource) -> Option<&OwnerReference> {
    let owners = object.meta().owner_references.iter().flatten();
    owners.into_iter().find(|owner| owner.controller == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Pod, Service};
    use serde_json::{Value, from_value, json};

    const OWNER: Owner<'static> = Owner { name: "demo", uid: "u" };

    fn owned(kind: &str, name: &str, uid: &str) -> Value {
        json!({"ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "beside", "uid": "x"},
            {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": true},
        ]})
    }

    /// Goal: nobody's object is taken for its name. Method: a table of Services under the cluster's name.
    #[test]
    fn an_object_of_somebody_else_is_left_alone() {
        let labels = |instance: &str| {
            json!({"labels": {
                names::LABEL_NAME: "kvorum", names::LABEL_INSTANCE: instance, names::LABEL_MANAGED_BY: "kvorum-operator",
            }})
        };
        for (meta, ours) in [
            (owned("KvCluster", "demo", "u"), true),
            (owned("KvCluster", "demo", "before"), false),
            // Its headless Service has the name of our client Service, or the other way round.
            (owned("KvCluster", "demo-peers", "p"), false),
            (owned("Shop", "demo", "s"), false),
            (json!({}), false),
            (labels("demo"), true),
            (labels("other"), false),
            (json!({"labels": {names::LABEL_NAME: "kvorum", names::LABEL_INSTANCE: "demo"}}), false),
        ] {
            let service: Service = from_value(json!({"metadata": meta})).unwrap();
            let mut taken = Vec::new();
            assert_eq!(OWNER.own(Some(service), "Service", &mut taken).is_some(), ours, "{meta}");
            assert_eq!(taken.is_empty(), ours, "{taken:?}");
        }
    }

    #[test]
    fn a_pod_of_another_controller_is_no_member() {
        for (meta, ours) in [
            (owned("StatefulSet", "demo", "any"), true),
            (json!({}), true),
            (owned("StatefulSet", "other", "o"), false),
            (owned("ReplicaSet", "demo", "r"), false),
        ] {
            let pod: Pod = from_value(json!({"metadata": meta})).unwrap();
            assert_eq!(OWNER.own_made(&pod, "Pod", &mut Vec::new()), ours, "{meta}");
        }
    }
}
