//! What a spec declares of users and rights: a pure function, whose outcome is the same however the spec is ordered.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use kvorum_client::KeyRange;
use kvorum_client::admin::{declared_mode, declared_role, v1};
use kvorum_client::auth::{Access, Mode};
use kvorum_crd::{AuthMode, Keys, KvClusterSpec, Permission};
use kvorum_tls::ROOT;

use super::issuer::Issuer;

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Declared {
    /// By name: his roles.
    users: BTreeMap<String, BTreeSet<String>>,
    /// By name: what may be done with which range.
    roles: BTreeMap<String, BTreeMap<Range, Permission>>,
    issuer: Option<Issuer>,
    mode: AuthMode,
}

/// A range by which two ways to say the same are one: its first key, the first one behind it, and whether it is one key.
type Range = (Vec<u8>, Option<Vec<u8>>, bool);

impl Declared {
    /// What the spec says. `issuer`: whose tokens prove who somebody is, where they are believed.
    pub fn of(spec: &KvClusterSpec, mode: AuthMode, issuer: Option<Issuer>) -> Declared {
        let mut declared = Declared { users: BTreeMap::new(), roles: BTreeMap::new(), issuer, mode };
        if mode != AuthMode::Disabled {
            declared.users.insert(ROOT.into(), [ROOT.into()].into());
        }
        for entry in &spec.access {
            let role = if entry.root { ROOT } else { entry.name.as_str() };
            if !entry.root {
                declared.roles.insert(role.to_owned(), ranges(&entry.keys));
            }
            let accounts = entry.service_accounts.iter().filter_map(|account| service_account(account));
            for user in accounts.chain(entry.certificate.then(|| entry.name.clone())) {
                declared.users.entry(user).or_default().insert(role.to_owned());
            }
        }
        declared
    }

    /// Nobody and nothing is declared.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.roles.is_empty() && self.issuer.is_none()
    }

    /// A number that another declaration does not have. It is compared within one process only.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// As the leader takes it.
    pub fn request(&self) -> v1::ApplyAccessRequest {
        let user = |(name, roles): (&String, &BTreeSet<String>)| v1::DeclaredUser {
            name: name.clone(),
            roles: roles.iter().cloned().collect(),
        };
        let role = |(name, ranges): (&String, &BTreeMap<Range, Permission>)| {
            declared_role(
                name,
                ranges.iter().map(|(range, permission)| (key_range(range), access(*permission))),
            )
        };
        let issuer = self.issuer.clone();
        v1::ApplyAccessRequest {
            users: self.users.iter().map(user).collect(),
            roles: self.roles.iter().map(role).collect(),
            issuer: issuer.map(|Issuer { issuer, audience, jwks }| v1::TokenIssuer {
                issuer,
                audience,
                jwks,
            }),
            mode: declared_mode(match self.mode {
                AuthMode::Disabled => Mode::Disabled,
                AuthMode::Observe => Mode::Observe,
                AuthMode::Required => Mode::Required,
            }),
        }
    }
}

/// The user that a token of this ServiceAccount, NAMESPACE/NAME, is.
fn service_account(account: &str) -> Option<String> {
    let (namespace, name) = account.split_once('/')?;
    Some(format!("system:serviceaccount:{namespace}:{name}"))
}

/// Each range once, with all that may be done with it.
fn ranges(keys: &[Keys]) -> BTreeMap<Range, Permission> {
    let mut ranges = BTreeMap::new();
    for keys in keys {
        let Some(range) = range(keys) else { continue };
        let permission = ranges.entry(range).or_insert(keys.permission);
        if *permission != keys.permission {
            *permission = Permission::ReadWrite;
        }
    }
    ranges
}

/// The definition refuses what names no range.
fn range(keys: &Keys) -> Option<Range> {
    let range = match (&keys.prefix, &keys.key, &keys.range_end) {
        (Some(prefix), ..) => KeyRange::prefix(prefix.clone()),
        (None, Some(key), Some(end)) => KeyRange::between(key.clone(), end.clone()),
        (None, Some(key), None) => KeyRange::key(key.clone()),
        (None, None, _) => return None,
    };
    Some((range.start().to_vec(), range.end().map(|end| end.to_vec()), range.is_key()))
}

