//! Who may do what, as the log has left it: users, their roles, and what these may do with which keys.
//!
//! What is here is data alone; who asks and whether he may is the node's to say. All of it is in memory, since
//! every request is checked against it.

mod change;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

pub(crate) use self::change::grows;
use crate::command::{AuthMode, TokenIssuer};
use crate::layout::{self, AuthHead, AuthRow, Role, User, record_bytes};
use crate::read::Hash;

/// The user who may do everything once he has the role of that name, and that role.
pub const ROOT: &str = "root";

/// The longest name of a user or a role, in bytes. That of a ServiceAccount has at most 339.
pub const NAME_BYTES_MAX: usize = 512;

/// Who may do what.
#[derive(Clone, Debug, Default)]
pub struct Auth {
    head: AuthHead,
    users: Arc<BTreeMap<String, Arc<User>>>,
    roles: Arc<BTreeMap<String, Arc<Role>>>,
    /// The sum of [`record_bytes`] over the rows of users and roles.
    bytes: u64,
    hash: OnceLock<u64>,
}

impl Auth {
    /// Whether rights count.
    pub fn mode(&self) -> AuthMode {
        self.head.mode()
    }

    /// How often this has changed.
    pub fn revision(&self) -> u64 {
        self.head.revision
    }

    /// What the check of any command has to be as of; 0 where nobody is refused. It moves with the mode: a command that
    /// was let pass is not applied any more once rights count.
    pub fn fence(&self) -> u64 {
        if self.mode() == AuthMode::Required { self.head.revision } else { 0 }
    }

    /// As of when somebody is looked at, which a command carries; 0 where nobody is.
    pub fn as_of(&self) -> u64 {
        if self.mode() == AuthMode::Disabled { 0 } else { self.head.revision }
    }

    /// What session tokens are signed with, 32 bytes; empty until rights counted once.
    pub fn session_key(&self) -> &Bytes {
        &self.head.session_key
    }

    /// Whose tokens are believed.
    pub fn issuer(&self) -> Option<&TokenIssuer> {
        self.head.issuer.as_ref()
    }

    /// A user.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name).map(|user| &**user)
    }

    /// A role.
    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name).map(|role| &**role)
    }

    /// All users, by name.
    pub fn users(&self) -> impl Iterator<Item = (&str, &User)> {
        self.users.iter().map(|(name, user)| (name.as_str(), &**user))
    }

    /// All roles, by name.
    pub fn roles(&self) -> impl Iterator<Item = (&str, &Role)> {
        self.roles.iter().map(|(name, role)| (name.as_str(), &**role))
    }

    /// A hash over all of this: members that agree on revision and hash have the same users, roles and rights.
    pub fn hash(&self) -> u64 {
        *self.hash.get_or_init(|| {
            let mut hash = Hash::default();
            hash.bytes(&layout::encode_auth(&self.head));
            for (name, user) in &*self.users {
                hash.bytes(&AuthRow::User(name).key());
                hash.bytes(&layout::encode_auth(&**user));
            }
            for (name, role) in &*self.roles {
                hash.bytes(&AuthRow::Role(name).key());
                hash.bytes(&layout::encode_auth(&**role));
            }
            hash.value()
        })
    }

    /// What users and roles count for in the store's size.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn head(&self) -> &AuthHead {
        &self.head
    }

    /// The same with another session key, which ends all sessions. Nothing changes where there never was one.
    pub(crate) fn with_session_key(&self, key: &[u8]) -> Auth {
        let mut auth = self.clone();
        if !auth.head.session_key.is_empty() {
            auth.head.session_key = Bytes::copy_from_slice(key);
            auth.hash = OnceLock::new();
        }
        auth
    }
}

/// What a user counts for in the store's size.
fn user_bytes(name: &str, user: &User) -> u64 {
    record_bytes(AuthRow::User(name).key().len(), layout::auth_value_bytes(user))
}

/// What a role counts for in the store's size.
fn role_bytes(name: &str, role: &Role) -> u64 {
    record_bytes(AuthRow::Role(name).key().len(), layout::auth_value_bytes(role))
}
