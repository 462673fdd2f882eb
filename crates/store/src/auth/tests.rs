//! Goal: each change does what it says, or is refused and does nothing. Method: changes one after the other on users
//! and roles in memory, and what is there after each.

use super::*;
use crate::command::{
    Access, AuthKind, AuthMode, DeclaredRole, DeclaredUser, Disable, Enable, KeyRange, Permission, Reason,
    Refused, ReplaceAccess, RolePermission, UserPassword, UserRole,
};
use crate::limits::Limits;

fn user(name: &str, hash: &str) -> UserPassword {
    UserPassword { name: name.into(), hash: hash.into() }
}

fn role_of(user: &str, role: &str) -> UserRole {
    UserRole { user: user.into(), role: role.into() }
}

fn may(range: KeyRange, access: Access) -> Permission {
    Permission { range: Some(range), access: access.into() }
}

fn grant(role: &str, range: KeyRange, access: Access) -> AuthKind {
    AuthKind::RoleGrantPermission(RolePermission { role: role.into(), permission: Some(may(range, access)) })
}

fn enable() -> Enable {
    Enable { session_key: vec![9; 32].into() }
}

/// What becomes of a change: the new revision, or why it was refused. A refused one leaves nothing behind.
fn change(auth: &mut Auth, kind: AuthKind, limits: &Limits) -> Result<u64, (Reason, u64)> {
    let mut next = auth.clone();
    match next.change(kind.into(), limits) {
        Ok(touched) => {
            assert_eq!(next.revision(), auth.revision() + u64::from(touched.is_some()));
            let counted: u64 = next.users().map(|(name, user)| user_bytes(name, user)).sum::<u64>()
                + next.roles().map(|(name, role)| role_bytes(name, role)).sum::<u64>();
            assert_eq!(next.bytes(), counted, "each row is counted once");
            *auth = next;
            Ok(auth.revision())
        }
        Err(refused) => Err((refused.reason(), refused.actual)),
    }
}

