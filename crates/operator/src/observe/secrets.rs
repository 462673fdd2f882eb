//! A cluster's certificates, as Kubernetes has them. They are read by their names: the operator may not list Secrets.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, Resource, ResourceExt as _};
use kvorum_tls::make::Subject;
use kvorum_tls::{ROOT, pem_fingerprint};

use super::owner::Owner;
use super::read;
use crate::certificates::{
    AuthorityData, BUNDLE, Content, Fingerprint, Held, LeafData, Slot, Target, leaf_names,
};
use crate::fence::Version;
use crate::names;
use crate::observed::Taken;
use crate::refusal;

/// See the module.
#[derive(Debug)]
pub struct Secrets {
    /// As the plan sees it.
    pub held: Held,
    /// What a change is made of.
    pub content: Content,
    /// The objects that are there, with the keys of what they hold.
    pub found: Vec<(Target, Version, Vec<String>)>,
    /// The names that the members' certificate is for.
    pub names: Vec<String>,
}

/// An object as far as it matters: its version and its data.
struct Object {
    version: Version,
    data: BTreeMap<String, String>,
    has_controller: bool,
}

/// Reads them. `NAME-ca` comes last: whatever else is older than what that says is refused when it is written. `users`: who
/// is to have a certificate.
pub async fn read_secrets(
    client: &Client,
    namespace: &str,
    owner: &Owner<'_>,
    domain: &str,
    users: &BTreeSet<String>,
) -> Secrets {
    let name = owner.name;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let (members, root, ca) = (names::member_tls(name), names::root_tls(name), names::ca(name));
    let (members, root, map) =
        tokio::join!(secrets.get_opt(&members), secrets.get_opt(&root), maps.get_opt(&ca));
    let mut authority = secrets.get_opt(&ca).await;
    let (users, mut user_slots) = (users | &begun(&authority), Vec::new());
    if !users.is_empty() {
        let read = users.iter().map(async |user| {
            let found = secrets.get_opt(&names::user_tls(name, user)).await;
            (user.clone(), secret(found, owner))
        });
        user_slots = join_all(read).await;
        authority = secrets.get_opt(&ca).await;
    }
    let names = leaf_names(name, namespace, domain);

    let mut found = Vec::new();
    let mut keep = |target, slot: &Slot<Object>| {
        if let Slot::There(object) = slot {
            found.push((target, object.version.clone(), object.data.keys().cloned().collect()));
        }
    };
    let (authority, members) = (secret(authority, owner), secret(members, owner));
    let (root, map) = (secret(root, owner), config_map(map, owner));
    keep(Target::Authority, &authority);
    keep(Target::Members, &members);
    keep(Target::Root, &root);
    keep(Target::Bundle, &map);
    user_slots.iter().for_each(|(user, slot)| keep(Target::User(user.clone()), slot));

    let read = |object: &Object| {
        let data = AuthorityData::read(&object.data)?;
        let facts = data.facts(object.has_controller).ok_or("its CAs cannot be read")?;
        Ok((data, facts))
    };
    let (authority, authority_facts) = parsed(authority, &format!("Secret {ca}"), read);
    let member_secret = format!("Secret {}", names::member_tls(name));
    let subject = Subject::Member(names.clone());
    let read = |object: &Object| LeafData::read(&object.data, &subject);
    let (members, members_facts) = parsed(members, &member_secret, read);
    let subject = Subject::User(ROOT.to_owned());
    let read = |object: &Object| LeafData::read(&object.data, &subject);
    let (root, root_facts) = parsed(root, &format!("Secret {}", names::root_tls(name)), read);
    let (_, bundle) = parsed(map, &format!("ConfigMap {ca}"), |object| Ok(((), bundle_of(object)?)));
    let (mut users, mut users_facts) = (BTreeMap::new(), BTreeMap::new());
    for (user, slot) in user_slots {
        let (what, subject) =
            (format!("Secret {}", names::user_tls(name, &user)), Subject::User(user.clone()));
        let read = |object: &Object| LeafData::read(&object.data, &subject);
        let (data, facts) = parsed(slot, &what, read);
        users.extend(data.map(|data| (user.clone(), data)));
        users_facts.insert(user, facts);
    }
    Secrets {
        held: Held {
            authority: authority_facts,
            members: members_facts,
            root: root_facts,
            users: users_facts,
            bundle,
        },
        content: Content { authority, members, root, users },
        found,
        names,
    }
}

/// The users for whom a Secret may be there.
fn begun(authority: &Result<Option<Secret>, kube::Error>) -> BTreeSet<String> {
    let Ok(Some(secret)) = authority else { return BTreeSet::new() };
    let text = |(key, bytes): (&String, &k8s_openapi::ByteString)| {
        Some((key.clone(), String::from_utf8(bytes.0.clone()).ok()?))
    };
    let data = secret.data.iter().flatten().filter_map(text).collect();
    AuthorityData::read(&data).map(|data| data.users).unwrap_or_default()
}

