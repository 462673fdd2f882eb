//! The one place where errors become gRPC statuses, and statuses of another member become errors
//! again.
//!
//! Each status carries a `google.rpc.ErrorInfo` of our domain. Its reason, not the code, is what a
//! client decides by: codes are shared with whatever stands between the two.

use std::collections::HashMap;
use std::error::Error;

use bytes::Bytes;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::error::{AuthError, RequestError};

/// The domain of every `ErrorInfo` we send.
pub const DOMAIN: &str = "kvorum.io";

const UNJOINED: &str = "UNJOINED";
const STATUS_ONLY: &str = "STATUS_ONLY";
const NOT_LEADER: &str = "NOT_LEADER";
const NO_LEADER: &str = "NO_LEADER";
/// The deadline passed, and nothing was done.
const DEADLINE: &str = "DEADLINE";
const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
const TOO_LARGE: &str = "TOO_LARGE";
const BUSY: &str = "BUSY";
const SHUTTING_DOWN: &str = "SHUTTING_DOWN";
const CORRUPT: &str = "CORRUPT";
const COMPACTED: &str = "COMPACTED";
const FUTURE_REVISION: &str = "FUTURE_REVISION";
const CONDITION_FAILED: &str = "CONDITION_FAILED";
const NO_SPACE: &str = "NO_SPACE";
const INVALID: &str = "INVALID";

impl From<RequestError> for Status {
    fn from(error: RequestError) -> Self {
        let (code, reason) = code_and_reason(&error);
        let metadata: HashMap<String, String> = metadata(&error).into_iter().collect();
        let details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
        Status::with_error_details(code, error.to_string(), details)
    }
}

/// `UNAVAILABLE` only where nothing was done: generic clients and proxies retry it.
fn code_and_reason(error: &RequestError) -> (Code, &'static str) {
    match error {
        RequestError::Unjoined => (Code::Unavailable, UNJOINED),
        RequestError::StatusOnly(_) => (Code::FailedPrecondition, STATUS_ONLY),
        RequestError::NotLeader { .. } => (Code::Unavailable, NOT_LEADER),
        RequestError::NoLeader => (Code::Unavailable, NO_LEADER),
        RequestError::Deadline { outcome_unknown: false } => (Code::DeadlineExceeded, DEADLINE),
        RequestError::Deadline { outcome_unknown: true } => (Code::DeadlineExceeded, OUTCOME_UNKNOWN),
        RequestError::OutcomeUnknown(_) => (Code::Unknown, OUTCOME_UNKNOWN),
        RequestError::TooLarge { .. } => (Code::InvalidArgument, TOO_LARGE),
        RequestError::RangeTooLarge { .. } => (Code::FailedPrecondition, TOO_LARGE),
        RequestError::Busy | RequestError::NoRoom { .. } | RequestError::Occupied(_) => {
            (Code::ResourceExhausted, BUSY)
        }
        RequestError::ShuttingDown => (Code::Unavailable, SHUTTING_DOWN),
        // The store tells damage from other failures in its message; either way this node's data
        // cannot be read and another member has to answer.
        RequestError::Store(_) => (Code::DataLoss, CORRUPT),
        RequestError::Corrupt => (Code::Unavailable, CORRUPT),
        RequestError::Compacted { .. } => (Code::OutOfRange, COMPACTED),
        RequestError::FutureRevision { .. } => (Code::OutOfRange, FUTURE_REVISION),
        RequestError::ConditionFailed { .. } => (Code::FailedPrecondition, CONDITION_FAILED),
        RequestError::NoSpace { .. } => (Code::ResourceExhausted, NO_SPACE),
        RequestError::Auth(error) => auth_code_and_reason(error),
        RequestError::Invalid(_) => (Code::InvalidArgument, INVALID),
    }
}

