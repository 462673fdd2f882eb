//! What stands on disk: every column family, key and value of the state.
//!
//! Numbers in keys are big endian, so that RocksDB's byte order is theirs. Numbers in values are
//! varints (seven bits a byte, lowest first), except in the head, which is of fixed width. Every
//! value begins with a format byte; a later release may write another one and still reads this.
//!
//! | column family | key | value | written by |
//! |---|---|---|---|
//! | `current` | user key | [`RecordHead`], value | apply: a put, a TTL set or dropped |
//! | `history` | escaped user key, inverted mod revision | end revision, [`RecordHead`], value | apply: when a record is overwritten or deleted |
//! | | the same | format byte 2: end revision, [`RecordHead`] | apply, from feature level 2 on: when a record's TTL is changed |
//! | `changes` | revision, number within it | kind, previous mod revision, length of the previous value, user key | apply: for every key that a revision changes |
//! | `deadlines` | deadline, user key | mod revision | apply: for every record that has a deadline |
//! | `default` | a name of [`meta`] | see there | apply, install, restore |
//! | | a name of [`auth`] | see there | apply, from feature level 3 on; restore |
//!
//! How records of `history` are visible, and share values, is told in [`history`].

pub(crate) mod auth;
mod changes;
mod codec;
mod current;
mod deadlines;
mod head;
mod history;
pub(crate) mod meta;
mod size;
#[cfg(test)]
mod tests;

pub(crate) use self::auth::{
    AUTH, AUTH_ROLE, AUTH_USER, AuthHead, AuthRow, auth_value_bytes, decode_auth, encode_auth,
};
pub use self::auth::{Role, User};
pub(crate) use self::changes::{CHANGES, Change, ChangeKind, change_key, decode_change_key};
pub(crate) use self::codec::Malformed;
pub(crate) use self::current::{CURRENT, RecordHead};
pub(crate) use self::deadlines::{
    DEADLINES, deadline_key, decode_deadline, decode_deadline_key, encode_deadline,
};
pub(crate) use self::head::Head;
pub(crate) use self::history::{
    HISTORY, Superseded, decode_history_key, history_after, history_key, history_prefix,
};
pub(crate) use self::meta::{
    META, decode_alarms, decode_feature_level, decode_position, encode_alarms, encode_feature_level,
    encode_position,
};
pub(crate) use self::size::record_bytes;
