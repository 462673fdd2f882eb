//! Goal: nobody does what he may not. Method: a node with users of several rights; every RPC there is, and every way
//! around rights that was found in etcd, by each of them.
#![allow(clippy::unwrap_used, clippy::wildcard_imports, clippy::disallowed_methods)]

#[path = "fixture/audit.rs"]
mod audit;
mod fixture;
#[path = "../../auth/tests/issuer/mod.rs"]
mod issuer;
#[path = "fixture/tls.rs"]
mod tls;

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use audit::Kept;
use bytes::Bytes;
use fixture::Fixture;
use futures_util::future::BoxFuture;
use http_body::Body as _;
use kvorum_node::config::{Bootstrap, Config};
use kvorum_node::machine::Machine;
use kvorum_node::server::Node;
use kvorum_proto::admin::v1 as admin;
use kvorum_proto::auth::v1 as auth;
use kvorum_proto::auth::v1::auth_client::AuthClient;
use kvorum_proto::kv::v1 as kv;
use kvorum_proto::kv::v1::batch_op::{Op, Put};
use kvorum_proto::kv::v1::condition::Expect;
use kvorum_tls::make::Subject;
use prost::Message;
use tls::Certificates;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};
use tonic::codegen::{Service as _, http};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use tower::ServiceExt as _;

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// To be somebody.
    User,
    Read,
    Write,
    Both,
    /// To be `reader`, or root.
    Reader,
    Root,
    /// To come by the peer port, as root.
    Administrator,
}

/// Everybody there is, and what of `a/` he may do.
const CALLERS: [(Option<&str>, &[Needs]); 7] = [
    (None, &[Needs::Nothing]),
    // Nobody has made him.
    (Some("stranger"), &[Needs::Nothing]),
    (Some("idle"), &[Needs::Nothing, Needs::User]),
    (Some("reader"), &[Needs::Nothing, Needs::User, Needs::Read, Needs::Reader]),
    (Some("writer"), &[Needs::Nothing, Needs::User, Needs::Write]),
    (Some("both"), &[Needs::Nothing, Needs::User, Needs::Read, Needs::Write, Needs::Both]),
    (
        Some("root"),
        &[Needs::Nothing, Needs::User, Needs::Read, Needs::Write, Needs::Both, Needs::Reader, Needs::Root],
    ),
];

type Call = Box<dyn Fn(Channel) -> BoxFuture<'static, Result<(), Status>>>;

/// A call, and what it needs.
struct Row {
    path: &'static str,
    what: &'static str,
    needs: Needs,
    call: Call,
}

/// A call of this method with this message.
fn row<M: Message + Clone + 'static>(
    path: &'static str,
    what: &'static str,
    needs: Needs,
    message: M,
) -> Row {
    let call = move |channel| -> BoxFuture<'static, Result<(), Status>> {
        let message = message.clone();
        Box::pin(async move {
            let mut grpc = tonic::client::Grpc::new(channel);
            grpc.ready()
                .await
                .map_err(|error: tonic::transport::Error| Status::from_error(Box::new(error)))?;
            let codec = tonic_prost::ProstCodec::<M, ()>::default();
            let mut request = Request::new(message);
            request.set_timeout(Duration::from_secs(10));
            // An answer is a stream of one message.
            let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
            let mut answers = grpc.server_streaming(request, path, codec).await?.into_inner();
            answers.message().await.map(drop)
        })
    };
    Row { path, what, needs, call: Box::new(call) }
}

fn range(start: &'static str, end: &'static str) -> Option<kv::KeyRange> {
    Some(kv::KeyRange { start: start.into(), end: end.into(), unbounded: false })
}

fn unbounded(start: &'static str) -> Option<kv::KeyRange> {
    Some(kv::KeyRange { start: start.into(), end: Bytes::new(), unbounded: true })
}

fn absent(key: &'static str) -> kv::Condition {
    kv::Condition { key: key.into(), expect: Some(Expect::Absent(true)) }
}

fn put(key: &'static str) -> kv::BatchOp {
    kv::BatchOp { op: Some(Op::Put(Put { key: key.into(), value: "v".into(), ttl_ms: 0 })) }
}

fn delete(range: Option<kv::KeyRange>) -> kv::BatchOp {
    kv::BatchOp { op: range.map(Op::Delete) }
}

fn set(key: &'static str) -> kv::SetRequest {
    kv::SetRequest { key: key.into(), value: "v".into(), ..Default::default() }
}

/// Reads. The users of this test may do something with what begins with `a/`, and with nothing else.
fn reads() -> Vec<Row> {
    const GET: &str = "/kv.v1.Kv/Get";
    const TTL: &str = "/kv.v1.Kv/Ttl";
    const SCAN: &str = "/kv.v1.Kv/Scan";
    const WATCH: &str = "/kv.v1.Kv/Watch";
    let get = |key: &'static str, serializable| kv::GetRequest { key: key.into(), serializable, revision: 0 };
    let scan = |range| kv::ScanRequest { range, ..Default::default() };
    let watch = |range| kv::WatchRequest { range, ..Default::default() };
    vec![
        row(GET, "a key", Needs::Read, get("a/k", false)),
        row(GET, "a stale key", Needs::Read, get("a/k", true)),
        row(GET, "another key", Needs::Root, get("b", false)),
        row(GET, "another stale key", Needs::Root, get("b", true)),
        // CVE-2023-32082: the life of a lease told the keys on it to whoever could not read them.
        row(TTL, "a key", Needs::Read, kv::TtlRequest { key: "a/k".into(), serializable: false }),
        row(TTL, "another key", Needs::Root, kv::TtlRequest { key: "a".into(), serializable: true }),
        row(SCAN, "all", Needs::Read, scan(range("a/", "a0"))),
        row(SCAN, "beyond the end", Needs::Root, scan(range("a/", "a0\0"))),
        row(SCAN, "from before the start", Needs::Root, scan(range("a", "a0"))),
        // GHSA-xg4h: a range without an end was taken for one key.
        row(SCAN, "without an end", Needs::Root, scan(unbounded("a/"))),
        row(WATCH, "all", Needs::Read, watch(range("a/", "a0"))),
        row(WATCH, "a key", Needs::Read, watch(range("a/k", ""))),
        // GHSA-xg4h, too.
        row(WATCH, "without an end", Needs::Root, watch(unbounded("a/k"))),
    ]
}

