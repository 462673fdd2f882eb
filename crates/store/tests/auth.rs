//! Goal: users, roles and rights are replicated state like any other, and nothing that was checked under other rights
//! is applied. Method: entries of the log, restarts, snapshots, verification, and a store on a lower feature level.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use kvorum_store::command::{
    Access, Answer, AuthKind, Command, Compact, CompactStep, Enable, KeyRange, Kind, Op, OpKind, Permission,
    Put, RaiseFeatureLevel, Reason, RolePermission, SetQuota, SetTtl, Tick, UserPassword, UserRole, Write,
};
use kvorum_store::entry::{Entry, LogId, encode_batch_of_level};
use kvorum_store::{Received, SnapshotReceiver, SnapshotSender, Store, StoreOptions, verify_state};

const LEVEL: u32 = kvorum_store::feature::AUTH;

struct Log {
    store: Store,
    next: u64,
}

impl Log {
    /// A store on the level that knows users.
    fn new(dir: &Path) -> Log {
        let mut log = Log { store: open(dir), next: 0 };
        let raise = RaiseFeatureLevel { level: LEVEL, release: "1.0.0".into() };
        log.apply([Kind::RaiseFeatureLevel(raise).into()]);
        log
    }

    /// One entry with these commands, and what became of each.
    fn apply<const N: usize>(&mut self, commands: [Command; N]) -> Vec<Option<Reason>> {
        let commands = commands.map(|command| command.encoded());
        let payload = encode_batch_of_level(LEVEL, self.next, commands.iter());
        let entry = Entry { log_id: LogId { term: 1, index: self.next }, payload };
        self.next += 1;
        let run = self.store.apply(&[entry]).unwrap();
        let reason = |answer: &Option<Answer>| match answer {
            Some(Answer::Refused(refused)) => Some(refused.reason()),
            _ => None,
        };
        run.outcomes[0].iter().map(|outcome| reason(&outcome.answer)).collect()
    }

    /// A user `root` with his role, and rights that count; answers the fence.
    fn enable(&mut self) -> u64 {
        let root = || "root".to_owned();
        let add = AuthKind::UserAdd(UserPassword { name: root(), hash: "phc".into() });
        let grant = AuthKind::UserGrantRole(UserRole { user: root(), role: root() });
        let enable = AuthKind::Enable(Enable { session_key: vec![7; 32].into() });
        assert_eq!(self.apply([add, grant, enable].map(|change| auth(change, 0))), [None; 3]);
        self.store.auth_fence()
    }
}

fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions { cache_bytes: 16 << 20, ..Default::default() }).unwrap()
}

fn put(key: &str) -> Kind {
    let put = Put { key: key.to_owned().into(), value: "v".into(), ..Put::default() };
    Kind::Write(Write { ops: vec![Op { kind: Some(OpKind::Put(put)) }], ..Write::default() })
}

fn checked(kind: Kind, auth_revision: u64) -> Command {
    Command { kind: Some(kind), auth_revision }
}

fn auth(change: AuthKind, auth_revision: u64) -> Command {
    checked(Kind::Auth(change.into()), auth_revision)
}

fn role_add(name: &str) -> AuthKind {
    AuthKind::RoleAdd(name.into())
}

#[test]
fn nothing_is_applied_that_was_checked_under_other_rights() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(dir.path());
    // Rights do not count: whatever the number says.
    assert_eq!(log.apply([checked(put("a"), 0), checked(put("b"), 99)]), [None, None]);
    let fence = log.enable();
    assert_eq!(fence, log.store.auth().revision());
    let moved = Some(Reason::AuthMoved);
    let ttl = || Kind::SetTtl(SetTtl { key: "a".into(), ttl_ms: 0 });
    let compact = || Kind::Compact(Compact { revision: 2 });
    // Without the number, with an older and with a later one.
    for other in [0, fence - 1, fence + 1] {
        let refused = log.apply([
            checked(put("c"), other),
            checked(ttl(), other),
            checked(compact(), other),
            auth(role_add("r"), other),
        ]);
        assert_eq!(refused, [moved; 4], "checked as of {other}");
    }
    assert_eq!((log.store.keys(), log.store.compacted(), log.store.auth_fence()), (2, 0, fence));
    assert_eq!(log.apply([checked(put("c"), fence), checked(compact(), fence)]), [None, None]);
    // What members do by themselves goes on.
    let own = [
        Kind::Tick(Tick {}),
        Kind::CompactStep(CompactStep { changes_max: 1 }),
        Kind::SetQuota(SetQuota { bytes: 0 }),
        Kind::ExpireDue(Default::default()),
        Kind::SpaceAlarm(Default::default()),
        Kind::CorruptAlarm(Default::default()),
    ];
    assert_eq!(log.apply(own.map(|kind| checked(kind, 0))), [None; 6]);
    // Within one entry, a change fences what comes behind it, and nothing else.
    let outcomes =
        log.apply([checked(put("d"), fence), auth(role_add("r"), fence), checked(put("e"), fence)]);
    assert_eq!(outcomes, [None, None, moved]);
    assert_eq!(log.store.auth_fence(), fence + 1);
    // What changes nothing fences nothing.
    assert_eq!(
        log.apply([auth(role_add("r"), fence + 1), checked(put("e"), fence + 1)]),
        [Some(Reason::RoleExists), None]
    );
}