fn key_range((start, end, is_key): &Range) -> KeyRange {
    match (end, is_key) {
        (Some(end), _) => KeyRange::between(start.clone(), end.clone()),
        (None, true) => KeyRange::key(start.clone()),
        (None, false) => KeyRange::starting_at(start.clone()),
    }
}

fn access(permission: Permission) -> Access {
    match permission {
        Permission::Read => Access::Read,
        Permission::Write => Access::Write,
        Permission::ReadWrite => Access::ReadWrite,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(access: Value) -> KvClusterSpec {
        serde_json::from_value(json!({"access": access})).unwrap()
    }

    fn issuer() -> Issuer {
        Issuer { issuer: "https://k8s".into(), audience: "kvorum.io/shop/demo".into(), jwks: "{}".into() }
    }

    /// Goal: each entry becomes users and a role, ServiceAccounts in two entries have both roles, and root is always there
    /// where rights count.
    #[test]
    fn entries_become_users_and_roles() {
        let spec = spec(json!([
            {"name": "orders", "serviceAccounts": ["shop/web", "shop/cron"], "keys": [
                {"prefix": "orders/", "permission": "ReadWrite"}, {"key": "limits", "permission": "Read"}]},
            {"name": "audit", "serviceAccounts": ["shop/cron"], "certificate": true, "keys": [
                {"prefix": "", "permission": "Read"}]},
            {"name": "ops", "certificate": true, "root": true},
        ]));
        let request = Declared::of(&spec, AuthMode::Required, Some(issuer())).request();
        let users: Vec<(&str, Vec<&str>)> = request
            .users
            .iter()
            .map(|user| (user.name.as_str(), user.roles.iter().map(String::as_str).collect()))
            .collect();
        assert_eq!(
            users,
            [
                ("audit", vec!["audit"]),
                ("ops", vec!["root"]),
                ("root", vec!["root"]),
                ("system:serviceaccount:shop:cron", vec!["audit", "orders"]),
                ("system:serviceaccount:shop:web", vec!["orders"]),
            ]
        );
        let expected = [
            declared_role("audit", [(KeyRange::all(), Access::Read)]),
            declared_role(
                "orders",
                [(KeyRange::key("limits"), Access::Read), (KeyRange::prefix("orders/"), Access::ReadWrite)],
            ),
        ];
        assert_eq!(request.roles, expected);
        assert!(
            request.mode == declared_mode(Mode::Required)
                && request.issuer.unwrap().audience == "kvorum.io/shop/demo"
        );
    }

    /// Goal: no range is declared twice, which the members would refuse, and the order of the spec does not matter.
    #[test]
    fn a_range_is_declared_once() {
        let keys = |keys: Value| {
            Declared::of(
                &spec(json!([{"name": "a", "certificate": true, "keys": keys}])),
                AuthMode::Required,
                None,
            )
        };
        let (prefix, between) = (
            json!({"prefix": "a", "permission": "Read"}),
            json!({"key": "a", "rangeEnd": "b", "permission": "Write"}),
        );
        let both = keys(json!([prefix, between]));
        assert_eq!(both.request().roles, [declared_role("a", [(KeyRange::prefix("a"), Access::ReadWrite)])]);
        assert_eq!(both.fingerprint(), keys(json!([between, prefix])).fingerprint());
        assert_ne!(both.fingerprint(), keys(json!([prefix])).fingerprint());
    }

    #[test]
    fn all_of_it_is_in_the_fingerprint() {
        let spec = spec(json!([{"name": "a", "certificate": true, "root": true}]));
        let declared = Declared::of(&spec, AuthMode::Required, Some(issuer()));
        let others = [
            Declared::of(&spec, AuthMode::Disabled, Some(issuer())),
            Declared::of(&spec, AuthMode::Observe, Some(issuer())),
            Declared::of(&spec, AuthMode::Required, None),
            Declared::of(&spec, AuthMode::Required, Some(Issuer { jwks: "[]".into(), ..issuer() })),
            Declared::of(&KvClusterSpec::default(), AuthMode::Required, Some(issuer())),
        ];
        for other in others {
            assert_ne!(other.fingerprint(), declared.fingerprint(), "{other:?}");
        }
        let nothing = Declared::of(&KvClusterSpec::default(), AuthMode::Disabled, None);
        assert!(nothing.is_empty() && !declared.is_empty());
    }
}