/// Writes.
fn writes() -> Vec<Row> {
    const SET: &str = "/kv.v1.Kv/Set";
    const DELETE: &str = "/kv.v1.Kv/Delete";
    const BATCH: &str = "/kv.v1.Kv/Batch";
    let with = |condition| kv::SetRequest { condition: Some(condition), ..set("a/k") };
    let deleting = |range, return_previous| kv::DeleteRequest { range, return_previous, condition: None };
    let batch = |ops: Vec<kv::BatchOp>, conditions| kv::BatchRequest { ops, conditions };
    vec![
        row(SET, "a key", Needs::Write, set("a/k")),
        row(SET, "another key", Needs::Root, set("a")),
        // GHSA-x35m: what was there before was told to whoever could only write.
        row(
            SET,
            "and tell what was there",
            Needs::Both,
            kv::SetRequest { return_previous: true, ..set("a/k") },
        ),
        // A refusal tells the revision of the condition's key.
        row(SET, "if its own key is absent", Needs::Both, with(absent(""))),
        row(SET, "if another is absent", Needs::Root, with(absent("b"))),
        row(DELETE, "all", Needs::Write, deleting(range("a/", "a0"), false)),
        row(DELETE, "all, and tell what was there", Needs::Both, deleting(range("a/", "a0"), true)),
        row(DELETE, "without an end", Needs::Root, deleting(unbounded("a/"), false)),
        row(
            DELETE,
            "if another is absent",
            Needs::Root,
            kv::DeleteRequest { condition: Some(absent("b")), ..deleting(range("a/k", ""), false) },
        ),
        row(
            "/kv.v1.Kv/Expire",
            "a key",
            Needs::Write,
            kv::ExpireRequest { key: "a/k".into(), ttl_ms: 60_000 },
        ),
        row("/kv.v1.Kv/Expire", "another key", Needs::Root, kv::ExpireRequest { key: "b".into(), ttl_ms: 1 }),
        row("/kv.v1.Kv/Persist", "a key", Needs::Write, kv::PersistRequest { key: "a/k".into() }),
        row("/kv.v1.Kv/Persist", "another key", Needs::Root, kv::PersistRequest { key: "b".into() }),
        // GHSA-rfx7: what was nested went unchecked.
        row(BATCH, "keys", Needs::Write, batch(vec![put("a/1"), delete(range("a/2", "a/9"))], vec![])),
        row(BATCH, "one other key", Needs::Root, batch(vec![put("a/1"), put("b")], vec![])),
        row(
            BATCH,
            "one other range",
            Needs::Root,
            batch(vec![put("a/1"), delete(range("a/2", "b"))], vec![]),
        ),
        row(BATCH, "if one is absent", Needs::Both, batch(vec![put("a/1")], vec![absent("a/none")])),
        row(BATCH, "if another is absent", Needs::Root, batch(vec![put("a/1")], vec![absent("b")])),
        row("/kv.v1.Kv/Compact", "history", Needs::Root, kv::CompactRequest { revision: 1 }),
    ]
}

/// Users, roles and the cluster. What changes them is refused for other reasons where it is allowed, or the same again.
fn others() -> Vec<Row> {
    let (user, role): (String, String) = ("idle".into(), "nothing".into());
    let both = Some(auth::Permission { range: range("n", ""), access: auth::Access::Read.into() });
    vec![
        // GHSA-q8m4: some of these were answered without a user.
        row("/kv.v1.Cluster/Members", "all", Needs::User, kv::MembersRequest {}),
        row("/auth.v1.Auth/AuthEnable", "again", Needs::Root, auth::AuthEnableRequest {}),
        row(
            "/auth.v1.Auth/Authenticate",
            "by a wrong password",
            Needs::Nothing,
            auth::AuthenticateRequest { name: "root".into(), password: "wrong".into() },
        ),
        row("/auth.v1.Auth/AuthStatus", "", Needs::User, auth::AuthStatusRequest {}),
        // By root it is done, and undone by the next row.
        row("/auth.v1.Auth/AuthObserve", "", Needs::Root, auth::AuthObserveRequest {}),
        row("/auth.v1.Auth/AuthEnable", "after that", Needs::Root, auth::AuthEnableRequest {}),
        row(
            "/auth.v1.Auth/UserAdd",
            "again",
            Needs::Root,
            auth::UserAddRequest { name: user.clone(), ..Default::default() },
        ),
        row("/auth.v1.Auth/UserDelete", "none", Needs::Root, auth::UserDeleteRequest { name: "none".into() }),
        row(
            "/auth.v1.Auth/UserGet",
            "himself",
            Needs::Reader,
            auth::UserGetRequest { name: "reader".into() },
        ),
        row("/auth.v1.Auth/UserGet", "another", Needs::Root, auth::UserGetRequest { name: "root".into() }),
        row("/auth.v1.Auth/UserList", "all", Needs::Root, auth::UserListRequest {}),
        row(
            "/auth.v1.Auth/UserChangePassword",
            "of none",
            Needs::Root,
            auth::UserChangePasswordRequest { name: "none".into(), ..Default::default() },
        ),
        row(
            "/auth.v1.Auth/UserGrantRole",
            "root",
            Needs::Root,
            auth::UserGrantRoleRequest { user: "root".into(), role: "root".into() },
        ),
        row(
            "/auth.v1.Auth/UserRevokeRole",
            "that he does not have",
            Needs::Root,
            auth::UserRevokeRoleRequest { user, role: role.clone() },
        ),
        row("/auth.v1.Auth/RoleAdd", "again", Needs::Root, auth::RoleAddRequest { name: "read".into() }),
        row("/auth.v1.Auth/RoleDelete", "none", Needs::Root, auth::RoleDeleteRequest { name: "none".into() }),
        row("/auth.v1.Auth/RoleGet", "his own", Needs::Reader, auth::RoleGetRequest { name: "own".into() }),
        row(
            "/auth.v1.Auth/RoleGet",
            "none of his",
            Needs::Root,
            auth::RoleGetRequest { name: "nothing".into() },
        ),
        row("/auth.v1.Auth/RoleList", "all", Needs::Root, auth::RoleListRequest {}),
        row(
            "/auth.v1.Auth/RoleGrantPermission",
            "to none",
            Needs::Root,
            auth::RoleGrantPermissionRequest { role: "none".into(), permission: both },
        ),
        row(
            "/auth.v1.Auth/RoleRevokePermission",
            "that it does not have",
            Needs::Root,
            auth::RoleRevokePermissionRequest { role, range: range("n", "") },
        ),
    ]
}

