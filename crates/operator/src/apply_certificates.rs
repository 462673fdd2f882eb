//! The effect of a change of a cluster's certificates: one write, for the version that was seen.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use kvorum_crd::Keep;
use serde_json::{Map, Value, json};

use crate::apply::{ApplyError, kubernetes};
use crate::build::belongs;
use crate::certificates::{Change, Target, made};
use crate::fence::Version;
use crate::names::{self, FIELD_MANAGER};
use crate::observe::{Secrets, Seen};

/// What was done, as a sentence without its full stop.
pub fn done(change: &Change, cluster: &str) -> String {
    let user = |name: &str| names::user_tls(cluster, name);
    let (ca, members, root) = (names::ca(cluster), names::member_tls(cluster), names::root_tls(cluster));
    match change {
        Change::Found => format!("Made a CA in Secret {ca}"),
        Change::Trust { .. } => format!("Made the next CA in Secret {ca}: it is believed beside the old one"),
        Change::Mark => format!("Wrote into Secret {ca} that all of this step is published"),
        Change::Issue => {
            format!("Secret {ca}: the new CA signs from now on, and the old one's key is deleted")
        }
        Change::Drop => format!("Took the old CA out of Secret {ca}"),
        Change::Own => format!("Changed whether Secret {ca} goes with the KvCluster"),
        Change::Members { renew: true } => format!("Made a certificate for the members in Secret {members}"),
        Change::Members { renew: false } => format!("Wrote the CAs that are believed into Secret {members}"),
        Change::Root { renew: true } => format!("Made a certificate for root in Secret {root}"),
        Change::Root { renew: false } => format!("Wrote the CAs that are believed into Secret {root}"),
        Change::Users(_) => format!("Wrote into Secret {ca} which users have certificates"),
        Change::User { name, renew: true } => {
            format!("Made a certificate for user {name} in Secret {}", user(name))
        }
        Change::User { name, renew: false } => {
            format!("Wrote the CAs that are believed into Secret {}", user(name))
        }
        Change::Revoke { name } => format!("Deleted Secret {} of user {name}", user(name)),
        Change::Bundle => format!("Wrote the CAs that are believed into ConfigMap {ca}"),
    }
}

/// Makes it.
///
/// # Errors
/// As of any step; a conflict means that another operator was first.
pub async fn apply_change(
    client: &Client,
    seen: &Seen,
    secrets: &Secrets,
    change: &Change,
) -> Result<(), ApplyError> {
    let (number, now) = (rand::random(), Timestamp::now().as_second());
    let (target, data) = made(change, &secrets.content, &seen.name, &secrets.names, number, now)
        .map_err(|error| ApplyError::Certificate(error.to_string()))?;
    let found = secrets.found.iter().find(|(found, ..)| *found == target);
    if let Change::Revoke { name } = change {
        let Some((_, version, _)) = found else { return Ok(()) };
        return delete(client, seen, &names::user_tls(&seen.name, name), version).await;
    }
    let mut fields: Map<String, Value> = Map::new();
    for (key, text) in data {
        let value = if target == Target::Bundle { json!(text) } else { json!(ByteString(text.into_bytes())) };
        fields.insert(key, value);
    }
    let mut object = belongs(&seen.cluster, &seen.name, &seen.namespace, name(&target, &seen.name));
    if target == Target::Authority && seen.cluster.spec.storage.when_deleted == Keep::Retain {
        // It stays with the claims, for the next KvCluster of this name.
        object["metadata"]["ownerReferences"] = Value::Null;
    }
    if let Some((_, version, keys)) = found {
        // What should not be there any more goes.
        for key in keys {
            fields.entry(key.clone()).or_insert(Value::Null);
        }
        object["metadata"]["uid"] = json!(version.uid);
        object["metadata"]["resourceVersion"] = json!(version.resource_version);
    } else {
        object["type"] = json!(kind(&target));
    }
    object["data"] = Value::Object(fields);
    match target {
        Target::Bundle => write::<ConfigMap>(client, seen, object, found.is_some()).await,
        _ => write::<Secret>(client, seen, object, found.is_some()).await,
    }
}

async fn delete(client: &Client, seen: &Seen, name: &str, version: &Version) -> Result<(), ApplyError> {
    let Version { uid, resource_version } = version.clone();
    let exactly = Preconditions { uid: Some(uid), resource_version: Some(resource_version) };
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &seen.namespace);
    let deleted = secrets.delete(name, &DeleteParams::default().preconditions(exactly)).await;
    deleted.map(drop).map_err(|error| kubernetes(&format!("delete Secret {name}"), error))
}

async fn write<K>(client: &Client, seen: &Seen, object: Value, is_there: bool) -> Result<(), ApplyError>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + serde::Serialize
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), &seen.namespace);
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let context = |verb: &str| format!("{verb} {} {name}", K::kind(&()));
    if is_there {
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let patched = api.patch(&name, &params, &Patch::Merge(&object)).await;
        return patched.map(drop).map_err(|error| kubernetes(&context("change"), error));
    }
    let object = serde_json::from_value(object).expect("the object is built by these rules");
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    api.create(&params, &object).await.map(drop).map_err(|error| kubernetes(&context("create"), error))
}

fn name(target: &Target, cluster: &str) -> String {
    match target {
        Target::Authority | Target::Bundle => names::ca(cluster),
        Target::Members => names::member_tls(cluster),
        Target::Root => names::root_tls(cluster),
        Target::User(user) => names::user_tls(cluster, user),
    }
}

/// A Secret's type; a ConfigMap has none.
fn kind(target: &Target) -> Option<&'static str> {
    match target {
        // Its pair may be missing, where the key of the old CA is lost.
        Target::Authority => Some("Opaque"),
        Target::Members | Target::Root | Target::User(_) => Some("kubernetes.io/tls"),
        Target::Bundle => None,
    }
}
