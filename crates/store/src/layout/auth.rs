//! Users, roles and rights: rows of `default`, so that a release without them still opens a store that never had any.
//!
//! | key | value | written by |
//! |---|---|---|
//! | `auth` | [`AuthHead`]: whether rights count, and what is there once | apply, from feature level 3 on: any change of users, roles or rights; restore: a new session key |
//! | `auth-user/` and a name | [`User`] | apply: a change of that user |
//! | `auth-role/` and a name | [`Role`] | apply: a change of that role |
//!
//! Each value is a format byte and a protobuf message, whose field numbers must stay.

use std::fmt;

use bytes::Bytes;
use prost::Message;

use super::codec::{FORMAT, Malformed, body};
use crate::command::{AuthMode, Permission, TokenIssuer};

/// The row of what is there once.
pub(crate) const AUTH: &[u8] = b"auth";
/// The first bytes of a user's row.
pub(crate) const AUTH_USER: &[u8] = b"auth-user/";
/// The first bytes of a role's row.
pub(crate) const AUTH_ROLE: &[u8] = b"auth-role/";

/// What is there once.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct AuthHead {
    /// Whether rights count.
    #[prost(enumeration = "AuthMode", tag = "1")]
    pub(crate) mode: i32,
    /// How often users, roles or rights have changed, whether they count included.
    #[prost(uint64, tag = "2")]
    pub(crate) revision: u64,
    /// What session tokens are signed with; empty until rights counted once.
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) session_key: Bytes,
    /// Whose tokens are believed.
    #[prost(message, optional, tag = "4")]
    pub(crate) issuer: Option<TokenIssuer>,
}

impl fmt::Debug for AuthHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthHead")
            .field("mode", &self.mode())
            .field("revision", &self.revision)
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

/// A user.
#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub struct User {
    /// The hash of his password as a PHC string; empty: he has none.
    #[prost(string, tag = "1")]
    pub password_hash: String,
    /// The auth revision that his password is of: whatever was proven by one before does not count.
    #[prost(uint64, tag = "2")]
    pub password_revision: u64,
    /// The names of his roles, ascending.
    #[prost(string, repeated, tag = "3")]
    pub roles: Vec<String>,
    /// Declared by the operator, which alone changes him.
    #[prost(bool, tag = "4")]
    pub declared: bool,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("roles", &self.roles)
            .field("declared", &self.declared)
            .finish_non_exhaustive()
    }
}

/// A role.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Role {
    /// What it may do, ascending by range. No range is there twice.
    #[prost(message, repeated, tag = "1")]
    pub permissions: Vec<Permission>,
    /// Declared by the operator, which alone changes it.
    #[prost(bool, tag = "2")]
    pub declared: bool,
}

/// Which row of users and roles a key of `default` names.
pub(crate) enum AuthRow<'key> {
    User(&'key str),
    Role(&'key str),
}

impl AuthRow<'_> {
    /// None: another row.
    pub(crate) fn of(key: &[u8]) -> Result<Option<AuthRow<'_>>, Malformed> {
        let name = |name| std::str::from_utf8(name).map_err(|_| Malformed);
        if let Some(user) = key.strip_prefix(AUTH_USER) {
            return Ok(Some(AuthRow::User(name(user)?)));
        }
        key.strip_prefix(AUTH_ROLE).map(|role| Ok(AuthRow::Role(name(role)?))).transpose()
    }

    pub(crate) fn key(&self) -> Vec<u8> {
        match self {
            AuthRow::User(name) => [AUTH_USER, name.as_bytes()].concat(),
            AuthRow::Role(name) => [AUTH_ROLE, name.as_bytes()].concat(),
        }
    }
}

pub(crate) fn encode_auth(message: &impl Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + message.encoded_len());
    out.push(FORMAT);
    message.encode(&mut out).expect("a vector takes what is written to it");
    out
}

pub(crate) fn decode_auth<M: Message + Default>(row: &[u8]) -> Result<M, Malformed> {
    M::decode(body(row)?).map_err(|_| Malformed)
}

/// The bytes of a value.
pub(crate) fn auth_value_bytes(message: &impl Message) -> usize {
    1 + message.encoded_len()
}