/// What administers, on the peer port. All of it comes to nothing, but for what a member may ask too.
fn administration() -> Vec<Row> {
    vec![
        row("/admin.v1.Admin/Status", "", Needs::Nothing, admin::StatusRequest::default()),
        row(
            "/admin.v1.Admin/Initialize",
            "",
            Needs::Administrator,
            admin::InitializeRequest { node_id: 1, cluster_id: 1, closed: true },
        ),
        row("/admin.v1.Admin/AddLearner", "", Needs::Administrator, admin::AddLearnerRequest::default()),
        row(
            "/admin.v1.Admin/RemoveLearner",
            "",
            Needs::Administrator,
            admin::RemoveLearnerRequest { node_id: 1, expected: Some(admin::LogId { term: 99, index: 1 }) },
        ),
        row(
            "/admin.v1.Admin/ChangeMembership",
            "",
            Needs::Administrator,
            admin::ChangeMembershipRequest {
                expected: Some(admin::LogId { term: 99, index: 1 }),
                ..Default::default()
            },
        ),
        row(
            "/admin.v1.Admin/TransferLeader",
            "",
            Needs::Administrator,
            admin::TransferLeaderRequest { to: 1 },
        ),
        row("/admin.v1.Admin/Recover", "", Needs::Administrator, admin::RecoverRequest::default()),
        row("/admin.v1.Admin/Snapshot", "", Needs::Administrator, admin::SnapshotRequest::default()),
        row(
            "/admin.v1.Admin/ApplyAccess",
            "of a role that is none",
            Needs::Administrator,
            admin::ApplyAccessRequest {
                users: vec![admin::DeclaredUser { name: "x".into(), roles: vec!["none".into()] }],
                mode: auth::Mode::Required.into(),
                ..Default::default()
            },
        ),
    ]
}

/// Whether a call was refused for want of rights.
fn denied(outcome: &Result<(), Status>) -> bool {
    let Err(status) = outcome else { return false };
    let details = status.get_error_details();
    let reason = details.error_info().map_or("", |info| &info.reason);
    match (status.code(), reason) {
        (Code::PermissionDenied, "PERMISSION_DENIED") => true,
        (Code::InvalidArgument, "USER_EMPTY") => true,
        (Code::FailedPrecondition, "AUTH_PLAIN") => true,
        (Code::Unavailable | Code::DeadlineExceeded | Code::Unauthenticated, _) => panic!("{status}"),
        _ => false,
    }
}

/// A node on which rights count, with the users of [`CALLERS`].
async fn with_users(certificates: &Certificates) -> Fixture {
    with_users_on(Machine::real(), certificates).await
}

async fn with_users_on(machine: Machine, certificates: &Certificates) -> Fixture {
    with_users_in("optional", machine, certificates).await
}

async fn with_users_in(mode: &str, machine: Machine, certificates: &Certificates) -> Fixture {
    let flags = certificates.flags(mode);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let dir = tempfile::TempDir::new().unwrap();
    let config = Config { client_threads: 0, ..fixture::config(&dir, &flags) };
    let node = Node::start(config, machine).await.unwrap();
    let channel = certificates.connect(node.addresses.client, Some("root")).await;
    let kv = kv::kv_client::KvClient::new(channel.clone());
    let mut it = Fixture { node: Some(node), kv, channel, dir };
    it.get("k").await;
    it.set("a/k", "v").await;
    it.set("b", "v").await;
    knows_users(it.node()).await;
    let root = certificates.connect(it.node().addresses.client, Some("root")).await;
    let mut auth = AuthClient::new(root);
    for name in ["root", "idle", "reader", "writer", "both"] {
        auth.user_add(auth::UserAddRequest { name: name.into(), ..Default::default() }).await.unwrap();
    }
    let permissions = [("read", auth::Access::Read), ("write", auth::Access::Write)];
    for (role, access) in permissions {
        auth.role_add(auth::RoleAddRequest { name: role.into() }).await.unwrap();
        // In two halves, which only together are all of it.
        for half in [range("a/", "a/m"), range("a/m", "a0")] {
            let permission = Some(auth::Permission { range: half, access: access.into() });
            let request = auth::RoleGrantPermissionRequest { role: role.into(), permission };
            auth.role_grant_permission(request).await.unwrap();
        }
    }
    for role in ["own", "nothing"] {
        auth.role_add(auth::RoleAddRequest { name: role.into() }).await.unwrap();
    }
    let grants = [
        ("root", "root"),
        ("reader", "read"),
        ("reader", "own"),
        ("writer", "write"),
        ("both", "read"),
        ("both", "write"),
    ];
    for (user, role) in grants {
        let request = auth::UserGrantRoleRequest { user: user.into(), role: role.into() };
        auth.user_grant_role(request).await.unwrap();
    }
    auth.auth_enable(auth::AuthEnableRequest {}).await.unwrap();
    it
}

