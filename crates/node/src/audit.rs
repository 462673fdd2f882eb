//! Who did what: a line of JSON for each call, where `--audit` asks for it.
//!
//! The router begins a call's [`Trail`], whichever service the call is for, and writes it when the call is answered;
//! the request door adds what it learns on the way. So no call is without a line, whatever becomes of it. A line has
//! names and keys, and never a value, a password or a token.

mod line;
mod stdout;

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvorum_store::command::{KeyRange, Kind};
use kvorum_tls::{Identity, Peer};
use prometheus::IntCounter;
use tonic::Code;

use line::Entry;
pub use stdout::{LINES_WAITING_MAX, StandardOutput};

/// What is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    /// Nothing.
    Off,
    /// What changes keys, users, rights or the cluster, log-ins, and snapshots, which are everything at once.
    Writes,
    /// What reads, too.
    All,
}

/// What only reads, and tells no more than its caller may read. Whatever is not in this list is among the writes: what
/// is new is not forgotten.
pub const READS: [&str; 11] = [
    "kv.v1.Kv/Get",
    "kv.v1.Kv/Ttl",
    "kv.v1.Kv/Scan",
    "kv.v1.Kv/Watch",
    "kv.v1.Cluster/Members",
    "auth.v1.Auth/AuthStatus",
    "auth.v1.Auth/UserGet",
    "auth.v1.Auth/UserList",
    "auth.v1.Auth/RoleGet",
    "auth.v1.Auth/RoleList",
    "admin.v1.Admin/Status",
];

/// What needs nobody's right and tells nothing, and what members say to each other.
const NEVER: [&str; 2] = ["grpc.", "peer.v1."];
/// What no service has: its name is whatever somebody has made up.
const UNKNOWN: &str = "unknown";

impl Level {
    /// Whether calls of a method are written down, `package.Service/Method`.
    pub fn takes(self, method: &str) -> bool {
        match self {
            Level::Off => false,
            Level::Writes => !READS.contains(&method) && method != UNKNOWN && !is_never(method),
            Level::All => !is_never(method),
        }
    }
}

fn is_never(method: &str) -> bool {
    NEVER.iter().any(|package| method.starts_with(package))
}

/// Where lines go. Whoever writes one does not wait.
pub trait Sink: Send + Sync {
    /// Takes a line, with its end, or loses it.
    fn line(&self, line: &[u8]);

    /// How many were lost.
    fn lost(&self) -> u64;
}

/// What is written down, and where. Clones are the same one.
#[derive(Clone)]
pub struct Audit {
    level: Level,
    sink: Arc<dyn Sink>,
}

impl Audit {
    /// Writes what this level says to this sink; nothing where that is nothing.
    pub fn to(level: Level, sink: impl FnOnce() -> Arc<dyn Sink>) -> Option<Audit> {
        (level != Level::Off).then(|| Audit { level, sink: sink() })
    }

    /// With the counter of lines that are lost.
    pub fn counted(self, dropped: IntCounter) -> Auditor {
        Auditor(Arc::new(Counted { audit: self, dropped, counted: AtomicU64::new(0) }))
    }
}

/// Begins the trails of calls. Clones are the same one.
#[derive(Clone)]
pub struct Auditor(Arc<Counted>);

struct Counted {
    audit: Audit,
    dropped: IntCounter,
    /// How many of the lost lines `dropped` has.
    counted: AtomicU64,
}

impl Auditor {
    /// A call of this method has begun, over a connection from here.
    pub fn begin(&self, method: &str, address: IpAddr, peer: Option<&Peer>) -> Trail {
        if !self.0.audit.level.takes(method) {
            return Trail::default();
        }
        let mut entry = Entry::new(method, address);
        if let Some(user) = peer.and_then(|peer| holder(&peer.identity)) {
            entry.proven(Some((&user, "certificate")));
        }
        Trail(Some(Arc::new(Open { auditor: self.clone(), entry: Mutex::new(entry) })))
    }
}

impl Counted {
    fn write(&self, line: &[u8]) {
        let sink = &self.audit.sink;
        sink.line(line);
        let lost = sink.lost();
        let known = self.counted.fetch_max(lost, Ordering::Relaxed);
        self.dropped.inc_by(lost.saturating_sub(known));
    }
}

/// Whom a certificate names.
fn holder(identity: &Identity) -> Option<String> {
    match identity {
        Identity::User(name) | Identity::Outside(name) => Some(name.clone()),
        Identity::Member => Some("kvorum:member".into()),
        Identity::Operator => Some("kvorum:operator".into()),
        Identity::Nobody => None,
    }
}

/// What is known of a call so far; nothing of one that is not written down. Clones are the same one.
#[derive(Clone, Default)]
pub struct Trail(Option<Arc<Open>>);

struct Open {
    auditor: Auditor,
    entry: Mutex<Entry>,
}

impl fmt::Debug for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "a trail" } else { "no trail" })
    }
}

impl Trail {
    fn entry(&self) -> Option<MutexGuard<'_, Entry>> {
        Some(self.0.as_ref()?.entry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its caller has proven that he is somebody, by this; or he has not, whatever his certificate says.
    pub fn proven(&self, proven: Option<(&str, &'static str)>) {
        if let Some(mut entry) = self.entry() {
            entry.proven(proven);
        }
    }

    /// It reads this.
    pub fn reads(&self, range: &KeyRange) {
        if let Some(mut entry) = self.entry() {
            entry.range(range);
        }
    }

    /// It does this.
    pub fn changes(&self, kind: &Kind) {
        if let Some(mut entry) = self.entry() {
            entry.kind(kind);
        }
    }

    /// It is about a user, a role or a member.
    pub fn concerns(&self, target: fmt::Arguments<'_>) {
        if let Some(mut entry) = self.entry() {
            entry.concerns(target);
        }
    }

    /// It tells of this revision, or has made it.
    pub fn at(&self, revision: u64) {
        if let Some(mut entry) = self.entry() {
            entry.at(revision);
        }
    }

    /// It was answered so. A stream that ends otherwise is written once more.
    pub fn answered(&self, code: Code) {
        if let (Some(open), Some(entry)) = (&self.0, self.entry()) {
            open.auditor.0.write(&entry.line(code));
        }
    }
}
