//! Changes of who may do what.

use std::fmt;

use bytes::Bytes;

use super::range::KeyRange;

/// A change of users, roles, rights, or whether they count. Each raises the auth revision if it changes anything.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AuthChange {
    /// What changes.
    #[prost(oneof = "AuthKind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13")]
    pub kind: Option<AuthKind>,
}

/// The kinds of changes of who may do what.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum AuthKind {
    /// Makes a user.
    #[prost(message, tag = "1")]
    UserAdd(UserPassword),
    /// Removes a user.
    #[prost(string, tag = "2")]
    UserDelete(String),
    /// Gives a user another password; sessions that were opened with the one before end.
    #[prost(message, tag = "3")]
    UserChangePassword(UserPassword),
    /// Gives a role to a user.
    #[prost(message, tag = "4")]
    UserGrantRole(UserRole),
    /// Takes a role from a user.
    #[prost(message, tag = "5")]
    UserRevokeRole(UserRole),
    /// Makes a role.
    #[prost(string, tag = "6")]
    RoleAdd(String),
    /// Removes a role, from all who have it too.
    #[prost(string, tag = "7")]
    RoleDelete(String),
    /// Lets a role do something with a range; what it could do with exactly that range before is replaced.
    #[prost(message, tag = "8")]
    RoleGrantPermission(RolePermission),
    /// Takes exactly this range from a role, whatever it could do with it.
    #[prost(message, tag = "9")]
    RoleRevokePermission(RolePermission),
    /// Rights count from here on.
    #[prost(message, tag = "10")]
    Enable(Enable),
    /// Rights do not count any more.
    #[prost(message, tag = "11")]
    Disable(Disable),
    /// Replaces all that the operator declares.
    #[prost(message, tag = "12")]
    ReplaceAccess(ReplaceAccess),
    /// Rights are looked at from here on, and nobody is refused.
    #[prost(message, tag = "13")]
    Observe(Enable),
}

/// Whether rights count. The numbers are on disk and must stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum AuthMode {
    /// Everybody may do everything.
    Disabled = 0,
    /// Who may not do something is refused.
    Required = 1,
    /// Everybody may do everything, and it is told who would be refused.
    Observe = 2,
}

/// A user and his password.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct UserPassword {
    /// His name, not empty.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The password's hash as a PHC string; empty: he has none.
    #[prost(string, tag = "2")]
    pub hash: String,
}

impl fmt::Debug for UserPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserPassword").field("name", &self.name).field("hash", &"***").finish()
    }
}

/// A user and a role.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct UserRole {
    /// The user's name.
    #[prost(string, tag = "1")]
    pub user: String,
    /// The role's name.
    #[prost(string, tag = "2")]
    pub role: String,
}

/// A role and something that it may do.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RolePermission {
    /// The role's name.
    #[prost(string, tag = "1")]
    pub role: String,
    /// What it may do.
    #[prost(message, optional, tag = "2")]
    pub permission: Option<Permission>,
}

/// What may be done with a range of keys.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Permission {
    /// The keys.
    #[prost(message, optional, tag = "1")]
    pub range: Option<KeyRange>,
    /// What may be done with them.
    #[prost(enumeration = "Access", tag = "2")]
    pub access: i32,
}

/// What may be done with keys. The numbers are on disk and must stay; their bits are reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Access {
    /// Nothing.
    None = 0,
    /// They may be read.
    Read = 1,
    /// They may be written.
    Write = 2,
    /// Both.
    ReadWrite = 3,
}

impl Access {
    /// Whether the keys may be read.
    pub fn reads(self) -> bool {
        matches!(self, Access::Read | Access::ReadWrite)
    }

    /// Whether the keys may be written.
    pub fn writes(self) -> bool {
        matches!(self, Access::Write | Access::ReadWrite)
    }
}

/// Rights count, or are looked at, from here on.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct Enable {
    /// The key that session tokens are signed with, drawn by the proposer: 32 bytes. Where rights were looked at
    /// before, the one that is there stays.
    #[prost(bytes = "bytes", tag = "1")]
    pub session_key: Bytes,
}

impl fmt::Debug for Enable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Enable { session_key: *** }")
    }
}

/// Rights do not count any more.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Disable {}

/// All that the operator declares: it takes the place of what it declared before, and of users and roles of the
/// same names.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReplaceAccess {
    /// The users.
    #[prost(message, repeated, tag = "1")]
    pub users: Vec<DeclaredUser>,
    /// The roles.
    #[prost(message, repeated, tag = "2")]
    pub roles: Vec<DeclaredRole>,
    /// Whose tokens are believed; none: nobody's.
    #[prost(message, optional, tag = "3")]
    pub issuer: Option<TokenIssuer>,
    /// Whether rights count.
    #[prost(enumeration = "AuthMode", tag = "4")]
    pub mode: i32,
    /// Where that begins: see [`Enable`].
    #[prost(message, optional, tag = "5")]
    pub enable: Option<Enable>,
}

/// A user that the operator declares. He has no password.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DeclaredUser {
    /// His name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// His roles.
    #[prost(string, repeated, tag = "2")]
    pub roles: Vec<String>,
}

/// A role that the operator declares.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DeclaredRole {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What it may do.
    #[prost(message, repeated, tag = "2")]
    pub permissions: Vec<Permission>,
}

/// Who signs the tokens of ServiceAccounts.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TokenIssuer {
    /// The issuer's name: what tokens have as `iss`.
    #[prost(string, tag = "1")]
    pub issuer: String,
    /// Whom tokens must be meant for: one of their `aud`.
    #[prost(string, tag = "2")]
    pub audience: String,
    /// The keys that it signs with, public ones, as a JWKS.
    #[prost(string, tag = "3")]
    pub jwks: String,
}

impl From<AuthKind> for AuthChange {
    fn from(kind: AuthKind) -> Self {
        AuthChange { kind: Some(kind) }
    }
}