/// Goal: in Observe everything is let pass, whatever it was checked as of; and nothing of that is applied any more once
/// rights count, be it in the same entry.
#[test]
fn nothing_that_was_let_pass_is_applied_once_rights_count() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(dir.path());
    let fence = log.enable();
    let enable = || AuthKind::Enable(Enable { session_key: vec![8; 32].into() });
    let observe = || AuthKind::Observe(Enable { session_key: vec![8; 32].into() });
    let moved = Some(Reason::AuthMoved);
    // Without the right number nobody makes rights lax.
    assert_eq!(log.apply([auth(observe(), 0), checked(put("a"), 0)]), [moved; 2]);
    assert_eq!(log.apply([auth(observe(), fence), checked(put("a"), 0), checked(put("b"), 99)]), [None; 3]);
    // A change of rights whose outcome nobody knows comes after no other one.
    assert_eq!(
        log.apply([auth(enable(), 0), auth(enable(), fence), checked(put("b"), fence)]),
        [moved, moved, None]
    );
    assert_eq!((log.store.auth_fence(), log.store.auth_as_of()), (0, fence + 1));
    log.store.flush().unwrap();
    drop(log.store);
    log.store = open(dir.path());
    assert_eq!((log.store.auth_fence(), log.store.auth_as_of()), (0, fence + 1), "after a restart");
    let outcomes = log.apply([checked(put("c"), 0), auth(enable(), fence + 1), checked(put("d"), 0)]);
    assert_eq!(outcomes, [None, None, moved]);
    // What was checked in Observe as of its revision is not as of this one either.
    assert_eq!(log.apply([checked(put("d"), fence + 1), auth(role_add("r"), fence + 1)]), [moved; 2]);
    assert_eq!((log.store.keys(), log.store.auth_fence()), (3, fence + 2));
    assert_eq!(log.apply([checked(put("d"), fence + 2)]), [None]);
}

#[test]
fn a_lower_level_knows_no_users() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log { store: open(dir.path()), next: 0 };
    let raise = RaiseFeatureLevel { level: LEVEL - 1, release: "1.0.0".into() };
    let command = Command::from(Kind::RaiseFeatureLevel(raise)).encoded();
    let payload = encode_batch_of_level(LEVEL - 1, 0, [command].iter());
    log.store.apply(&[Entry { log_id: LogId { term: 1, index: 0 }, payload }]).unwrap();
    log.next = 1;
    assert_eq!(log.apply([auth(role_add("r"), 0), checked(put("k"), 0)]), [Some(Reason::Unknown), None]);
    assert_eq!(log.store.auth().revision(), 0);
}

#[test]
fn rights_survive_restarts_and_snapshots_and_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(dir.path());
    let fence = log.enable();
    let before = log.store.logical_bytes();
    let range = KeyRange::prefix("app/");
    let permission = Some(Permission { range: Some(range), access: Access::ReadWrite.into() });
    let grant = AuthKind::RoleGrantPermission(RolePermission { role: "app".into(), permission });
    assert_eq!(log.apply([auth(role_add("app"), fence), auth(grant, fence + 1)]), [None, None]);
    assert!(log.store.logical_bytes() > before);
    let (hash, revision) = (log.store.auth().hash(), log.store.auth().revision());
    assert_eq!(revision, fence + 2);

    log.store.flush().unwrap();
    drop(log.store);
    assert_eq!(verify_state(dir.path()).unwrap(), [], "the rows are those that the head counts");
    log.store = open(dir.path());
    let read = log.store.auth();
    assert_eq!((read.hash(), read.revision(), log.store.auth_fence()), (hash, revision, revision));

    let other = tempfile::tempdir().unwrap();
    let receiving = open(other.path());
    let mut receiver = SnapshotReceiver::new(other.path()).unwrap();
    let chunks = SnapshotSender::new(Arc::new(log.store.checkpoint().unwrap()));
    let mut whole = None;
    for chunk in chunks {
        match receiver.chunk(chunk.unwrap()).unwrap() {
            Received::More(more) => receiver = more,
            Received::Whole(snapshot) => {
                whole = Some(snapshot);
                break;
            }
        }
    }
    receiving.install(whole.unwrap()).unwrap();
    assert_eq!((receiving.auth().hash(), receiving.auth_fence()), (hash, revision));

    // A state that is restored has rights as before, and sessions of before are none.
    receiving.found_from(b"membership", &[1; 32]).unwrap();
    let restored = receiving.auth();
    assert_eq!((restored.revision(), &restored.session_key()[..]), (revision, &[1; 32][..]));
    drop(receiving);
    assert_eq!(open(other.path()).auth().hash(), restored.hash());

    // What is removed counts no more.
    assert_eq!(log.apply([auth(AuthKind::RoleDelete("app".into()), revision)]), [None]);
    assert_eq!(log.store.logical_bytes(), before);
}