/// A table of changes in their order, each with what becomes of it.
#[test]
fn changes_do_what_they_say_or_nothing() {
    let limits = Limits::default();
    let mut auth = Auth::default();
    let refused = |reason| Err((reason, 0));
    let table = [
        (AuthKind::Enable(enable()), refused(Reason::NoRootUser)),
        (AuthKind::UserAdd(user("", "")), refused(Reason::Invalid)),
        (AuthKind::UserAdd(user(&"u".repeat(513), "")), refused(Reason::Invalid)),
        (AuthKind::UserAdd(user("root", "phc")), Ok(1)),
        (AuthKind::UserAdd(user("root", "")), refused(Reason::UserExists)),
        (AuthKind::Enable(enable()), refused(Reason::NoRootRole)),
        // As in etcd, nobody has to make the role `root`.
        (AuthKind::UserGrantRole(role_of("root", "root")), Ok(2)),
        (AuthKind::UserGrantRole(role_of("root", "root")), Ok(2)),
        (AuthKind::UserGrantRole(role_of("nobody", "root")), refused(Reason::NoSuchUser)),
        (AuthKind::Enable(Enable::default()), refused(Reason::Invalid)),
        (AuthKind::Enable(enable()), Ok(3)),
        (AuthKind::Enable(Enable { session_key: vec![1; 32].into() }), Ok(3)),
        (AuthKind::UserDelete("root".into()), refused(Reason::AuthManagement)),
        (AuthKind::UserRevokeRole(role_of("root", "root")), refused(Reason::AuthManagement)),
        (AuthKind::UserAdd(user("alice", "")), Ok(4)),
        (AuthKind::UserGrantRole(role_of("alice", "app")), refused(Reason::NoSuchRole)),
        (AuthKind::RoleAdd("app".into()), Ok(5)),
        (AuthKind::RoleAdd("app".into()), refused(Reason::RoleExists)),
        (AuthKind::UserGrantRole(role_of("alice", "app")), Ok(6)),
        (grant("app", KeyRange::prefix("a/"), Access::Read), Ok(7)),
        (grant("app", KeyRange::prefix("a/"), Access::Read), Ok(7)),
        (grant("app", KeyRange::prefix("a/"), Access::ReadWrite), Ok(8)),
        (grant("app", KeyRange::prefix("a/"), Access::None), refused(Reason::Invalid)),
        (grant("app", KeyRange::key(""), Access::Read), refused(Reason::Invalid)),
        (grant("none", KeyRange::key("k"), Access::Read), refused(Reason::NoSuchRole)),
        (AuthKind::UserChangePassword(user("alice", "new")), Ok(9)),
        (AuthKind::UserChangePassword(user("bob", "new")), refused(Reason::NoSuchUser)),
        (AuthKind::UserRevokeRole(role_of("alice", "other")), refused(Reason::RoleNotGranted)),
        (
            AuthKind::RoleRevokePermission(RolePermission {
                role: "app".into(),
                permission: Some(may(KeyRange::key("a/"), Access::None)),
            }),
            refused(Reason::PermissionNotGranted),
        ),
        (AuthKind::RoleDelete("none".into()), refused(Reason::NoSuchRole)),
        (AuthKind::RoleDelete("app".into()), Ok(10)),
        (AuthKind::Disable(Disable {}), Ok(11)),
        (AuthKind::Disable(Disable {}), Ok(11)),
        // The key that was drawn last is the one from here on.
        (AuthKind::Observe(Enable::default()), refused(Reason::Invalid)),
        (AuthKind::Observe(Enable { session_key: vec![5; 32].into() }), Ok(12)),
        (AuthKind::Observe(enable()), Ok(12)),
        (AuthKind::UserDelete("root".into()), refused(Reason::AuthManagement)),
        (AuthKind::Enable(enable()), Ok(13)),
        (AuthKind::Observe(enable()), Ok(14)),
        (AuthKind::Disable(Disable {}), Ok(15)),
        (AuthKind::UserDelete("root".into()), Ok(16)),
        (AuthKind::Observe(enable()), refused(Reason::NoRootUser)),
    ];
    for (at, (kind, expected)) in table.into_iter().enumerate() {
        let what = format!("line {at}: {kind:?}");
        assert!(!what.contains("phc"), "{what}");
        assert_eq!(change(&mut auth, kind, &limits), expected, "{what}");
    }
    let alice = auth.user("alice").unwrap();
    assert_eq!((&*alice.password_hash, alice.password_revision), ("new", 9));
    assert!(alice.roles.is_empty(), "a role that is gone is nobody's");
    assert_eq!(auth.session_key(), &vec![5; 32], "rights that are looked at already keep their key");
    assert!(!format!("{auth:?}").contains("new"));
}

