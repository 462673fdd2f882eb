//! A line, and what goes into it.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::time::SystemTime;

use kvorum_store::command::{AuthKind, KeyRange, Kind, OpKind, Permission};
use serde::Serialize;
use tonic::Code;

use crate::metrics::code_name;

/// Text of keys in a line, in bytes; the keys that are left out are counted. So a line has some hundred bytes, and ten
/// thousand at most.
const KEYS_TEXT_MAX: usize = 1_024;
/// Text of one key, in bytes; what is longer is cut, and says so.
const KEY_TEXT_MAX: usize = 256;
/// Of a user, a role or a member that a call is about. Names are no longer; what is made up may be.
const TARGET_TEXT_MAX: usize = 768;

/// What is known of a call.
#[derive(Serialize)]
pub(super) struct Entry {
    user: Option<String>,
    proof: &'static str,
    address: IpAddr,
    method: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    keys: Vec<Keys>,
    #[serde(skip_serializing_if = "is_zero")]
    keys_left_out: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(skip)]
    keys_text: usize,
}

/// Keys that a call is about, as text: bytes that are no printable ASCII are escaped.
#[derive(Serialize)]
#[serde(rename_all = "lowercase", untagged)]
enum Keys {
    One {
        key: String,
    },
    Range {
        from: String,
        /// Absent: to the last key.
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
    /// Of a condition.
    Condition {
        #[serde(rename = "if")]
        key: String,
    },
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Entry {
    pub(super) fn new(method: &str, address: IpAddr) -> Entry {
        Entry {
            user: None,
            proof: "none",
            address,
            method: method.to_owned(),
            target: None,
            keys: Vec::new(),
            keys_left_out: 0,
            revision: None,
            keys_text: 0,
        }
    }

    pub(super) fn proven(&mut self, proven: Option<(&str, &'static str)>) {
        self.user = proven.map(|(user, _)| user.to_owned());
        self.proof = proven.map_or("none", |(_, proof)| proof);
    }

    pub(super) fn concerns(&mut self, target: fmt::Arguments<'_>) {
        let mut text = target.to_string();
        if text.len() > TARGET_TEXT_MAX {
            text.truncate(text.floor_char_boundary(TARGET_TEXT_MAX));
            text.push('…');
        }
        self.target = Some(text);
    }

    pub(super) fn at(&mut self, revision: u64) {
        self.revision = Some(revision);
    }

    pub(super) fn range(&mut self, range: &KeyRange) {
        let from = text_of(&range.start);
        self.add(match (range.is_key(), range.unbounded) {
            (true, _) => Keys::One { key: from },
            (false, true) => Keys::Range { from, to: None },
            (false, false) => Keys::Range { from, to: Some(text_of(&range.end)) },
        });
    }

    fn add(&mut self, keys: Keys) {
        let bytes = match &keys {
            Keys::One { key } | Keys::Condition { key } => key.len(),
            Keys::Range { from, to } => from.len() + to.as_ref().map_or(0, String::len),
        };
        if self.keys_left_out > 0 || self.keys_text + bytes > KEYS_TEXT_MAX {
            self.keys_left_out += 1;
            return;
        }
        self.keys_text += bytes.max(1);
        self.keys.push(keys);
    }

    pub(super) fn kind(&mut self, kind: &Kind) {
        match kind {
            Kind::Write(write) => {
                for op in &write.ops {
                    match &op.kind {
                        Some(OpKind::Put(put)) => self.add(Keys::One { key: text_of(&put.key) }),
                        Some(OpKind::Delete(range)) => self.range(range),
                        None => {}
                    }
                }
                for condition in &write.conditions {
                    self.add(Keys::Condition { key: text_of(&condition.key) });
                }
            }
            Kind::SetTtl(set) => self.add(Keys::One { key: text_of(&set.key) }),
            Kind::Compact(compact) => self.concerns(format_args!("revision {}", compact.revision)),
            Kind::Auth(change) => {
                if let Some(kind) = &change.kind {
                    self.auth(kind);
                }
            }
            // Nobody asks for these.
            Kind::CompactStep(_)
            | Kind::ExpireDue(_)
            | Kind::Tick(_)
            | Kind::SpaceAlarm(_)
            | Kind::SetQuota(_)
            | Kind::NewHistory(_)
            | Kind::RaiseFeatureLevel(_)
            | Kind::CorruptAlarm(_) => {}
        }
    }

    fn auth(&mut self, change: &AuthKind) {
        match change {
            AuthKind::UserAdd(user) | AuthKind::UserChangePassword(user) => {
                self.concerns(format_args!("user {}", user.name));
            }
            AuthKind::UserDelete(name) => self.concerns(format_args!("user {name}")),
            AuthKind::UserGrantRole(it) | AuthKind::UserRevokeRole(it) => {
                self.concerns(format_args!("user {}, role {}", it.user, it.role));
            }
            AuthKind::RoleAdd(name) | AuthKind::RoleDelete(name) => {
                self.concerns(format_args!("role {name}"))
            }
            AuthKind::RoleGrantPermission(it) | AuthKind::RoleRevokePermission(it) => {
                let access = it.permission.as_ref().map(Permission::access);
                match (change, access) {
                    (AuthKind::RoleGrantPermission(_), Some(access)) => {
                        self.concerns(format_args!("role {}, {access:?}", it.role));
                    }
                    _ => self.concerns(format_args!("role {}", it.role)),
                }
                if let Some(range) = it.permission.as_ref().and_then(|it| it.range.as_ref()) {
                    self.range(range);
                }
            }
            AuthKind::Enable(_) | AuthKind::Observe(_) | AuthKind::Disable(_) => {}
            AuthKind::ReplaceAccess(access) => {
                self.concerns(format_args!("{} users, {} roles", access.users.len(), access.roles.len()));
            }
        }
    }

    /// The line, with its end.
    pub(super) fn line(&self, code: Code) -> Vec<u8> {
        #[derive(Serialize)]
        struct Line<'a> {
            time: String,
            #[serde(flatten)]
            entry: &'a Entry,
            outcome: &'static str,
        }
        let line = Line { time: now(), entry: self, outcome: code_name(code) };
        let mut line = serde_json::to_vec(&line).expect("it is made of text and numbers");
        line.push(b'\n');
        line
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "who reads what was done asks when that was, by the wall clock"
)]
fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// Bytes as text, without an end where they are too many.
fn text_of(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        if text.len() >= KEY_TEXT_MAX {
            // Writing to a string cannot fail.
            let _ = write!(text, "… ({} bytes)", bytes.len());
            break;
        }
        text.extend(byte.escape_ascii().map(char::from));
    }
    text
}
