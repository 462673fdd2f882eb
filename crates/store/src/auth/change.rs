//! What each change does to users, roles and rights, and when it is refused. A pure function of what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use super::{Auth, NAME_BYTES_MAX, ROOT, role_bytes, user_bytes};
use crate::command::{
    Access, AuthChange, AuthKind, AuthMode, DeclaredRole, DeclaredUser, Enable, Permission, Reason, Refused,
    ReplaceAccess, RolePermission, UserPassword, UserRole,
};
use crate::layout::{Role, User};
use crate::limits::Limits;

/// Whose rows a change has to write, or, where they are not there any more, to remove.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    pub(crate) users: BTreeSet<String>,
    pub(crate) roles: BTreeSet<String>,
}

/// Bytes of a session key.
const SESSION_KEY_BYTES: usize = 32;

impl Auth {
    /// Carries out a change. None: it changed nothing, and there is no new revision. A refused change leaves `self`
    /// in between: the caller drops it.
    pub(crate) fn change(&mut self, change: AuthChange, limits: &Limits) -> Result<Option<Touched>, Refused> {
        let kind = change.kind.ok_or_else(|| Refused::because(Reason::Unknown))?;
        let before = self.clone();
        let mut touched = Touched::default();
        // A password is of the revision that it is set at.
        let revision = self.head.revision + 1;
        match kind {
            AuthKind::UserAdd(add) => self.add_user(add, revision, &mut touched)?,
            AuthKind::UserDelete(name) => self.delete_user(&name, &mut touched)?,
            AuthKind::UserChangePassword(change) => self.change_password(change, revision, &mut touched)?,
            AuthKind::UserGrantRole(grant) => self.grant_role(grant, &mut touched)?,
            AuthKind::UserRevokeRole(revoke) => self.revoke_role(&revoke, &mut touched)?,
            AuthKind::RoleAdd(name) => self.add_role(name, &mut touched)?,
            AuthKind::RoleDelete(name) => self.delete_role(&name, &mut touched)?,
            AuthKind::RoleGrantPermission(grant) => self.grant_permission(grant, limits, &mut touched)?,
            AuthKind::RoleRevokePermission(revoke) => self.revoke_permission(revoke, &mut touched)?,
            AuthKind::Enable(enable) => self.begin(AuthMode::Required, enable)?,
            AuthKind::Observe(enable) => self.begin(AuthMode::Observe, enable)?,
            AuthKind::Disable(_) => self.head.set_mode(AuthMode::Disabled),
            AuthKind::ReplaceAccess(access) => self.replace_access(access, limits, &mut touched)?,
        }
        self.count(&before, &touched);
        self.check_limits(&before, limits)?;
        if touched == Touched::default() && self.head == before.head {
            return Ok(None);
        }
        self.head.revision = revision;
        self.hash = OnceLock::new();
        Ok(Some(touched))
    }

    fn add_user(&mut self, add: UserPassword, revision: u64, touched: &mut Touched) -> Result<(), Refused> {
        check_name(&add.name)?;
        if self.users.contains_key(&add.name) {
            return Err(about(Reason::UserExists, &add.name));
        }
        let user = User { password_hash: add.hash, password_revision: revision, ..User::default() };
        self.set_user(add.name, user, touched);
        Ok(())
    }

    fn delete_user(&mut self, name: &str, touched: &mut Touched) -> Result<(), Refused> {
        self.own_user(name)?;
        self.keep_root(name == ROOT)?;
        self.users_mut().remove(name);
        touched.users.insert(name.to_owned());
        Ok(())
    }

    fn change_password(
        &mut self,
        change: UserPassword,
        revision: u64,
        touched: &mut Touched,
    ) -> Result<(), Refused> {
        let mut user = self.own_user(&change.name)?.clone();
        user.password_hash = change.hash;
        user.password_revision = revision;
        self.set_user(change.name, user, touched);
        Ok(())
    }

