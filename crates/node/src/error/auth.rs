//! Why somebody may not do something, or a change of users and roles not be made. Codes and messages are etcd's,
//! where etcd has them.

use kvorum_store::command::Reason;

/// Why somebody may not do something, or a change of users and roles not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// He does not say who he is.
    #[error("user name is empty")]
    UserEmpty,
    /// He may not do this.
    #[error("permission denied")]
    PermissionDenied,
    /// His token proves nothing. Why is for programs, and for who has sent it.
    #[error("invalid auth token")]
    InvalidToken(&'static str),
    /// The same of the token of a ServiceAccount.
    #[error("invalid auth token")]
    InvalidServiceAccount(String),
    /// A role without a name.
    #[error("role name is empty")]
    RoleEmpty,
    /// A permission without what may be done.
    #[error("permission not given")]
    PermissionNotGiven,
    /// Name and password do not go together.
    #[error("authentication failed, invalid user ID or password")]
    Failed,
    /// Rights do not count.
    #[error("authentication is not enabled")]
    NotEnabled,
    /// The cluster was founded closed, and it is not declared yet what clients may do.
    #[error(
        "the cluster was just founded, and lets nobody in before it is declared what clients may do; try again in a moment"
    )]
    Closed,
    /// Over a connection without TLS.
    #[error("authentication needs TLS: no password or token is taken in plain text; see --tls")]
    Plain,
    /// Not all members know users and roles.
    #[error(
        "users and roles need feature level {}, and the cluster is on a lower one: it rises by itself, in \
         seconds, once all members are of this release",
        kvorum_store::feature::AUTH
    )]
    OldMembers,
    /// Rights changed between check and change, each time.
    #[error("rights changed again and again while this was checked; nothing was done, try again")]
    Moved,
    /// There is such a user.
    #[error("user name already exists")]
    UserExists,
    /// There is no such user.
    #[error("user name not found")]
    NoSuchUser,
    /// There is such a role.
    #[error("role name already exists")]
    RoleExists,
    /// There is no such role.
    #[error("role name not found")]
    NoSuchRole,
    /// The user does not have the role.
    #[error("role is not granted to the user")]
    RoleNotGranted,
    /// The role may do nothing with exactly this range.
    #[error("permission is not granted to the role")]
    PermissionNotGranted,
    /// There is no user `root`.
    #[error("root user does not exist")]
    NoRootUser,
    /// `root` does not have the role of that name.
    #[error("root user does not have root role")]
    NoRootRole,
    /// `root` stays while rights count, and what the operator declares is the operator's.
    #[error("invalid auth management")]
    Management,
    /// There is no room for more users, roles or permissions.
    #[error("users, roles or permissions are as many as they may be (limit {0}); remove some")]
    Limit(u64),
}

impl AuthError {
    /// What a refusal by apply means; nothing where it has nothing to do with rights.
    pub fn refused(reason: Reason, actual: u64) -> Option<AuthError> {
        Some(match reason {
            Reason::AuthMoved => AuthError::Moved,
            Reason::UserExists => AuthError::UserExists,
            Reason::NoSuchUser => AuthError::NoSuchUser,
            Reason::RoleExists => AuthError::RoleExists,
            Reason::NoSuchRole => AuthError::NoSuchRole,
            Reason::RoleNotGranted => AuthError::RoleNotGranted,
            Reason::PermissionNotGranted => AuthError::PermissionNotGranted,
            Reason::NoRootUser => AuthError::NoRootUser,
            Reason::NoRootRole => AuthError::NoRootRole,
            Reason::AuthManagement => AuthError::Management,
            Reason::AuthLimit => AuthError::Limit(actual),
            Reason::Unknown
            | Reason::ConditionFailed
            | Reason::NoSpace
            | Reason::Compacted
            | Reason::FutureRevision
            | Reason::DuplicateKey
            | Reason::TooLarge
            | Reason::Invalid => return None,
        })
    }
}