/// What the operator declares is replaced as a whole, takes over what has its names, and is nobody else's to change.
#[test]
fn the_operator_replaces_what_it_declared_as_a_whole() {
    let limits = Limits::default();
    let mut auth = Auth::default();
    let set = |users: &[(&str, &str)], roles: &[&str], mode: AuthMode| {
        let users = users
            .iter()
            .map(|(name, role)| DeclaredUser { name: (*name).into(), roles: vec![(*role).into()] });
        let role = |name: &&str| DeclaredRole {
            name: (*name).into(),
            permissions: vec![
                may(KeyRange::prefix("b/"), Access::Write),
                may(KeyRange::prefix("a/"), Access::Read),
            ],
        };
        AuthKind::ReplaceAccess(ReplaceAccess {
            users: users.collect(),
            roles: roles.iter().map(role).collect(),
            issuer: None,
            mode: mode.into(),
            enable: Some(enable()),
        })
    };
    let mut change = |kind| change(&mut auth, kind, &limits);
    assert_eq!(change(AuthKind::UserAdd(user("carol", "phc"))), Ok(1));
    assert_eq!(change(AuthKind::UserAdd(user("sa", "phc"))), Ok(2));
    let wanted = || set(&[("root", "root"), ("sa", "app")], &["app"], AuthMode::Required);
    assert_eq!(change(wanted()), Ok(3));
    assert_eq!(change(wanted()), Ok(3), "the same again changes nothing");
    assert_eq!(change(AuthKind::UserChangePassword(user("sa", "x"))), Err((Reason::AuthManagement, 0)));
    assert_eq!(change(AuthKind::RoleDelete("app".into())), Err((Reason::AuthManagement, 0)));
    assert_eq!(change(AuthKind::UserGrantRole(role_of("carol", "app"))), Ok(4));
    assert_eq!(
        change(set(&[("root", "root"), ("x", "none")], &[], AuthMode::Required)),
        Err((Reason::NoSuchRole, 0))
    );
    assert_eq!(
        change(set(&[], &["app"], AuthMode::Required)),
        Err((Reason::AuthManagement, 0)),
        "root would be gone"
    );
    assert_eq!(change(set(&[("root", "root")], &["other"], AuthMode::Required)), Ok(5));
    let observed = || set(&[("root", "root")], &["other"], AuthMode::Observe);
    assert_eq!(change(observed()), Ok(6));
    assert_eq!(change(set(&[], &["other"], AuthMode::Observe)), Err((Reason::AuthManagement, 0)));
    let none = AuthKind::ReplaceAccess(ReplaceAccess { mode: 3, ..ReplaceAccess::default() });
    assert_eq!(change(none), Err((Reason::Invalid, 0)), "no mode that this release knows");
    assert_eq!((auth.mode(), auth.fence(), auth.as_of()), (AuthMode::Observe, 0, 6));
    assert!(auth.user("sa").is_none() && auth.role("app").is_none());
    assert!(auth.user("carol").unwrap().roles.is_empty() && !auth.user("carol").unwrap().declared);
    let starts: Vec<_> =
        auth.role("other").unwrap().permissions.iter().map(|it| it.range.clone().unwrap().start).collect();
    assert_eq!(starts, ["a/", "b/"]);
}

/// Users, roles, ranges of a role and all together have their limits, beyond which things can still be removed.
#[test]
fn what_is_too_much_is_refused_and_less_never_is() {
    let limits =
        Limits { users_max: 2, roles_max: 1, permissions_max: 2, auth_bytes_max: 1000, ..Limits::default() };
    let mut auth = Auth::default();
    for name in ["a", "b"] {
        change(&mut auth, AuthKind::UserAdd(user(name, "")), &limits).unwrap();
    }
    let over = |limit| Err((Reason::AuthLimit, limit));
    assert_eq!(change(&mut auth, AuthKind::UserAdd(user("c", "")), &limits), over(2));
    change(&mut auth, AuthKind::RoleAdd("r".into()), &limits).unwrap();
    assert_eq!(change(&mut auth, AuthKind::RoleAdd("s".into()), &limits), over(1));
    for key in ["1", "2"] {
        change(&mut auth, grant("r", KeyRange::key(key), Access::Read), &limits).unwrap();
    }
    assert_eq!(change(&mut auth, grant("r", KeyRange::key("3"), Access::Read), &limits), over(2));
    let long = user("a", &"h".repeat(1000));
    assert_eq!(change(&mut auth, AuthKind::UserChangePassword(long), &limits), over(1000));
    let tighter = Limits { users_max: 0, auth_bytes_max: 0, ..limits };
    change(&mut auth, AuthKind::UserDelete("a".into()), &tighter).unwrap();
}

/// The hash tells any difference, and nothing else.
#[test]
fn the_hash_tells_every_difference() {
    let limits = Limits::default();
    let mut auth = Auth::default();
    let mut seen = vec![auth.hash()];
    for kind in [
        AuthKind::UserAdd(user("root", "")),
        AuthKind::UserGrantRole(role_of("root", "root")),
        AuthKind::RoleAdd("r".into()),
        grant("r", KeyRange::key("k"), Access::Read),
        AuthKind::Enable(enable()),
    ] {
        change(&mut auth, kind, &limits).unwrap();
        assert!(!seen.contains(&auth.hash()));
        seen.push(auth.hash());
    }
    assert_eq!(auth.clone().hash(), auth.hash());
    assert_ne!(auth.with_session_key(&[1; 32]).hash(), auth.hash());
    let refused: Refused = auth.clone().change(AuthKind::RoleAdd("r".into()).into(), &limits).unwrap_err();
    assert_eq!(refused.key, "r");
}