    fn grant_role(&mut self, grant: UserRole, touched: &mut Touched) -> Result<(), Refused> {
        let mut user = self.own_user(&grant.user)?.clone();
        // As in etcd, the role `root` is there without being made: it needs no permission.
        if grant.role != ROOT && !self.roles.contains_key(&grant.role) {
            return Err(about(Reason::NoSuchRole, &grant.role));
        }
        if let Err(at) = user.roles.binary_search(&grant.role) {
            user.roles.insert(at, grant.role);
            self.set_user(grant.user, user, touched);
        }
        Ok(())
    }

    fn revoke_role(&mut self, revoke: &UserRole, touched: &mut Touched) -> Result<(), Refused> {
        let mut user = self.own_user(&revoke.user)?.clone();
        self.keep_root(revoke.user == ROOT && revoke.role == ROOT)?;
        let found = user.roles.binary_search(&revoke.role);
        user.roles.remove(found.map_err(|_| about(Reason::RoleNotGranted, &revoke.role))?);
        self.set_user(revoke.user.clone(), user, touched);
        Ok(())
    }

    fn add_role(&mut self, name: String, touched: &mut Touched) -> Result<(), Refused> {
        check_name(&name)?;
        if self.roles.contains_key(&name) {
            return Err(about(Reason::RoleExists, &name));
        }
        self.set_role(name, Role::default(), touched);
        Ok(())
    }

    fn delete_role(&mut self, name: &str, touched: &mut Touched) -> Result<(), Refused> {
        self.own_role(name)?;
        self.keep_root(name == ROOT)?;
        self.remove_role(name, touched);
        Ok(())
    }

    fn grant_permission(
        &mut self,
        grant: RolePermission,
        limits: &Limits,
        touched: &mut Touched,
    ) -> Result<(), Refused> {
        let mut role = self.own_role(&grant.role)?.clone();
        let permission = check_permission(grant.permission)?;
        match find(&role.permissions, &permission) {
            Ok(at) if role.permissions[at] == permission => return Ok(()),
            Ok(at) => role.permissions[at] = permission,
            Err(at) => role.permissions.insert(at, permission),
        }
        check_permissions(&grant.role, &role.permissions, limits)?;
        self.set_role(grant.role, role, touched);
        Ok(())
    }

    fn revoke_permission(&mut self, revoke: RolePermission, touched: &mut Touched) -> Result<(), Refused> {
        let mut role = self.own_role(&revoke.role)?.clone();
        let found = find(&role.permissions, &revoke.permission.unwrap_or_default());
        role.permissions.remove(found.map_err(|_| about(Reason::PermissionNotGranted, &revoke.role))?);
        self.set_role(revoke.role, role, touched);
        Ok(())
    }

    /// Rights are looked at from here on, and count or not. Where they were looked at before, the key stays: sessions
    /// live on.
    fn begin(&mut self, mode: AuthMode, enable: Enable) -> Result<(), Refused> {
        if self.head.mode() != AuthMode::Disabled {
            // `root` was there then, and has stayed.
            self.head.set_mode(mode);
            return Ok(());
        }
        if enable.session_key.len() != SESSION_KEY_BYTES {
            return Err(Refused::because(Reason::Invalid));
        }
        let root = self.users.get(ROOT).ok_or_else(|| about(Reason::NoRootUser, ROOT))?;
        if !root.roles.iter().any(|role| role == ROOT) {
            return Err(about(Reason::NoRootRole, ROOT));
        }
        self.head.set_mode(mode);
        // A copy: a slice of an entry of the log would hold all of that entry in memory.
        self.head.session_key = bytes::Bytes::copy_from_slice(&enable.session_key);
        Ok(())
    }