/// As in etcd's `rpctypes`, where it has them. Another member never answers so: who asks is checked where he asks.
fn auth_code_and_reason(error: &AuthError) -> (Code, &'static str) {
    match error {
        AuthError::UserEmpty => (Code::InvalidArgument, "USER_EMPTY"),
        AuthError::RoleEmpty => (Code::InvalidArgument, "ROLE_EMPTY"),
        AuthError::PermissionNotGiven => (Code::InvalidArgument, "PERMISSION_NOT_GIVEN"),
        AuthError::PermissionDenied => (Code::PermissionDenied, "PERMISSION_DENIED"),
        AuthError::InvalidToken(_) | AuthError::InvalidServiceAccount(_) => {
            (Code::Unauthenticated, "INVALID_TOKEN")
        }
        AuthError::Failed => (Code::InvalidArgument, "AUTH_FAILED"),
        AuthError::NotEnabled => (Code::FailedPrecondition, "AUTH_NOT_ENABLED"),
        AuthError::Plain => (Code::FailedPrecondition, "AUTH_PLAIN"),
        AuthError::OldMembers => (Code::FailedPrecondition, "AUTH_OLD_MEMBERS"),
        AuthError::Closed => (Code::Unavailable, "AUTH_CLOSED"),
        AuthError::Moved => (Code::Unavailable, "AUTH_MOVED"),
        AuthError::UserExists => (Code::FailedPrecondition, "USER_EXISTS"),
        AuthError::NoSuchUser => (Code::FailedPrecondition, "NO_SUCH_USER"),
        AuthError::RoleExists => (Code::FailedPrecondition, "ROLE_EXISTS"),
        AuthError::NoSuchRole => (Code::FailedPrecondition, "NO_SUCH_ROLE"),
        AuthError::RoleNotGranted => (Code::FailedPrecondition, "ROLE_NOT_GRANTED"),
        AuthError::PermissionNotGranted => (Code::FailedPrecondition, "PERMISSION_NOT_GRANTED"),
        AuthError::NoRootUser => (Code::FailedPrecondition, "NO_ROOT_USER"),
        AuthError::NoRootRole => (Code::FailedPrecondition, "NO_ROOT_ROLE"),
        AuthError::Management => (Code::InvalidArgument, "AUTH_MANAGEMENT"),
        AuthError::Limit(_) => (Code::ResourceExhausted, "AUTH_LIMIT"),
    }
}

/// What a program needs of the error, beside the message for people.
fn metadata(error: &RequestError) -> Vec<(String, String)> {
    let pair = |name: &str, value: String| (name.to_owned(), value);
    match error {
        RequestError::NotLeader { client_address: Some(address) } => vec![pair("leader", address.clone())],
        RequestError::TooLarge { bytes, limit } => {
            vec![pair("bytes", bytes.to_string()), pair("limit", limit.to_string())]
        }
        RequestError::RangeTooLarge { limit } | RequestError::NoSpace { limit } => {
            vec![pair("limit", limit.to_string())]
        }
        RequestError::Compacted { requested, compacted } => {
            vec![pair("requested", requested.to_string()), pair("compacted", compacted.to_string())]
        }
        RequestError::FutureRevision { requested, current } => {
            vec![pair("requested", requested.to_string()), pair("current", current.to_string())]
        }
        // A key is any bytes, and metadata is text.
        RequestError::ConditionFailed { key, actual } => {
            vec![pair("key_hex", hex(key)), pair("actual", actual.to_string())]
        }
        RequestError::Auth(AuthError::InvalidToken(why)) => vec![pair("why", (*why).to_owned())],
        RequestError::Auth(AuthError::InvalidServiceAccount(why)) => vec![pair("why", why.clone())],
        RequestError::Auth(AuthError::Limit(limit)) => vec![pair("limit", limit.to_string())],
        _ => Vec::new(),
    }
}