/// Waits until the feature level has risen to the one that knows users: a node alone knows what all members know.
async fn knows_users(node: &Node) {
    let raise = async {
        while node.raft().store().feature_level() < kvorum_store::feature::AUTH {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(30), raise).await.expect("the feature level rises");
}

/// A call came to this: the audit has a line of it, which says the same.
fn is_told(kept: &Kept, path: &str, outcome: &Result<(), Status>) {
    let lines = kept.lines();
    // A member asks the others how they are, by calls of its own.
    let of_it: Vec<_> = lines.iter().filter(|line| line["method"] == path[1..]).collect();
    let code = outcome.as_ref().map_or_else(Status::code, |()| Code::Ok);
    let told = of_it.last().map(|line| &line["outcome"]);
    let is_stream = of_it.first().is_some_and(|line| line["outcome"] == "OK");
    assert!(of_it.len() == 1 || of_it.len() == 2 && is_stream, "{path} {outcome:?} {lines:?}");
    assert_eq!(told, Some(&kvorum_node::metrics::code_name(code).into()), "{path} {lines:?}");
}

/// Goal: in Observe nobody is refused, and exactly those calls are counted that are refused once rights count. Method: the
/// same table.
#[test]
fn observe_lets_pass_and_counts_whom_required_refuses() {
    fixture::run(async {
        let certificates = Certificates::make();
        let mut it = with_users(&certificates).await;
        let (client, peer) = (it.node().addresses.client, it.node().addresses.peer);
        let mut root = AuthClient::new(certificates.connect(client, Some("root")).await);
        root.auth_observe(auth::AuthObserveRequest {}).await.unwrap();
        let mut admin = admin::admin_client::AdminClient::new(certificates.connect(peer, Some("root")).await);
        let mut counted = async || {
            let status = admin.status(admin::StatusRequest::default()).await.unwrap().into_inner();
            let sum: u64 = status.let_pass.iter().map(|it| it.requests).sum();
            (sum, status.let_pass)
        };
        for (caller, has) in CALLERS {
            let channel = certificates.connect(client, caller).await;
            for Row { path, what, needs, call } in reads().iter().chain(&writes()) {
                let before = counted().await.0;
                let outcome = call(channel.clone()).await;
                assert!(!denied(&outcome), "{caller:?} {path} {what}: {outcome:?}");
                let after = counted().await.0;
                let expected = u64::from(!has.contains(needs));
                assert_eq!(after - before, expected, "{caller:?} {path} {what}: {outcome:?}");
            }
        }
        let known: BTreeSet<_> =
            counted().await.1.into_iter().map(|it| (it.user, it.proof, it.why)).collect();
        let refused =
            |user: &str, proof: &str, why: &str| (user.to_owned(), proof.to_owned(), why.to_owned());
        let denied = |user| refused(user, "certificate", "permission denied");
        let mut expected: BTreeSet<_> = ["stranger", "idle", "reader", "writer", "both"].map(denied).into();
        expected.insert(refused("", "none", "user name is empty"));
        assert_eq!(known, expected);
        // What clients of ours ask for on a new connection is no request that anybody would miss.
        let before = counted().await.0;
        let mut stranger = kv::kv_client::KvClient::new(certificates.connect(client, None).await);
        let probe = kv::GetRequest { key: Bytes::from_static(b"\0"), revision: 0, serializable: true };
        stranger.get(probe).await.unwrap();
        assert_eq!(counted().await.0, before);
        // A token that proves nothing is let pass, too; a wrong password gets none, as where nobody looks.
        let mut request = Request::new(kv::GetRequest { key: "b".into(), revision: 0, serializable: false });
        request.metadata_mut().insert("token", "made up".parse().unwrap());
        stranger.get(request).await.unwrap();
        let wrong = auth::AuthenticateRequest { name: "both".into(), password: "wrong".into() };
        let answered = AuthClient::new(certificates.connect(client, None).await).authenticate(wrong).await;
        assert_eq!(answered.unwrap_err().message(), "authentication is not enabled");
        let (after, known) = counted().await;
        assert_eq!(after, before + 2);
        let proofs: BTreeSet<_> = known.iter().map(|it| (&*it.proof, &*it.why)).collect();
        assert!(
            proofs.contains(&("none", "invalid auth token: it is no token of this release")),
            "{proofs:?}"
        );
        assert!(
            proofs.contains(&("password", "authentication failed, invalid user ID or password")),
            "{proofs:?}"
        );
        // Under other rights it begins anew.
        root.role_add(auth::RoleAddRequest { name: "another".into() }).await.unwrap();
        assert_eq!(counted().await.0, 0);
        it.stop().await;
    });
}

/// Goal: a watch that was opened in Observe goes on there whatever its watcher may do, and ends once rights count.
#[test]
fn a_watch_of_observe_ends_once_rights_count() {
    fixture::run(async {
        let certificates = Certificates::make();
        let mut it = with_users(&certificates).await;
        let (client, peer) = (it.node().addresses.client, it.node().addresses.peer);
        let mut root = AuthClient::new(certificates.connect(client, Some("root")).await);
        let mut admin = admin::admin_client::AdminClient::new(certificates.connect(peer, Some("root")).await);
        // Before anybody is looked at.
        root.auth_disable(auth::AuthDisableRequest {}).await.unwrap();
        let mut watches = Vec::new();
        for caller in [None, Some("idle"), Some("reader")] {
            let mut kv = kv::kv_client::KvClient::new(certificates.connect(client, caller).await);
            let watch = kv::WatchRequest { range: range("a/", "a0"), ..Default::default() };
            watches.push(kv.watch(watch).await.unwrap().into_inner());
        }
        root.auth_observe(auth::AuthObserveRequest {}).await.unwrap();
        // They are looked at though nothing happens there.
        let looked_at = async {
            loop {
                let status = admin.status(admin::StatusRequest::default()).await.unwrap().into_inner();
                let known: BTreeSet<_> = status.let_pass.into_iter().map(|it| (it.user, it.proof)).collect();
                let expected = [("", "none"), ("idle", "certificate")];
                if known == expected.map(|(user, proof)| (user.to_owned(), proof.to_owned())).into() {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(10), looked_at).await.expect("watches are looked at when rights change");
        let mut kv = kv::kv_client::KvClient::new(certificates.connect(client, Some("root")).await);
        kv.set(set("a/seen")).await.unwrap();
        for watch in &mut watches {
            let event = async {
                loop {
                    let told = watch.message().await.unwrap().expect("it goes on");
                    if !told.events.is_empty() {
                        return;
                    }
                }
            };
            timeout(Duration::from_secs(10), event).await.expect("an event comes in Observe");
        }
        root.auth_enable(auth::AuthEnableRequest {}).await.unwrap();
        for (at, watch) in watches.iter_mut().enumerate() {
            let end = async {
                loop {
                    match watch.message().await {
                        Ok(Some(_)) => {}
                        ended => return ended.err(),
                    }
                }
            };
            match (at, timeout(Duration::from_secs(2), end).await) {
                (0 | 1, ended) => assert!(ended.expect("it ends").is_some(), "watch {at}"),
                (_, ended) => assert!(ended.is_err(), "the reader's watch ended: {ended:?}"),
            }
        }
        it.stop().await;
    });
}

/// Goal: between a cluster's founding and the declaration of what clients may do there is no moment at which anybody may
/// do anything, also after a restart, and no member through which he might. Method: the same table, on a cluster that was
/// founded closed.
#[test]
fn a_cluster_that_was_founded_closed_lets_nobody_in() {
    fixture::run(async {
        let certificates = Certificates::make();
        let dir = tempfile::TempDir::new().unwrap();
        let flags = certificates.flags("required");
        let start = async || {
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            let config = fixture::config(&dir, &flags);
            let advertise_peer = Some("a:2380".to_owned());
            let config = Config { client_threads: 0, bootstrap: Bootstrap::Wait, advertise_peer, ..config };
            Node::start(config, Machine::real()).await.unwrap()
        };
        let administer = async |node: &Node| {
            let channel = certificates.connect(node.addresses.peer, Some("root")).await;
            admin::admin_client::AdminClient::new(channel)
        };
        let closed = |outcome: &Result<(), Status>| {
            let details = outcome.as_ref().err().map(|status| status.get_error_details());
            details.is_some_and(|it| it.error_info().is_some_and(|info| info.reason == "AUTH_CLOSED"))
        };

        let mut node = start().await;
        let founding = admin::InitializeRequest { closed: true, ..Default::default() };
        administer(&node).await.initialize(founding).await.unwrap();
        for restarted in [false, true] {
            if restarted {
                node.stop().await;
                node = start().await;
            }
            knows_users(&node).await;
            for caller in [None, Some("root")] {
                let channel = certificates.connect(node.addresses.client, caller).await;
                for Row { path, what, needs, call } in [reads(), writes(), others()].iter().flatten() {
                    let outcome = call(channel.clone()).await;
                    assert_eq!(
                        closed(&outcome),
                        *needs != Needs::Nothing,
                        "{caller:?} {path} {what}: {outcome:?}"
                    );
                }
            }
            let another =
                admin::Node { node_id: 2, peer_address: "a:1".into(), client_address: "a:2".into() };
            let another = admin::AddLearnerRequest { node: Some(another), expected: None };
            let refused = administer(&node).await.add_learner(another).await.unwrap_err();
            assert!(refused.message().contains("founded closed"), "{refused}");
            assert!(
                administer(&node)
                    .await
                    .status(admin::StatusRequest::default())
                    .await
                    .unwrap()
                    .into_inner()
                    .closed
            );
        }
        // One that declares that rights do not count opens it too.
        administer(&node).await.apply_access(admin::ApplyAccessRequest::default()).await.unwrap();
        assert!(!node.raft().is_closed());
        let channel = certificates.connect(node.addresses.client, None).await;
        kv::kv_client::KvClient::new(channel).set(set("a/k")).await.unwrap();
        assert!(node.stop().await.is_closed());
        let node = start().await;
        assert!(!node.raft().is_closed());
        node.stop().await;
    });
}

/// The one table of what each RPC needs. An RPC without a row fails it, and a call that the audit does not tell of.
#[test]
fn every_call_needs_what_the_table_says() {
    fixture::run(async {
        let (certificates, kept) = (Certificates::make(), Arc::new(Kept::default()));
        let mut it = with_users_on(kept.machine(), &certificates).await;
        kept.take();
        let (client, peer) = (it.node().addresses.client, it.node().addresses.peer);
        let mut seen = BTreeSet::new();
        let on_client_port: Vec<Row> = [reads(), writes(), others()].into_iter().flatten().collect();
        for (caller, has) in CALLERS {
            let channel = certificates.connect(client, caller).await;
            for Row { path, what, needs, call } in &on_client_port {
                seen.insert(*path);
                let outcome = call(channel.clone()).await;
                is_told(&kept, path, &outcome);
                assert_eq!(denied(&outcome), !has.contains(needs), "{caller:?} {path} {what}: {outcome:?}");
            }
        }
        // Without TLS, nobody can say who he is.
        let plain = fixture::connect(client).await;
        for Row { path, what, needs, call } in &on_client_port {
            let outcome = call(plain.clone()).await;
            assert!(denied(&outcome), "in plain text {path} {what}, which needs {needs:?}: {outcome:?}");
        }
        let (root, plain) = (certificates.connect(peer, Some("root")).await, fixture::connect(peer).await);
        for Row { path, needs, call, .. } in &administration() {
            seen.insert(*path);
            let outcome = call(root.clone()).await;
            is_told(&kept, path, &outcome);
            assert!(!denied(&outcome), "root {path}");
            let outcome = call(plain.clone()).await;
            is_told(&kept, path, &outcome);
            assert_eq!(denied(&outcome), *needs == Needs::Administrator, "nobody {path}");
        }
        // Members have a test of their own in api/peer_port.rs; what turns rights off comes last.
        let last = row("/auth.v1.Auth/AuthDisable", "", Needs::Root, auth::AuthDisableRequest {});
        for (caller, _) in &CALLERS[..6] {
            let outcome = (last.call)(certificates.connect(client, *caller).await).await;
            assert!(denied(&outcome), "{caller:?} turns rights off: {outcome:?}");
        }
        (last.call)(certificates.connect(client, Some("root")).await).await.unwrap();
        seen.insert(last.path);
        assert!(
            !denied(&(reads()[2].call)(fixture::connect(client).await).await),
            "everybody may do everything"
        );
        let files = prost_types::FileDescriptorSet::decode(kvorum_proto::DESCRIPTORS).unwrap().file;
        for (package, service) in
            files.iter().flat_map(|file| file.service.iter().map(|it| (file.package(), it)))
        {
            for method in &service.method {
                let path = format!("/{package}.{}/{}", service.name(), method.name());
                assert!(package == "peer.v1" || seen.contains(&*path), "{path} has no row");
            }
        }
        it.stop().await;
    });
}

/// A call of any method, with a message that says nothing.
fn empty(path: String) -> Call {
    Box::new(move |channel| {
        let path = tonic::codegen::http::uri::PathAndQuery::try_from(path.as_str()).unwrap();
        Box::pin(async move {
            let mut grpc = tonic::client::Grpc::new(channel);
            grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
            let codec = tonic_prost::ProstCodec::<(), ()>::default();
            let mut answers = grpc.server_streaming(Request::new(()), path, codec).await?.into_inner();
            timeout(Duration::from_secs(10), answers.message()).await.expect("it is answered").map(drop)
        })
    })
}

/// The services of all ports, and their methods.
fn services() -> Vec<(String, Vec<String>)> {
    use tonic_reflection::pb::{v1, v1alpha};
    let reflection = [v1::FILE_DESCRIPTOR_SET, v1alpha::FILE_DESCRIPTOR_SET];
    let sets =
        [&[kvorum_proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET], &reflection[..]].concat();
    let files = sets.iter().flat_map(|set| prost_types::FileDescriptorSet::decode(*set).unwrap().file);
    let services = files.flat_map(|file| {
        let package = file.package().to_owned();
        file.service.into_iter().map(move |service| {
            let methods = service.method.iter().map(|method| method.name().to_owned()).collect();
            (format!("{package}.{}", service.name()), methods)
        })
    });
    services.collect()
}

/// Whether a call got past the connection and the rights.
fn is_answer(outcome: &Result<(), Status>) -> bool {
    let is_cut_off = outcome.as_ref().is_err_and(|status| std::error::Error::source(status).is_some());
    let is_absent = outcome.as_ref().is_err_and(|status| status.code() == Code::Unimplemented);
    !is_cut_off && !is_absent && !denied(outcome)
}

/// What is answered over a connection, as the docs write it.
async fn answered(channel: Option<Channel>) -> String {
    let Some(channel) = channel else { return "nothing".into() };
    let last = row("/auth.v1.Auth/AuthDisable", "", Needs::Root, auth::AuthDisableRequest {});
    let rows: Vec<Row> =
        [reads(), writes(), others(), administration(), vec![last]].into_iter().flatten().collect();
    let mut all = Vec::new();
    for (service, methods) in services() {
        let mut some = Vec::new();
        for method in &methods {
            let path = format!("/{service}/{method}");
            let calls: Vec<&Call> = rows.iter().filter(|row| row.path == path).map(|row| &row.call).collect();
            // What has no row, members and everybody call.
            let plain = empty(path);
            let mut is_answered = false;
            for call in if calls.is_empty() { vec![&plain] } else { calls } {
                is_answered |= is_answer(&call(channel.clone()).await);
            }
            if is_answered {
                some.push(format!("`{service}/{method}`"));
            }
        }
        if some.len() == methods.len() && some.len() > 1 {
            some = vec![format!("`{service}/*`")];
        }
        all.extend(some);
    }
    if all.is_empty() { "nothing".into() } else { all.join(", ") }
}

/// Goal: a stranger gets what the docs say, and nothing else. Method: nodes on which rights count, every RPC there is, on
/// both ports, by strangers of all kinds. The rows of the table in docs/security.md are what is seen here.
#[test]
fn a_stranger_gets_what_the_docs_say() {
    fixture::run(async {
        let mut rows = Vec::new();
        for mode in ["required", "optional"] {
            let (certificates, others) = (Certificates::make(), Certificates::make());
            let mut it = with_users_in(mode, Machine::real(), &certificates).await;
            let ports = [("2379", it.node().addresses.client), ("2380", it.node().addresses.peer)];
            for (port, address) in ports {
                let none = certificates.connect_with(None);
                let nobody = certificates.connect_with(Some("stranger"));
                let user = Subject::User("root".into());
                let member = Subject::Member(vec!["127.0.0.1".into()]);
                let kinds = [
                    ("TLS, no certificate", Certificates::try_connect(address, none).await),
                    (
                        "TLS, a certificate of this CA, of no user",
                        Certificates::try_connect(address, nobody).await,
                    ),
                    (
                        "TLS, root's certificate of another CA",
                        Certificates::try_connect(address, certificates.of_stranger(&others, &user)).await,
                    ),
                    (
                        "TLS, a member's certificate of another CA",
                        Certificates::try_connect(address, certificates.of_stranger(&others, &member)).await,
                    ),
                    ("plain", fixture::try_connect(address).await),
                ];
                for (kind, channel) in kinds {
                    let answered = answered(channel.ok()).await;
                    rows.push(format!("| `--tls {mode}` | {port} | {kind} | {answered} |"));
                }
            }
            it.stop().await;
        }
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/security.md");
        let page = std::fs::read_to_string(page).unwrap();
        let table =
            page.split("\n## What a stranger gets\n").nth(1).and_then(|rest| rest.split("\n## ").next());
        let told: Vec<&str> =
            table.unwrap_or_default().lines().filter(|line| line.starts_with("| `--tls ")).collect();
        assert_eq!(told, rows, "docs/security.md says otherwise; what is seen:\n{}", rows.join("\n"));
    });
}

/// Goal: who wants metrics encrypted has them on the client port, whichever HTTP he speaks there, and nothing else by GET.
/// Method: a node that speaks TLS only, asked by somebody without a certificate.
#[test]
fn metrics_are_to_be_had_with_tls() {
    fixture::run(async {
        let certificates = Certificates::make();
        let mut it = with_users_in("required", Machine::real(), &certificates).await;
        let (client, peer) = (it.node().addresses.client, it.node().addresses.peer);
        let ask = async |address, path: &str| {
            let stream = tokio::net::TcpStream::connect(address).await?;
            let tls = certificates.connect_with(None);
            let mut stream = tls.connect_http1(stream, "127.0.0.1").await.map_err(std::io::Error::other)?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: kvorum\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let page = ask(client, "/metrics").await.unwrap();
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("\nkvorum_auth_revision "), "{page}");
        for path in ["/", "/readyz", "/kv.v1.Kv/Get"] {
            let page = ask(client, path).await.unwrap();
            assert!(page.starts_with("HTTP/1.1 404"), "{path}: {page}");
        }
        ask(peer, "/metrics").await.expect_err("the peer port speaks HTTP/2 only");

        let mut channel = certificates.connect(client, None).await;
        let request = http::Request::get("/metrics").body(tonic::body::Body::empty()).unwrap();
        let page = channel.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(page.status(), http::StatusCode::OK);
        let (mut body, mut text) = (page.into_body(), Vec::new());
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            text.extend(frame.unwrap().into_data().unwrap());
        }
        assert!(String::from_utf8_lossy(&text).contains("\nkvorum_auth_revision "));
        it.stop().await;
    });
}

/// A watch ends with the right to it, before it tells of anything that was written after that.
#[test]
fn a_watch_ends_with_its_right() {
    fixture::run(async {
        let certificates = Certificates::make();
        let mut it = with_users(&certificates).await;
        let client = it.node().addresses.client;
        let reader = certificates.connect(client, Some("reader")).await;
        let root = certificates.connect(client, Some("root")).await;
        let mut watching = kv::kv_client::KvClient::new(reader.clone());
        let request = kv::WatchRequest { range: range("a/", "a0"), ..Default::default() };
        let mut idle = watching.watch(request.clone()).await.unwrap().into_inner();
        let mut busy = watching.watch(request).await.unwrap().into_inner();
        let mut writing = kv::kv_client::KvClient::new(root.clone());
        writing.set(set("a/k")).await.unwrap();
        for watch in [&mut idle, &mut busy] {
            assert!(watch.message().await.unwrap().unwrap().events.is_empty(), "the mark comes first");
            assert_eq!(watch.message().await.unwrap().unwrap().events.len(), 1);
        }
        // What has nothing to do with the range leaves them alone.
        let mut auth = AuthClient::new(root);
        auth.role_add(auth::RoleAddRequest { name: "more".into() }).await.unwrap();
        writing.set(set("a/k")).await.unwrap();
        assert_eq!(idle.message().await.unwrap().unwrap().events.len(), 1);
        let revoke = auth::RoleRevokePermissionRequest { role: "read".into(), range: range("a/m", "a0") };
        auth.role_revoke_permission(revoke).await.unwrap();
        let ended = idle.message().await.map(drop);
        assert!(denied(&ended), "{ended:?}");
        writing.set(set("a/k")).await.unwrap();
        // What it has not read yet is from before.
        let mut events = 0;
        let ended = loop {
            match busy.message().await {
                Ok(Some(response)) => events += response.events.len(),
                other => break other.map(drop),
            }
        };
        assert!(denied(&ended) && events <= 1, "{events} events, {ended:?}");
        drop((idle, busy));
        it.stop().await;
    });
}

/// A call with a token in its metadata, and the reason where it is refused.
async fn get_with(channel: &Channel, name: &'static str, token: &str) -> Result<(), String> {
    let mut request = Request::new(kv::GetRequest { key: "a/k".into(), ..Default::default() });
    request.metadata_mut().insert(name, token.parse().unwrap());
    let outcome = kv::kv_client::KvClient::new(channel.clone()).get(request).await.map(drop);
    outcome.map_err(|status| status.get_error_details().error_info().unwrap().reason.clone())
}

/// Goal: a password is worth a token, and the token what its user is, until it ends or he gets another password.
#[test]
fn a_password_is_worth_a_token() {
    fixture::run(async {
        let certificates = Certificates::make();
        let mut it = with_users(&certificates).await;
        let client = it.node().addresses.client;
        let root = certificates.connect(client, Some("root")).await;
        let mut by_root = AuthClient::new(root.clone());
        let change = |password: &str| auth::UserChangePasswordRequest {
            name: "reader".into(),
            password: password.into(),
        };
        by_root.user_change_password(change("secret")).await.unwrap();

        let nobody = certificates.connect(client, None).await;
        let login = async |channel: &Channel, name: &str, password: &str| {
            let request = auth::AuthenticateRequest { name: name.into(), password: password.into() };
            let answer = AuthClient::new(channel.clone()).authenticate(request).await;
            answer.map(|answer| answer.into_inner().token).map_err(|status| status.message().to_owned())
        };
        let failed = Err("authentication failed, invalid user ID or password".to_owned());
        for (name, password) in
            [("reader", "other"), ("nobody", "secret"), ("writer", ""), ("writer", "secret")]
        {
            assert_eq!(login(&nobody, name, password).await, failed, "{name} {password}");
        }
        let plain = fixture::connect(client).await;
        assert!(login(&plain, "reader", "secret").await.unwrap_err().contains("TLS"));
        let token = login(&nobody, "reader", "secret").await.unwrap();
        let refused = |reason: &str| Err(reason.to_owned());

        assert_eq!(get_with(&nobody, "token", &token).await, Ok(()));
        assert_eq!(get_with(&nobody, "authorization", &format!("Bearer {token}")).await, Ok(()));
        assert_eq!(get_with(&plain, "token", &token).await, refused("INVALID_TOKEN"));
        for garbage in ["", "x", &token[1..], &format!("{token}A"), "eyJhbGciOiJub25lIn0.e30."] {
            assert_eq!(get_with(&nobody, "token", garbage).await, refused("INVALID_TOKEN"), "{garbage}");
            // What was not the last token of the connection is not taken for it.
            assert_eq!(get_with(&nobody, "token", &token).await, Ok(()));
        }
        // A token goes before a certificate, upwards and downwards.
        let writer = certificates.connect(client, Some("writer")).await;
        assert_eq!(get_with(&writer, "token", &token).await, Ok(()));
        assert_eq!(get_with(&root, "token", "x").await, refused("INVALID_TOKEN"));

        // A change of somebody else's rights leaves it alone, a role that he loses does not.
        by_root.role_add(auth::RoleAddRequest { name: "more".into() }).await.unwrap();
        assert_eq!(get_with(&nobody, "token", &token).await, Ok(()));
        let grant = auth::UserRevokeRoleRequest { user: "reader".into(), role: "read".into() };
        by_root.user_revoke_role(grant).await.unwrap();
        assert_eq!(get_with(&nobody, "token", &token).await, refused("PERMISSION_DENIED"));
        let grant = auth::UserGrantRoleRequest { user: "reader".into(), role: "read".into() };
        by_root.user_grant_role(grant).await.unwrap();
        assert_eq!(get_with(&nobody, "token", &token).await, Ok(()));

        // Another password ends it, and its watches; the new one works, and with it a new token.
        let mut watching = Request::new(kv::WatchRequest { range: range("a/", "a0"), ..Default::default() });
        watching.metadata_mut().insert("token", token.parse().unwrap());
        let mut watch =
            kv::kv_client::KvClient::new(nobody.clone()).watch(watching).await.unwrap().into_inner();
        watch.message().await.unwrap().unwrap();
        by_root.user_change_password(change("another")).await.unwrap();
        assert_eq!(watch.message().await.unwrap_err().code(), Code::Unauthenticated);
        assert_eq!(get_with(&nobody, "token", &token).await, refused("INVALID_TOKEN"));
        assert_eq!(login(&nobody, "reader", "secret").await, failed);
        let token = login(&nobody, "reader", "another").await.unwrap();
        assert_eq!(get_with(&nobody, "token", &token).await, Ok(()));
        // Rights that begin to count anew have another key.
        by_root.auth_disable(auth::AuthDisableRequest {}).await.unwrap();
        by_root.auth_enable(auth::AuthEnableRequest {}).await.unwrap();
        assert_eq!(get_with(&nobody, "token", &token).await, refused("INVALID_TOKEN"));
        by_root.user_delete(auth::UserDeleteRequest { name: "reader".into() }).await.unwrap();
        assert_eq!(login(&nobody, "reader", "another").await, failed);
        drop(watch);
        it.stop().await;
    });
}

/// Goal: a ServiceAccount does what the operator has declared for it, with no more than its token. Method: an API
/// server's keys of the test's own, declared as the operator does it, and taken back.
#[test]
fn a_service_account_is_its_token() {
    fixture::run(async {
        let certificates = Certificates::make();
        let mut it = with_users(&certificates).await;
        let (client, peer) = (it.node().addresses.client, it.node().addresses.peer);
        let operator = certificates.connect(peer, Some("root")).await;
        let mut operator = admin::admin_client::AdminClient::new(operator);
        let declared = |accounts: &[&str]| {
            let user =
                |name: &&str| admin::DeclaredUser { name: (*name).into(), roles: vec!["declared".into()] };
            let permission = auth::Permission { range: range("a/", "a0"), access: auth::Access::Read.into() };
            admin::ApplyAccessRequest {
                users: accounts.iter().map(user).collect(),
                roles: vec![admin::DeclaredRole { name: "declared".into(), permissions: vec![permission] }],
                issuer: Some(admin::TokenIssuer {
                    issuer: issuer::ISSUER.into(),
                    audience: issuer::AUDIENCE.into(),
                    jwks: issuer::KEYS.jwks(),
                }),
                mode: auth::Mode::Required.into(),
            }
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let token = |end: u64| {
            let claims = issuer::with(serde_json::json!({"iat": now - 600, "nbf": now - 600, "exp": end}));
            issuer::KEYS.sign(&issuer::header("ES256", "p256"), &claims)
        };
        let pod = certificates.connect(client, None).await;
        let refused = |reason: &str| Err(reason.to_owned());
        assert_eq!(get_with(&pod, "token", &token(now + 600)).await, refused("INVALID_TOKEN"));
        operator.apply_access(declared(&[])).await.unwrap();
        // It proves who it is, and may do nothing.
        assert_eq!(get_with(&pod, "token", &token(now + 600)).await, refused("PERMISSION_DENIED"));
        operator.apply_access(declared(&[issuer::USER])).await.unwrap();
        assert_eq!(get_with(&pod, "token", &token(now + 600)).await, Ok(()));
        assert_eq!(get_with(&pod, "token", &token(now - 300)).await, refused("INVALID_TOKEN"));
        // Whoever can reads the issuer's keys anew, where a member says that there may be another one.
        let mut asking = operator.clone();
        let mut unknown = async || {
            let status = asking.status(admin::StatusRequest::default()).await.unwrap().into_inner();
            status.unknown_token_key
        };
        let rotated = issuer::KEYS.sign(&issuer::header("ES256", "next"), &issuer::claims());
        assert!(!unknown().await, "nobody has sent it");
        assert_eq!(get_with(&pod, "token", &rotated).await, refused("INVALID_TOKEN"));
        assert!(unknown().await);
        // What was declared since may have it.
        operator.apply_access(declared(&[issuer::USER, "somebody"])).await.unwrap();
        assert!(!unknown().await);
        let foreign = issuer::Issuer::generate();
        let forged = foreign.sign(&issuer::header("ES256", "p256"), &issuer::claims());
        assert_eq!(get_with(&pod, "token", &forged).await, refused("INVALID_TOKEN"));

        // A token that ended a while ago, within what clocks may differ by, opens a watch that does not last.
        let ended = Duration::from_secs(now - 50 + 60);
        let mut watching = Request::new(kv::WatchRequest { range: range("a/", "a0"), ..Default::default() });
        watching.metadata_mut().insert("token", token(now - 50).parse().unwrap());
        let mut watch = kv::kv_client::KvClient::new(pod.clone()).watch(watching).await.unwrap().into_inner();
        watch.message().await.unwrap().unwrap();
        let mut by_root = kv::kv_client::KvClient::new(certificates.connect(client, Some("root")).await);
        let over = loop {
            by_root.set(set("a/k")).await.unwrap();
            match timeout(Duration::from_secs(10), watch.message()).await.unwrap() {
                Ok(Some(response)) => assert_eq!(response.events.len(), 1),
                Ok(None) => panic!("a watch ended without a word"),
                Err(status) => break status,
            }
            sleep(Duration::from_millis(100)).await;
        };
        assert_eq!(over.code(), Code::Unauthenticated, "{over}");
        assert!(SystemTime::now().duration_since(UNIX_EPOCH).unwrap() >= ended, "it ended before its token");

        // What is declared is shown, and nobody else's to change. Without its entry the account is nobody.
        let mut users = AuthClient::new(certificates.connect(client, Some("root")).await);
        let shown =
            users.user_get(auth::UserGetRequest { name: issuer::USER.into() }).await.unwrap().into_inner();
        assert!(shown.declared && shown.roles == ["declared"]);
        let change = auth::UserRevokeRoleRequest { user: issuer::USER.into(), role: "declared".into() };
        let status = users.user_revoke_role(change).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "invalid auth management"));
        operator.apply_access(declared(&[])).await.unwrap();
        assert_eq!(get_with(&pod, "token", &token(now + 600)).await, refused("PERMISSION_DENIED"));
        // What could never verify a token is refused, before it is anywhere.
        let mut broken = declared(&[issuer::USER]);
        broken.issuer.as_mut().unwrap().jwks = "{}".into();
        assert_eq!(operator.apply_access(broken).await.unwrap_err().code(), Code::InvalidArgument);
        drop(watch);
        it.stop().await;
    });
}