fn bundle_of(object: &Object) -> Result<Fingerprint, String> {
    let text = object.data.get(BUNDLE).ok_or_else(|| format!("it has no {BUNDLE}"))?;
    pem_fingerprint(text).map_err(|error| error.to_string())
}

/// What an object holds, and the plan's view of it.
fn parsed<T, F>(
    slot: Slot<Object>,
    what: &str,
    read: impl Fn(&Object) -> Result<(T, F), String>,
) -> (Option<T>, Slot<F>) {
    match slot {
        Slot::Absent => (None, Slot::Absent),
        Slot::Broken(why) => (None, Slot::Broken(why)),
        Slot::Withheld(why) => (None, Slot::Withheld(why)),
        Slot::There(object) => match read(&object) {
            Ok((data, facts)) => (Some(data), Slot::There(facts)),
            Err(why) => (None, Slot::Broken(format!("{what} cannot be used: {why}"))),
        },
    }
}

fn secret(found: Result<Option<Secret>, kube::Error>, owner: &Owner<'_>) -> Slot<Object> {
    object(found, "Secret", owner, |secret| {
        let data = secret.data.unwrap_or_default().into_iter();
        // What is no text is none of what should be there.
        data.map(|(key, bytes)| (key, String::from_utf8(bytes.0).unwrap_or_default())).collect()
    })
}

fn config_map(found: Result<Option<ConfigMap>, kube::Error>, owner: &Owner<'_>) -> Slot<Object> {
    object(found, "ConfigMap", owner, |map| map.data.unwrap_or_default())
}

fn object<K: Resource>(
    found: Result<Option<K>, kube::Error>,
    kind: &'static str,
    owner: &Owner<'_>,
    data: impl Fn(K) -> BTreeMap<String, String>,
) -> Slot<Object> {
    let found = match found {
        Ok(Some(found)) => found,
        Ok(None) => return Slot::Absent,
        Err(error) => {
            let said = refusal::said(&error);
            return Slot::Withheld(format!(
                "The certificates of this cluster cannot be read: {said}. Where the operator lacks the right, set the \
                 chart's rbac.secrets to true, or spec.tls.mode to Disabled."
            ));
        }
    };
    let mut taken: Vec<Taken> = Vec::new();
    let has_controller =
        found.meta().owner_references.iter().flatten().any(|one| one.controller == Some(true));
    match owner.own(Some(found), kind, &mut taken) {
        Some(own) if own.meta().deletion_timestamp.is_some() => Slot::Withheld(format!(
            "{kind} {} is being deleted; it is made anew once it is gone.",
            own.name_any()
        )),
        Some(own) => Slot::There(Object { version: read::version(&own), data: data(own), has_controller }),
        None => Slot::Withheld(taken.pop().map(|taken| taken.said).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;
    use serde_json::{Value, from_value, json};

    const OWNER: Owner<'static> = Owner { name: "demo", uid: "u" };

    fn found(meta: Value) -> Slot<Object> {
        let found: Secret = from_value(json!({"metadata": meta, "data": {"token": "dA=="}})).unwrap();
        secret(Ok(Some(found)), &OWNER)
    }

    /// Goal: a Secret of somebody else, or one that cannot be read, is neither used nor taken for one that is not there.
    #[test]
    fn only_the_clusters_own_secrets_are_read() {
        let labels = json!({
            names::LABEL_NAME: "kvorum", names::LABEL_INSTANCE: "demo", names::LABEL_MANAGED_BY: "kvorum-operator",
        });
        let owned = |uid: &str| {
            let owner = json!({
                "apiVersion": "kvorum.io/v1alpha1", "kind": "KvCluster", "name": "demo", "uid": uid, "controller": true,
            });
            json!({"name": "demo-ca", "uid": "s", "resourceVersion": "7", "ownerReferences": [owner]})
        };
        let Slot::There(ours) = found(owned("u")) else { panic!("it is ours") };
        assert_eq!((ours.data["token"].as_str(), ours.has_controller), ("t", true));
        assert_eq!(ours.version, Version { uid: "s".into(), resource_version: "7".into() });
        let Slot::There(kept) = found(json!({"labels": labels.clone()})) else {
            panic!("it was kept for us")
        };
        assert!(!kept.has_controller);
        for theirs in [
            owned("before"),
            json!({}),
            json!({"labels": labels, "deletionTimestamp": "2026-01-01T00:00:00Z"}),
        ] {
            assert!(matches!(found(theirs.clone()), Slot::Withheld(_)), "{theirs}");
        }
        assert!(matches!(secret(Ok(None), &OWNER), Slot::Absent));
        let forbidden = Status::failure("secrets is forbidden", "Forbidden").with_code(403);
        let Slot::Withheld(said) = secret(Err(kube::Error::Api(forbidden.boxed())), &OWNER) else {
            panic!("nobody knows what is there")
        };
        assert!(said.contains("rbac.secrets"), "{said}");
    }
}