    fn replace_access(
        &mut self,
        access: ReplaceAccess,
        limits: &Limits,
        touched: &mut Touched,
    ) -> Result<(), Refused> {
        let ReplaceAccess { users, roles, issuer, mode, enable } = access;
        let mode = AuthMode::try_from(mode).map_err(|_| Refused::because(Reason::Invalid))?;
        let mut wanted_roles = BTreeMap::new();
        for DeclaredRole { name, permissions } in roles {
            check_name(&name)?;
            let mut sorted = Vec::new();
            for permission in permissions {
                let permission = check_permission(Some(permission))?;
                let at = find(&sorted, &permission).err().ok_or_else(|| Refused::because(Reason::Invalid))?;
                sorted.insert(at, permission);
            }
            check_permissions(&name, &sorted, limits)?;
            wanted_roles.insert(name, Role { permissions: sorted, declared: true });
        }
        let mut wanted_users = BTreeMap::new();
        for DeclaredUser { name, mut roles } in users {
            check_name(&name)?;
            roles.sort_unstable();
            roles.dedup();
            wanted_users.insert(name, User { roles, declared: true, ..User::default() });
        }
        self.replace_declared(wanted_users, wanted_roles, touched);
        let known = |role: &String| role == ROOT || self.roles.contains_key(role);
        let mut declared = self.users.values().filter(|user| user.declared).flat_map(|user| &user.roles);
        if let Some(role) = declared.find(|role| !known(role)) {
            return Err(about(Reason::NoSuchRole, role));
        }
        self.head.issuer = issuer;
        if mode == AuthMode::Disabled {
            self.head.set_mode(mode);
            return Ok(());
        }
        // A set without `root` must not lock everybody out.
        self.keep_root(!self.users.get(ROOT).is_some_and(|root| root.roles.iter().any(|role| role == ROOT)))?;
        self.begin(mode, enable.unwrap_or_default())
    }

    fn replace_declared(
        &mut self,
        users: BTreeMap<String, User>,
        roles: BTreeMap<String, Role>,
        touched: &mut Touched,
    ) {
        let gone = |name: &String, declared: bool, wanted: bool| (declared && !wanted).then(|| name.clone());
        let users_gone: Vec<_> = self
            .users
            .iter()
            .filter_map(|(name, user)| gone(name, user.declared, users.contains_key(name)))
            .collect();
        let roles_gone: Vec<_> = self
            .roles
            .iter()
            .filter_map(|(name, role)| gone(name, role.declared, roles.contains_key(name)))
            .collect();
        for name in users_gone {
            self.users_mut().remove(&name);
            touched.users.insert(name);
        }
        for name in roles_gone {
            self.remove_role(&name, touched);
        }
        for (name, user) in users {
            if self.user(&name) != Some(&user) {
                self.set_user(name, user, touched);
            }
        }
        for (name, role) in roles {
            if self.role(&name) != Some(&role) {
                self.set_role(name, role, touched);
            }
        }
    }

    /// Removes a role, also from who has it.
    fn remove_role(&mut self, name: &str, touched: &mut Touched) {
        self.roles_mut().remove(name);
        touched.roles.insert(name.to_owned());
        let has = |user: &User| user.roles.iter().any(|role| role == name);
        let holders: Vec<_> = self
            .users()
            .filter(|(_, user)| has(user))
            .map(|(name, user)| (name.to_owned(), user.clone()))
            .collect();
        for (holder, mut user) in holders {
            user.roles.retain(|role| role != name);
            self.set_user(holder, user, touched);
        }
    }

    /// A user whom others than the operator may change.
    fn own_user(&self, name: &str) -> Result<&User, Refused> {
        let user = self.user(name).ok_or_else(|| about(Reason::NoSuchUser, name))?;
        if user.declared { Err(about(Reason::AuthManagement, name)) } else { Ok(user) }
    }

    /// A role that others than the operator may change.
    fn own_role(&self, name: &str) -> Result<&Role, Refused> {
        let role = self.role(name).ok_or_else(|| about(Reason::NoSuchRole, name))?;
        if role.declared { Err(about(Reason::AuthManagement, name)) } else { Ok(role) }
    }

    /// Refuses what would take root's rights from him while rights are looked at.
    fn keep_root(&self, lost: bool) -> Result<(), Refused> {
        let looked_at = self.head.mode() != AuthMode::Disabled;
        if lost && looked_at { Err(about(Reason::AuthManagement, ROOT)) } else { Ok(()) }
    }

    fn set_user(&mut self, name: String, user: User, touched: &mut Touched) {
        touched.users.insert(name.clone());
        self.users_mut().insert(name, Arc::new(user));
    }

