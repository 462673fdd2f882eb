//! Commands, and what became of them: everything that changes the store goes through the raft log
//! as one of these. They are protobuf messages, so that a newer release can add fields; the field
//! numbers are on disk and on the wire and must stay.
//!
//! A command is encoded once, where the request comes in. Nothing in it depends on a clock or on
//! chance: apply takes the time from the batch's stamp.

mod auth;
mod kinds;
mod outcome;
mod range;

pub use self::auth::{
    Access, AuthChange, AuthKind, AuthMode, DeclaredRole, DeclaredUser, Disable, Enable, Permission,
    ReplaceAccess, RolePermission, TokenIssuer, UserPassword, UserRole,
};
pub use self::kinds::{
    Command, Compact, CompactStep, Condition, CorruptAlarm, DueKey, ExpireDue, Kind, NewHistory, Op, OpKind,
    Put, RaiseFeatureLevel, SetQuota, SetTtl, SpaceAlarm, Tick, Write, asks_for_records,
};
pub use self::outcome::{Answer, Done, Outcome, Reason, Record, Refused, TtlSet, Written};
pub use self::range::KeyRange;
