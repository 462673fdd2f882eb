//! Users, roles and rights: [`Auth`] changes and shows them.

use std::sync::Arc;

use kvorum_proto::auth::v1 as wire;

use crate::options::{CallOptions, Route};
use crate::pool::Pool;
use crate::rpc::Rpc;
use crate::{Error, KeyRange};

/// Users, roles and rights of a cluster, for who is root there: [`Client::auth`](crate::Client::auth) begins it. Once
/// rights count, everybody else may see whether they do, his own user and his own roles.
///
/// # Errors
/// Of every method what [any call](Error#any-call) can end with, and of what changes something also what [any
/// write](Error#any-write) can; [`Error::Denied`] where one may not; and [`Error::Rpc`] with the node's refusal, such as
/// that there is such a user already.
///
/// ```no_run
/// # async fn example(client: kvorum_client::Client) -> Result<(), kvorum_client::Error> {
/// use kvorum_client::KeyRange;
/// use kvorum_client::auth::Access;
///
/// let auth = client.auth();
/// auth.role_add("app").await?;
/// auth.grant_permission("app", KeyRange::prefix("app/"), Access::ReadWrite).await?;
/// auth.user_add("alice", Some("a long password")).await?;
/// auth.grant_role("alice", "app").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Auth {
    pool: Arc<Pool>,
}

/// Whether rights count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuthStatus {
    /// Whether they do.
    pub enabled: bool,
    /// What becomes of who may not do something.
    pub mode: Mode,
    /// How often users, roles or rights have changed.
    pub auth_revision: u64,
}

/// What becomes of who may not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// He may: everybody may do everything.
    Disabled,
    /// He is let pass, and counted.
    Observe,
    /// He is refused.
    Required,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct User {
    /// His roles, ascending.
    pub roles: Vec<String>,
    /// Declared by the operator, which alone changes him.
    pub declared: bool,
}

/// A role.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Role {
    /// What it may do, ascending by range.
    pub permissions: Vec<Permission>,
    /// Declared by the operator, which alone changes it.
    pub declared: bool,
}

/// What may be done with a range of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Permission {
    /// The keys.
    pub range: KeyRange,
    /// What may be done with them.
    pub access: Access,
}

/// What may be done with keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// They may be read.
    Read,
    /// They may be written.
    Write,
    /// Both.
    ReadWrite,
}

impl Auth {
    pub(crate) fn new(pool: Arc<Pool>) -> Auth {
        Auth { pool }
    }

    /// Has rights count from here on. It needs the user `root` with the role `root`, and TLS.
    ///
    /// # Errors
    /// See [`Auth`].
    pub async fn enable(&self) -> Result<(), Error> {
        self.change(wire::AuthEnableRequest {}).await
    }

    /// Has everybody's rights looked at and nobody refused, so that it is known who would be before [`Auth::enable`]: a
    /// metric of the nodes counts them, and their `Status` names them. It needs what that needs.
    ///
    /// # Errors
    /// See [`Auth`].
    pub async fn observe(&self) -> Result<(), Error> {
        self.change(wire::AuthObserveRequest {}).await
    }

    /// Lets everybody do everything again. Users and roles stay.
    ///
    /// # Errors
    /// See [`Auth`].
    pub async fn disable(&self) -> Result<(), Error> {
        self.change(wire::AuthDisableRequest {}).await
    }

    /// Whether rights count.
    ///
    /// # Errors
    /// See [`Auth`].
    pub async fn status(&self) -> Result<AuthStatus, Error> {
        let status = self.read(wire::AuthStatusRequest {}).await?;
        let mode = match status.mode() {
            // A node that does not say it has no other.
            wire::Mode::Disabled if status.enabled => Mode::Required,
            wire::Mode::Disabled => Mode::Disabled,
            wire::Mode::Required => Mode::Required,
            wire::Mode::Observe => Mode::Observe,
        };
        Ok(AuthStatus { mode, enabled: status.enabled, auth_revision: status.auth_revision })
    }

    /// Makes a user; without a password he shows a certificate.
    ///
    /// # Errors
    /// See [`Auth`].
    pub async fn user_add(&self, name: &str, password: Option<&str>) -> Result<(), Error> {
        let password = password.unwrap_or_default().to_owned();
        self.change(wire::UserAddRequest { name: name.to_owned(), password }).await
    }

    /// Removes a user.
    ///
    /// # Errors
    /// See [`Auth`].
    pub async fn user_delete(&self, name: &str) -> Result<(), Error> {
        self.change(wire::UserDeleteRequest { name: name.to_owned() }).await
    }

