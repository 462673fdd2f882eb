//! `auth.v1`: users, roles and rights.

use std::sync::Arc;

use kvorum_proto::auth::v1 as pb;
use kvorum_proto::auth::v1::auth_server::{Auth, AuthServer};
use kvorum_proto::kv::v1 as kv;
use kvorum_store::Auth as Rights;
use kvorum_store::command::{
    Access, AuthKind, AuthMode, Disable, Enable, KeyRange, Permission, RolePermission, UserRole,
};
use tonic::{Request, Response, Status};

use super::kv::convert::key_range;
use crate::access::{Caller, Needs};
use crate::error::{AuthError, RequestError};
use crate::net::deadline::deadline;
use crate::requests::Requests;

/// The service.
#[derive(Clone)]
pub struct AuthService {
    requests: Requests,
}

impl AuthService {
    /// The service, ready to be served.
    pub fn server(requests: Requests) -> AuthServer<AuthService> {
        AuthServer::new(AuthService { requests })
    }

    /// Makes a change of users, roles and rights for whoever asks.
    async fn change<T>(
        &self,
        request: Request<T>,
        change: impl FnOnce(T) -> Result<AuthKind, RequestError>,
    ) -> Result<(), Status> {
        let deadline = deadline(request.metadata());
        let caller = Caller::of(&request)?;
        Ok(self.requests.change_auth(&caller, change(request.into_inner())?, deadline).await?)
    }

    /// What all members agree on, for whoever may see it.
    async fn read<T>(&self, request: &Request<T>, needs: Needs<'_>) -> Result<Arc<Rights>, Status> {
        let caller = Caller::of(request)?;
        Ok(self.requests.auth(&caller, needs, deadline(request.metadata())).await?)
    }
}

/// A name that is one.
fn named(name: String, error: AuthError) -> Result<String, RequestError> {
    if name.is_empty() { Err(error.into()) } else { Ok(name) }
}

/// Whether rights are to count, as the store takes it.
pub fn mode(mode: i32) -> Result<AuthMode, RequestError> {
    match pb::Mode::try_from(mode) {
        Ok(pb::Mode::Disabled) => Ok(AuthMode::Disabled),
        Ok(pb::Mode::Required) => Ok(AuthMode::Required),
        Ok(pb::Mode::Observe) => Ok(AuthMode::Observe),
        Err(_) => Err(RequestError::Invalid(format!(
            "mode {mode} is none that this release knows: ask a member of the release that knows it"
        ))),
    }
}

/// What may be done with a range, as the store takes it.
pub fn permission(permission: Option<pb::Permission>) -> Result<Permission, RequestError> {
    let pb::Permission { range, access } = permission.ok_or(AuthError::PermissionNotGiven)?;
    let access = match pb::Access::try_from(access) {
        Ok(pb::Access::Read) => Access::Read,
        Ok(pb::Access::Write) => Access::Write,
        Ok(pb::Access::ReadWrite) => Access::ReadWrite,
        Ok(pb::Access::Unspecified) | Err(_) => return Err(AuthError::PermissionNotGiven.into()),
    };
    Ok(Permission { range: Some(key_range(range)?), access: access.into() })
}

/// As it goes out.
fn wire_permission(permission: &Permission) -> pb::Permission {
    let access = match permission.access() {
        Access::None => pb::Access::Unspecified,
        Access::Read => pb::Access::Read,
        Access::Write => pb::Access::Write,
        Access::ReadWrite => pb::Access::ReadWrite,
    };
    let KeyRange { start, end, unbounded } = permission.range.clone().unwrap_or_default();
    pb::Permission { range: Some(kv::KeyRange { start, end, unbounded }), access: access.into() }
}

#[tonic::async_trait]
impl Auth for AuthService {
    async fn auth_enable(
        &self,
        request: Request<pb::AuthEnableRequest>,
    ) -> Result<Response<pb::AuthEnableResponse>, Status> {
        self.change(request, |_| Ok(AuthKind::Enable(Enable::default()))).await?;
        Ok(Response::new(pb::AuthEnableResponse {}))
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        let deadline = deadline(request.metadata());
        let caller = Caller::of(&request)?;
        let pb::AuthenticateRequest { name, password } = request.into_inner();
        let name = named(name, AuthError::UserEmpty)?;
        let token = self.requests.authenticate(&caller, name, password, deadline).await?;
        Ok(Response::new(pb::AuthenticateResponse { token }))
    }

    async fn auth_disable(
        &self,
        request: Request<pb::AuthDisableRequest>,
    ) -> Result<Response<pb::AuthDisableResponse>, Status> {
        self.change(request, |_| Ok(AuthKind::Disable(Disable {}))).await?;
        Ok(Response::new(pb::AuthDisableResponse {}))
    }