impl RequestError {
    /// What another member's answer to a forwarded write means to the caller of this one.
    pub fn from_peer(status: Status) -> RequestError {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let Some(info) = info else {
            return if was_never_sent(&status) {
                RequestError::NoLeader
            } else if status.code() == Code::DeadlineExceeded {
                RequestError::Deadline { outcome_unknown: true }
            } else {
                RequestError::OutcomeUnknown(status.message().to_owned())
            };
        };
        let text = |name: &str| info.metadata.get(name).cloned();
        let number = |name: &str| text(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        match info.reason.as_str() {
            UNJOINED => RequestError::Unjoined,
            NOT_LEADER => RequestError::NotLeader { client_address: text("leader") },
            // A member that serves nothing leads nobody: another one does, or will.
            NO_LEADER | STATUS_ONLY => RequestError::NoLeader,
            DEADLINE => RequestError::Deadline { outcome_unknown: false },
            OUTCOME_UNKNOWN if status.code() == Code::DeadlineExceeded => {
                RequestError::Deadline { outcome_unknown: true }
            }
            TOO_LARGE if status.code() == Code::InvalidArgument => {
                RequestError::TooLarge { bytes: number("bytes"), limit: number("limit") }
            }
            TOO_LARGE => RequestError::RangeTooLarge { limit: number("limit") },
            BUSY => RequestError::Busy,
            SHUTTING_DOWN => RequestError::ShuttingDown,
            CORRUPT if status.code() == Code::Unavailable => RequestError::Corrupt,
            COMPACTED => {
                RequestError::Compacted { requested: number("requested"), compacted: number("compacted") }
            }
            FUTURE_REVISION => {
                RequestError::FutureRevision { requested: number("requested"), current: number("current") }
            }
            CONDITION_FAILED => {
                let key = text("key_hex").and_then(|text| unhex(&text)).unwrap_or_default();
                RequestError::ConditionFailed { key, actual: number("actual") }
            }
            NO_SPACE => RequestError::NoSpace { limit: number("limit") },
            INVALID => RequestError::Invalid(status.message().to_owned()),
            _ => RequestError::OutcomeUnknown(status.message().to_owned()),
        }
    }
}

/// Whether the request did not even reach a connection.
fn was_never_sent(status: &Status) -> bool {
    causes(status).any(|error| error.is::<tonic::ConnectError>())
}

/// Why a call to a member came to nothing, for people: the innermost cause.
pub fn cause(status: &Status) -> String {
    let mut text = status.message().to_owned();
    for error in causes(status) {
        let wants_tls = |error: &h2::Error| error.reason() == Some(h2::Reason::INADEQUATE_SECURITY);
        if error.downcast_ref().is_some_and(wants_tls) {
            return "it speaks TLS, and this node does not: see --tls".to_owned();
        }
        text = match error.downcast_ref::<std::io::Error>() {
            Some(error) if error.raw_os_error().is_some() => error.kind().to_string(),
            _ => error.to_string(),
        };
    }
    text
}

/// What a status that was made on this side was made of, from the outermost on.
fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(Error::source(status), |&error| error.source())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn unhex(text: &str) -> Option<Bytes> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect::<Option<Vec<u8>>>()
        .map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use crate::place::StatusOnly;

    use super::*;

    fn all() -> Vec<(RequestError, Code, &'static str)> {
        let key = Bytes::from_static(b"\x00k\xff");
        vec![
            (RequestError::Unjoined, Code::Unavailable, "UNJOINED"),
            (RequestError::NotLeader { client_address: Some("a:1".into()) }, Code::Unavailable, "NOT_LEADER"),
            (RequestError::NotLeader { client_address: None }, Code::Unavailable, "NOT_LEADER"),
            (RequestError::NoLeader, Code::Unavailable, "NO_LEADER"),
            (RequestError::Deadline { outcome_unknown: false }, Code::DeadlineExceeded, "DEADLINE"),
            (RequestError::Deadline { outcome_unknown: true }, Code::DeadlineExceeded, "OUTCOME_UNKNOWN"),
            (RequestError::TooLarge { bytes: 3, limit: 2 }, Code::InvalidArgument, "TOO_LARGE"),
            (RequestError::RangeTooLarge { limit: 2 }, Code::FailedPrecondition, "TOO_LARGE"),
            (RequestError::Busy, Code::ResourceExhausted, "BUSY"),
            (RequestError::ShuttingDown, Code::Unavailable, "SHUTTING_DOWN"),
            (RequestError::Compacted { requested: 3, compacted: 5 }, Code::OutOfRange, "COMPACTED"),
            (RequestError::FutureRevision { requested: 5, current: 3 }, Code::OutOfRange, "FUTURE_REVISION"),
            (RequestError::ConditionFailed { key, actual: 7 }, Code::FailedPrecondition, "CONDITION_FAILED"),
            (RequestError::NoSpace { limit: 9 }, Code::ResourceExhausted, "NO_SPACE"),
            (RequestError::Invalid("the key is empty".into()), Code::InvalidArgument, "INVALID"),
        ]
    }

