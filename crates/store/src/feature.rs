//! The feature level of a cluster: what all its members are known to understand.
//!
//! A command, a field or a row that an older release does not know would make members differ in the
//! middle of a rolling upgrade. So what is new is proposed only once the cluster's level says that
//! every member knows it. The level is replicated, and it only rises: the leader proposes
//! [`RaiseFeatureLevel`](crate::command::RaiseFeatureLevel) when all members have reported that they
//! know the next one. A release that does not know the level of a state or of an entry refuses it.
//!
//! | level | what it adds |
//! |---|---|
//! | 1 | All of the first release; what is meant where nothing is said. |
//! | 2 | The command `RaiseFeatureLevel`; the level as the first byte of the state's head and of every batch. A change of a TTL does not copy the value to history, and is refused where there is no room. The command `CorruptAlarm`. |
//! | 3 | The command `AuthChange`, the rows of users and roles, and the auth revision of a command, which apply compares once rights count; whether they do, or are only looked at. All that a write replaces or deletes is bounded, and all that an expiry deletes. |

use crate::command::Kind;

/// The level of a cluster that nothing was said of.
pub const FEATURE_LEVEL_MIN: u32 = 1;

/// The highest level that this release knows.
pub const FEATURE_LEVEL_MAX: u32 = 3;

// On disk and in the log the level takes one byte.
const _: () = assert!(FEATURE_LEVEL_MAX <= u8::MAX as u32);

/// The release that this code is, for messages to others.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// The level from which on a member can be marked as corrupt.
pub const CORRUPT_ALARM: u32 = 2;

/// The level from which on there can be users and roles.
pub const AUTH: u32 = 3;

/// The level from which on a command may be in the log. Below it the command is refused by every
/// release alike: an older one cannot read it, and a newer one must not do more than that.
pub(crate) fn required(kind: &Kind) -> u32 {
    match kind {
        Kind::Write(_)
        | Kind::SetTtl(_)
        | Kind::Compact(_)
        | Kind::CompactStep(_)
        | Kind::ExpireDue(_)
        | Kind::Tick(_)
        | Kind::SpaceAlarm(_)
        | Kind::SetQuota(_)
        | Kind::NewHistory(_) => 1,
        // It needs the level that it raises the cluster to, and its entry says so.
        Kind::RaiseFeatureLevel(raise) => raise.level,
        Kind::CorruptAlarm(_) => CORRUPT_ALARM,
        Kind::Auth(_) => AUTH,
    }
}

/// Whether a change of a TTL leaves a row in `history` that shares the value with the new record. A
/// release that does not know level 2 cannot read such a row, and has others in its place.
pub(crate) fn ttl_shares_value(level: u32) -> bool {
    level >= 2
}

/// Whether a change of a TTL is refused where there is no room: an older release would carry it out.
pub(crate) fn ttl_grows_store(level: u32) -> bool {
    level >= 2
}

/// Whether all that a command replaces and deletes is bounded, and not only what its range deletes take: an older
/// release would carry it out.
pub(crate) fn bounds_superseded(level: u32) -> bool {
    level >= 3
}

/// A level as a byte of the log or of the state.
pub(crate) fn byte(level: u32) -> u8 {
    u8::try_from(level).expect("a level above FEATURE_LEVEL_MAX is refused before it is written")
}

/// What to say of a level that is not known here: which release knows it, and what this one does.
pub(crate) fn unknown(level: u32, known: u32, release: &str) -> String {
    let release = if release.is_empty() { "a later release" } else { release };
    format!(
        "feature level {level}, which {release} knows; this node is release {RELEASE} and knows up to level \
         {known}: start it with {release} or a later one"
    )
}