    async fn auth_observe(
        &self,
        request: Request<pb::AuthObserveRequest>,
    ) -> Result<Response<pb::AuthObserveResponse>, Status> {
        self.change(request, |_| Ok(AuthKind::Observe(Enable::default()))).await?;
        Ok(Response::new(pb::AuthObserveResponse {}))
    }

    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        let auth = self.read(&request, Needs::User).await?;
        let mode = match auth.mode() {
            AuthMode::Disabled => pb::Mode::Disabled,
            AuthMode::Required => pb::Mode::Required,
            AuthMode::Observe => pb::Mode::Observe,
        };
        Ok(Response::new(pb::AuthStatusResponse {
            enabled: mode == pb::Mode::Required,
            auth_revision: auth.revision(),
            mode: mode.into(),
        }))
    }

    async fn user_add(
        &self,
        request: Request<pb::UserAddRequest>,
    ) -> Result<Response<pb::UserAddResponse>, Status> {
        let deadline = deadline(request.metadata());
        let caller = Caller::of(&request)?;
        let pb::UserAddRequest { name, password } = request.into_inner();
        let name = named(name, AuthError::UserEmpty)?;
        self.requests.set_password(&caller, name, password, AuthKind::UserAdd, deadline).await?;
        Ok(Response::new(pb::UserAddResponse {}))
    }

    async fn user_delete(
        &self,
        request: Request<pb::UserDeleteRequest>,
    ) -> Result<Response<pb::UserDeleteResponse>, Status> {
        self.change(request, |request| Ok(AuthKind::UserDelete(request.name))).await?;
        Ok(Response::new(pb::UserDeleteResponse {}))
    }

    async fn user_get(
        &self,
        request: Request<pb::UserGetRequest>,
    ) -> Result<Response<pb::UserGetResponse>, Status> {
        let auth = self.read(&request, Needs::Oneself(&request.get_ref().name)).await?;
        let user = auth.user(&request.get_ref().name).ok_or(RequestError::from(AuthError::NoSuchUser))?;
        Ok(Response::new(pb::UserGetResponse { roles: user.roles.clone(), declared: user.declared }))
    }

    async fn user_list(
        &self,
        request: Request<pb::UserListRequest>,
    ) -> Result<Response<pb::UserListResponse>, Status> {
        let auth = self.read(&request, Needs::Root).await?;
        let users = auth.users().map(|(name, _)| name.to_owned()).collect();
        Ok(Response::new(pb::UserListResponse { users }))
    }

    async fn user_change_password(
        &self,
        request: Request<pb::UserChangePasswordRequest>,
    ) -> Result<Response<pb::UserChangePasswordResponse>, Status> {
        let deadline = deadline(request.metadata());
        let caller = Caller::of(&request)?;
        let pb::UserChangePasswordRequest { name, password } = request.into_inner();
        self.requests.set_password(&caller, name, password, AuthKind::UserChangePassword, deadline).await?;
        Ok(Response::new(pb::UserChangePasswordResponse {}))
    }

    async fn user_grant_role(
        &self,
        request: Request<pb::UserGrantRoleRequest>,
    ) -> Result<Response<pb::UserGrantRoleResponse>, Status> {
        self.change(request, |pb::UserGrantRoleRequest { user, role }| {
            Ok(AuthKind::UserGrantRole(UserRole { user, role }))
        })
        .await?;
        Ok(Response::new(pb::UserGrantRoleResponse {}))
    }

    async fn user_revoke_role(
        &self,
        request: Request<pb::UserRevokeRoleRequest>,
    ) -> Result<Response<pb::UserRevokeRoleResponse>, Status> {
        self.change(request, |pb::UserRevokeRoleRequest { user, role }| {
            Ok(AuthKind::UserRevokeRole(UserRole { user, role }))
        })
        .await?;
        Ok(Response::new(pb::UserRevokeRoleResponse {}))
    }

    async fn role_add(
        &self,
        request: Request<pb::RoleAddRequest>,
    ) -> Result<Response<pb::RoleAddResponse>, Status> {
        self.change(request, |request| Ok(AuthKind::RoleAdd(named(request.name, AuthError::RoleEmpty)?)))
            .await?;
        Ok(Response::new(pb::RoleAddResponse {}))
    }

    async fn role_delete(
        &self,
        request: Request<pb::RoleDeleteRequest>,
    ) -> Result<Response<pb::RoleDeleteResponse>, Status> {
        self.change(request, |request| Ok(AuthKind::RoleDelete(request.name))).await?;
        Ok(Response::new(pb::RoleDeleteResponse {}))
    }

    async fn role_get(
        &self,
        request: Request<pb::RoleGetRequest>,
    ) -> Result<Response<pb::RoleGetResponse>, Status> {
        let auth = self.read(&request, Needs::OwnRole(&request.get_ref().name)).await?;
        let role = auth.role(&request.get_ref().name).ok_or(RequestError::from(AuthError::NoSuchRole))?;
        let permissions = role.permissions.iter().map(wire_permission).collect();
        Ok(Response::new(pb::RoleGetResponse { permissions, declared: role.declared }))
    }

    async fn role_list(
        &self,
        request: Request<pb::RoleListRequest>,
    ) -> Result<Response<pb::RoleListResponse>, Status> {
        let auth = self.read(&request, Needs::Root).await?;
        let roles = auth.roles().map(|(name, _)| name.to_owned()).collect();
        Ok(Response::new(pb::RoleListResponse { roles }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<pb::RoleGrantPermissionRequest>,
    ) -> Result<Response<pb::RoleGrantPermissionResponse>, Status> {
        self.change(request, |pb::RoleGrantPermissionRequest { role, permission: granted }| {
            let permission = Some(permission(granted)?);
            Ok(AuthKind::RoleGrantPermission(RolePermission { role, permission }))
        })
        .await?;
        Ok(Response::new(pb::RoleGrantPermissionResponse {}))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<pb::RoleRevokePermissionRequest>,
    ) -> Result<Response<pb::RoleRevokePermissionResponse>, Status> {
        self.change(request, |pb::RoleRevokePermissionRequest { role, range }| {
            let permission = Some(Permission { range: Some(key_range(range)?), ..Permission::default() });
            Ok(AuthKind::RoleRevokePermission(RolePermission { role, permission }))
        })
        .await?;
        Ok(Response::new(pb::RoleRevokePermissionResponse {}))
    }
}