    fn set_role(&mut self, name: String, role: Role, touched: &mut Touched) {
        touched.roles.insert(name.clone());
        self.roles_mut().insert(name, Arc::new(role));
    }

    fn users_mut(&mut self) -> &mut BTreeMap<String, Arc<User>> {
        Arc::make_mut(&mut self.users)
    }

    fn roles_mut(&mut self) -> &mut BTreeMap<String, Arc<Role>> {
        Arc::make_mut(&mut self.roles)
    }

    /// Counts what was touched anew.
    fn count(&mut self, before: &Auth, touched: &Touched) {
        let of = |auth: &Auth| -> u64 {
            let user = |name: &String| auth.user(name).map_or(0, |user| user_bytes(name, user));
            let role = |name: &String| auth.role(name).map_or(0, |role| role_bytes(name, role));
            touched.users.iter().map(user).sum::<u64>() + touched.roles.iter().map(role).sum::<u64>()
        };
        self.bytes = before.bytes + of(self) - of(before);
    }

    /// What takes away is never refused.
    fn check_limits(&self, before: &Auth, limits: &Limits) -> Result<(), Refused> {
        let over = |limit: u64| Refused { actual: limit, ..Refused::because(Reason::AuthLimit) };
        let grown = [
            (self.users.len() as u64, before.users.len() as u64, limits.users_max as u64),
            (self.roles.len() as u64, before.roles.len() as u64, limits.roles_max as u64),
            (self.bytes, before.bytes, limits.auth_bytes_max),
        ];
        match grown.into_iter().find(|(now, before, limit)| now > limit && now > before) {
            Some((_, _, limit)) => Err(over(limit)),
            None => Ok(()),
        }
    }
}

/// Whether a change can make the store grow, and is refused where there is no room. What takes rights away never is.
pub(crate) fn grows(change: &AuthChange) -> bool {
    match &change.kind {
        Some(
            AuthKind::UserAdd(_)
            | AuthKind::UserGrantRole(_)
            | AuthKind::RoleAdd(_)
            | AuthKind::RoleGrantPermission(_),
        ) => true,
        Some(
            AuthKind::UserDelete(_)
            | AuthKind::UserChangePassword(_)
            | AuthKind::UserRevokeRole(_)
            | AuthKind::RoleDelete(_)
            | AuthKind::RoleRevokePermission(_)
            | AuthKind::Enable(_)
            | AuthKind::Observe(_)
            | AuthKind::Disable(_)
            | AuthKind::ReplaceAccess(_),
        )
        | None => false,
    }
}

fn about(reason: Reason, name: &str) -> Refused {
    Refused { key: name.to_owned().into(), ..Refused::because(reason) }
}

fn check_name(name: &str) -> Result<(), Refused> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
    if fits { Ok(()) } else { Err(Refused::because(Reason::Invalid)) }
}

fn check_permission(permission: Option<Permission>) -> Result<Permission, Refused> {
    let permission = permission.unwrap_or_default();
    let Some(range) = &permission.range else { return Err(Refused::because(Reason::Invalid)) };
    let bounded_twice = range.unbounded && !range.end.is_empty();
    let no_key = range.is_key() && range.start.is_empty();
    if permission.access() == Access::None || bounded_twice || no_key {
        return Err(Refused::because(Reason::Invalid));
    }
    Ok(permission)
}

fn check_permissions(role: &str, permissions: &[Permission], limits: &Limits) -> Result<(), Refused> {
    if permissions.len() <= limits.permissions_max {
        return Ok(());
    }
    Err(Refused { actual: limits.permissions_max as u64, ..about(Reason::AuthLimit, role) })
}

/// Where a permission for exactly this range is, or belongs.
fn find(permissions: &[Permission], wanted: &Permission) -> Result<usize, usize> {
    let order = |permission: &Permission| {
        let range = permission.range.clone().unwrap_or_default();
        (range.start, range.end, range.unbounded)
    };
    let wanted = order(wanted);
    permissions.binary_search_by(|permission| order(permission).cmp(&wanted))
}
