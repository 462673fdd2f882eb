//! What a request needs, and what a user may do: pure functions of a request and of users and roles.

use bytes::Bytes;
use kvorum_store::Auth;
use kvorum_store::auth::ROOT;
use kvorum_store::command::{KeyRange, Kind, OpKind, Permission, Write};

use super::ranges::Ranges;

/// The key that clients of ours probe a connection by.
const PROBE: &[u8] = b"\0";

/// What a request needs.
#[derive(Clone, Copy, Debug)]
pub enum Needs<'a> {
    /// To be somebody.
    User,
    /// To be root.
    Root,
    /// To be this user, or root.
    Oneself(&'a str),
    /// To have this role, or to be root.
    OwnRole(&'a str),
    /// To read all of a range.
    Read(&'a KeyRange),
    /// What a command does: see [`Rights::allow`].
    Command(&'a Kind),
}

impl Needs<'_> {
    /// Whether it is what a client of ours asks for on a new connection, to hear what answers there: no answer says more.
    pub fn is_probe(&self) -> bool {
        matches!(self, Needs::Read(range) if range.is_key() && range.start == PROBE)
    }
}

/// What a user may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    root: bool,
    roles: Vec<String>,
    read: Ranges,
    write: Ranges,
}

impl Rights {
    /// What all of a user's roles let him do together; nothing where there is no such user.
    pub fn of(auth: &Auth, user: &str) -> Rights {
        let roles = auth.user(user).map(|user| user.roles.clone()).unwrap_or_default();
        let permissions =
            || roles.iter().filter_map(|role| auth.role(role)).flat_map(|role| &role.permissions);
        let ranges = |may: fn(&Permission) -> bool| {
            Ranges::of(permissions().filter(|permission| may(permission)).filter_map(|it| it.range.as_ref()))
        };
        let read = ranges(|permission| permission.access().reads());
        let write = ranges(|permission| permission.access().writes());
        Rights { root: roles.iter().any(|role| role == ROOT), roles, read, write }
    }

    /// Whether that is enough for a request of `user`.
    pub fn allow(&self, user: &str, needs: Needs<'_>) -> bool {
        if self.root {
            return true;
        }
        match needs {
            Needs::User => true,
            Needs::Root => false,
            Needs::Oneself(asked) => asked == user,
            Needs::OwnRole(asked) => self.roles.iter().any(|role| role == asked),
            Needs::Read(range) => self.read.cover(range),
            Needs::Command(kind) => match kind {
                Kind::Write(write) => self.allow_write(write),
                Kind::SetTtl(set) => self.write.cover_key(&set.key),
                // What members do by themselves nobody asks for.
                Kind::Auth(_)
                | Kind::Compact(_)
                | Kind::CompactStep(_)
                | Kind::ExpireDue(_)
                | Kind::Tick(_)
                | Kind::SpaceAlarm(_)
                | Kind::SetQuota(_)
                | Kind::NewHistory(_)
                | Kind::RaiseFeatureLevel(_)
                | Kind::CorruptAlarm(_) => false,
            },
        }
    }

    /// A refused condition tells a key's revision, and what was there before is told where that is asked for: both
    /// need reading too.
    fn allow_write(&self, write: &Write) -> bool {
        let reads = |key: &Bytes| self.read.cover_key(key);
        let previous = |range: &KeyRange| !write.return_previous || self.read.cover(range);
        write.conditions.iter().all(|condition| reads(&condition.key))
            && write.ops.iter().all(|op| match &op.kind {
                Some(OpKind::Put(put)) => {
                    self.write.cover_key(&put.key) && (!write.return_previous || reads(&put.key))
                }
                Some(OpKind::Delete(range)) => self.write.cover(range) && previous(range),
                // Apply refuses it.
                None => false,
            })
    }

    /// How many ranges it takes.
    pub fn ranges(&self) -> usize {
        self.read.len() + self.write.len()
    }
}
