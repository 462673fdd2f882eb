//! What is declared of users and rights, and what is known of that.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::ResourceExt as _;
use kvorum_crd::{AuthMode, KvCluster, KvClusterSpec, TlsMode};

use super::objects::Objects;
use crate::access::mode::{self, Record};
use crate::access::{Declared, Issuer};
use crate::memory::Memory;
use crate::names;
use crate::observed::{Access, Node};

/// A cluster is founded within this, and knows of users. Later nobody waits for it.
const SOON: Duration = Duration::from_secs(60);

/// Whether rights are to count; nothing where nobody has ever said so. `tls`: what pods are made for.
pub fn mode(cluster: &KvCluster, objects: &Objects, tls: TlsMode) -> Option<AuthMode> {
    let counted = taken(cluster).is_some_and(|mode| mode != AuthMode::Disabled);
    let record = on_record(cluster, objects);
    mode::mode(cluster.spec.auth.mode, record, counted, cluster.spec.tls.mode, tls)
}

/// What the members took last, by the status.
fn taken(cluster: &KvCluster) -> Option<AuthMode> {
    cluster.status.as_ref()?.auth.as_ref().map(|auth| auth.mode)
}

/// What the StatefulSet says or, without one, its claims: they are there before anybody can have data, and a status may be
/// erased. The status alone knows what an operator wrote down that had no such mark.
fn on_record(cluster: &KvCluster, objects: &Objects) -> Record {
    let marks: Vec<AuthMode> = match &objects.set {
        Some(set) => {
            vec![set.annotations().get(names::AUTH).map(|word| mode::read(word)).unwrap_or_default()]
        }
        None => objects.disks().iter().map(|claim| claim.auth).collect(),
    };
    let marked = marks.iter().copied().find(|mode| *mode != AuthMode::Disabled);
    match marked.or(taken(cluster)) {
        Some(mode) => Record::Said(mode),
        None if marks.is_empty() => Record::New,
        None => Record::Unsaid,
    }
}

/// What is declared, where it is known, beside what the plan sees of it; nothing where nobody has ever said whether rights
/// count and nothing is declared, or somebody else looks after them.
pub async fn look(
    cluster: &KvCluster,
    mode: Option<AuthMode>,
    namespace: &str,
    name: &str,
    nodes: &BTreeMap<u32, Node>,
    memory: &mut Memory,
) -> Option<(Option<Declared>, Access)> {
    let issuers = memory.issuers()?;
    let Some(mode) = mode else {
        let unsaid = Access { unsaid: true, ..Access::default() };
        return (!cluster.spec.access.is_empty()).then_some((None, unsaid));
    };
    let on_record = taken(cluster).unwrap_or_default();
    let begins = mode != AuthMode::Disabled && on_record == AuthMode::Disabled;
    let wanted_for = memory.lasts("rights that are to count", begins);
    let news = nodes.values().any(|node| node.unknown_token_key);
    let for_accounts = names_accounts(&cluster.spec);
    let known = if believes_tokens(&cluster.spec, mode) { Some(issuers.known(news).await) } else { None };
    // Where they only tell who somebody is, nothing waits for them.
    let unread = known.as_ref().and_then(|known| known.failed.clone()).filter(|_| for_accounts);
    let keys = known.and_then(|known| known.keys);
    // Without the keys whoever has a token would be locked out.
    let is_known = !for_accounts || keys.is_some();
    let issuer = keys.map(|keys| Issuer {
        issuer: keys.issuer,
        audience: Issuer::audience(namespace, name),
        jwks: keys.jwks,
    });
    let declared = is_known.then(|| Declared::of(&cluster.spec, mode, issuer));
    let fingerprint = declared.as_ref().map(Declared::fingerprint);
    let access = Access {
        fingerprint,
        unsaid: false,
        is_empty: declared.as_ref().is_some_and(Declared::is_empty),
        mode,
        on_record,
        soon: begins && wanted_for < SOON,
        sent: memory.declared(),
        unread,
        refused: fingerprint.and_then(|fingerprint| memory.undeclared(fingerprint)),
    };
    Some((declared, access))
}

/// Some entry is for a ServiceAccount.
fn names_accounts(spec: &KvClusterSpec) -> bool {
    spec.access.iter().any(|entry| !entry.service_accounts.is_empty())
}

/// Tokens of ServiceAccounts are believed where an entry names one; and while rights are observed, so that it is known who
/// comes without an entry.
fn believes_tokens(spec: &KvClusterSpec, mode: AuthMode) -> bool {
    names_accounts(spec) || mode == AuthMode::Observe
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    /// Goal: who comes with a token and has no entry yet is known by name before rights count. Method: a table.
    #[test]
    fn who_comes_with_a_token_is_known_before_he_has_an_entry() {
        let believed = |access: Value, mode| {
            let spec = json!({"members": 3, "storage": {"size": "1Gi"}, "access": access});
            believes_tokens(&from_value(spec).unwrap(), mode)
        };
        let web = json!([{"name": "web", "serviceAccounts": ["shop/web"], "keys": []}]);
        let audit = json!([{"name": "audit", "certificate": true, "keys": []}]);
        for (access, mode, expected) in [
            (json!([]), AuthMode::Observe, true),
            (audit.clone(), AuthMode::Observe, true),
            (json!([]), AuthMode::Required, false),
            (audit, AuthMode::Required, false),
            (web.clone(), AuthMode::Required, true),
            (web, AuthMode::Disabled, true),
        ] {
            assert_eq!(believed(access.clone(), mode), expected, "{access} {mode:?}");
        }
    }
}