    /// Each error has its code and reason, and survives being forwarded by a member: written as a
    /// table, so that a change of what clients see is a change here.
    #[test]
    fn each_error_has_its_code_and_reason_and_survives_forwarding() {
        for (error, code, reason) in all() {
            let status = Status::from(error.clone());
            let details = status.get_error_details();
            let info = details.error_info().expect("every status has an ErrorInfo");
            assert_eq!((status.code(), info.reason.as_str(), info.domain.as_str()), (code, reason, DOMAIN));
            assert_eq!(status.message(), error.to_string());
            let back = RequestError::from_peer(status);
            assert_eq!(format!("{back:?}"), format!("{error:?}"));
        }
    }

    /// What is said of rights is what etcd's clients know, code and text alike.
    #[test]
    fn errors_of_rights_are_as_in_etcd() {
        for (error, code, reason, message) in [
            (AuthError::UserEmpty, Code::InvalidArgument, "USER_EMPTY", "user name is empty"),
            (AuthError::PermissionDenied, Code::PermissionDenied, "PERMISSION_DENIED", "permission denied"),
            (AuthError::InvalidToken("x"), Code::Unauthenticated, "INVALID_TOKEN", "invalid auth token"),
            (
                AuthError::Failed,
                Code::InvalidArgument,
                "AUTH_FAILED",
                "authentication failed, invalid user ID or password",
            ),
            (
                AuthError::NotEnabled,
                Code::FailedPrecondition,
                "AUTH_NOT_ENABLED",
                "authentication is not enabled",
            ),
            (AuthError::UserExists, Code::FailedPrecondition, "USER_EXISTS", "user name already exists"),
            (AuthError::NoSuchUser, Code::FailedPrecondition, "NO_SUCH_USER", "user name not found"),
            (AuthError::NoRootUser, Code::FailedPrecondition, "NO_ROOT_USER", "root user does not exist"),
            (AuthError::Management, Code::InvalidArgument, "AUTH_MANAGEMENT", "invalid auth management"),
        ] {
            let status = Status::from(RequestError::from(error));
            let details = status.get_error_details();
            let info = details.error_info().expect("every status has an ErrorInfo");
            assert_eq!((status.code(), &*info.reason, status.message()), (code, reason, message));
        }
    }

    /// A write that reached a member which is set aside is in no log, and may be sent to another one.
    #[test]
    fn a_member_that_serves_nothing_is_no_leader() {
        let status =
            Status::from(RequestError::StatusOnly(StatusOnly::OldIncarnation { found: 1, wanted: 2 }));
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("--incarnation-min says 2"), "{}", status.message());
        assert!(matches!(RequestError::from_peer(status), RequestError::NoLeader));
    }

    /// A status that says nothing of ours (a broken connection, a proxy's) must not make a write
    /// look as if it surely had not happened.
    #[test]
    fn a_foreign_status_leaves_a_write_open() {
        let back = RequestError::from_peer(Status::unavailable("broken pipe"));
        assert!(matches!(back, RequestError::OutcomeUnknown(_)));
    }
}