    /// Shows a user.
    ///
    /// # Errors
    /// See [`Auth`].
    pub async fn user(&self, name: &str) -> Result<User, Error> {
        let wire::UserGetResponse { roles, declared } =
            self.read(wire::UserGetRequest { name: name.to_owned() }).await?;
        Ok(User { roles, declared })
    }

    /// The names of all users, ascending.
    ///
    /// # Errors
    /// See [`Auth`].
    pub async fn users(&self) -> Result<Vec<String>, Error> {
        Ok(self.read(wire::UserListRequest {}).await?.users)
    }

    /// Gives a user another password, or none, and ends his sessions.
    ///
    /// # Errors
    /// See [`Auth`].
    pub async fn change_password(&self, name: &str, password: Option<&str>) -> Result<(), Error> {
        let password = password.unwrap_or_default().to_owned();
        self.change(wire::UserChangePasswordRequest { name: name.to_owned(), password }).await
    }

    /// Gives a role to a user.
    ///
    /// # Errors
    /// See [`Auth`].
    pub async fn grant_role(&self, user: &str, role: &str) -> Result<(), Error> {
        self.change(wire::UserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() }).await
    }

    /// Takes a role from a user.
    ///
    /// # Errors
    /// See [`Auth`].
    pub async fn revoke_role(&self, user: &str, role: &str) -> Result<(), Error> {
        self.change(wire::UserRevokeRoleRequest { user: user.to_owned(), role: role.to_owned() }).await
    }

    /// Makes a role that may do nothing.
    ///
    /// # Errors
    /// See [`Auth`].
    pub async fn role_add(&self, name: &str) -> Result<(), Error> {
        self.change(wire::RoleAddRequest { name: name.to_owned() }).await
    }

    /// Removes a role, from all who have it too.
    ///
    /// # Errors
    /// See [`Auth`].
    pub async fn role_delete(&self, name: &str) -> Result<(), Error> {
        self.change(wire::RoleDeleteRequest { name: name.to_owned() }).await
    }

    /// Shows a role.
    ///
    /// # Errors
    /// See [`Auth`].
    pub async fn role(&self, name: &str) -> Result<Role, Error> {
        let wire::RoleGetResponse { permissions, declared } =
            self.read(wire::RoleGetRequest { name: name.to_owned() }).await?;
        Ok(Role { permissions: permissions.into_iter().filter_map(permission).collect(), declared })
    }

    /// The names of all roles, ascending.
    ///
    /// # Errors
    /// See [`Auth`].
    pub async fn roles(&self) -> Result<Vec<String>, Error> {
        Ok(self.read(wire::RoleListRequest {}).await?.roles)
    }

    /// Lets a role do something with a range, in place of what it might do with exactly that one.
    ///
    /// # Errors
    /// See [`Auth`].
    pub async fn grant_permission(&self, role: &str, keys: KeyRange, access: Access) -> Result<(), Error> {
        let permission = permission_to_wire(keys, access);
        let request =
            wire::RoleGrantPermissionRequest { role: role.to_owned(), permission: Some(permission) };
        self.change(request).await
    }

    /// Takes exactly this range from a role.
    ///
    /// # Errors
    /// See [`Auth`].
    pub async fn revoke_permission(&self, role: &str, keys: KeyRange) -> Result<(), Error> {
        let range = Some(keys.into_wire());
        self.change(wire::RoleRevokePermissionRequest { role: role.to_owned(), range }).await
    }

    async fn change<R: Rpc>(&self, request: R) -> Result<(), Error> {
        self.pool.call(&request, CallOptions::write(self.pool.settings().timeout)).await.map(drop)
    }

    async fn read<R: Rpc>(&self, request: R) -> Result<R::Answer, Error> {
        self.pool.call(&request, CallOptions::read(self.pool.settings().timeout, Route::Leader)).await
    }
}

/// What a later release may let a role do is not shown.
fn permission(permission: wire::Permission) -> Option<Permission> {
    let access = match permission.access() {
        wire::Access::Read => Access::Read,
        wire::Access::Write => Access::Write,
        wire::Access::ReadWrite => Access::ReadWrite,
        wire::Access::Unspecified => return None,
    };
    Some(Permission { range: permission.range?.into(), access })
}

pub(crate) fn mode_to_wire(mode: Mode) -> wire::Mode {
    match mode {
        Mode::Disabled => wire::Mode::Disabled,
        Mode::Observe => wire::Mode::Observe,
        Mode::Required => wire::Mode::Required,
    }
}

pub(crate) fn permission_to_wire(keys: KeyRange, access: Access) -> wire::Permission {
    let access = match access {
        Access::Read => wire::Access::Read,
        Access::Write => wire::Access::Write,
        Access::ReadWrite => wire::Access::ReadWrite,
    };
    wire::Permission { range: Some(keys.into_wire()), access: access.into() }
}
