//! Goal: the audit says who did what, of every call, and never a value, a password or a token. Method: trails by
//! themselves, and a node whose lines are kept. That every call has its line is a part of `rights.rs`, which has them all.
#![allow(clippy::unwrap_used, clippy::wildcard_imports, clippy::disallowed_methods)]

#[path = "fixture/audit.rs"]
mod audit;
mod fixture;
#[path = "fixture/tls.rs"]
mod tls;

use std::io;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use audit::Kept;
use fixture::Fixture;
use kvorum_node::audit::*;
use kvorum_node::metrics::Metrics;
use kvorum_proto::DESCRIPTORS;
use kvorum_proto::auth::v1 as auth;
use kvorum_proto::auth::v1::auth_client::AuthClient;
use kvorum_proto::kv::v1 as kv;
use kvorum_store::command::{AuthKind, Condition, KeyRange, Kind, Op, OpKind, Put, UserPassword, Write};
use prost::Message as _;
use tls::Certificates;
use tokio::time::sleep;
use tonic::{Code, Request};

/// The line of a call of which this is known.
fn line(known: impl FnOnce(&Trail)) -> serde_json::Value {
    let kept = Arc::new(Kept::default());
    let audit = kept.audit().unwrap();
    let auditor = audit.counted(Metrics::new().audit_dropped.clone());
    let trail = auditor.begin("kv.v1.Kv/Batch", [127, 0, 0, 1].into(), None);
    known(&trail);
    trail.answered(Code::PermissionDenied);
    let lines = kept.take();
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.ends_with("}\n") && line.matches('\n').count() == 1, "{line:?}");
    serde_json::from_str(line).unwrap()
}

/// Every method of the APIs is taken by `all`, and by `writes` unless it is in the list of reads, which names methods
/// that there are.
#[test]
fn no_method_is_left_out() {
    let files = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
    let mut reads = 0;
    for file in &files {
        for service in &file.service {
            for method in &service.method {
                let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                let between_members = file.package() == "peer.v1";
                assert_eq!(Level::All.takes(&name), !between_members, "{name}");
                let is_read = READS.contains(&&*name);
                reads += usize::from(is_read);
                assert_eq!(Level::Writes.takes(&name), !between_members && !is_read, "{name}");
                assert!(!Level::Off.takes(&name));
            }
        }
    }
    assert_eq!(reads, READS.len(), "one of the reads is no method");
    for other in ["grpc.health.v1.Health/Check", "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"] {
        assert!(!Level::All.takes(other), "{other}");
    }
    assert!(Level::All.takes("unknown") && !Level::Writes.takes("unknown"));
}

/// Goal: a line names keys and never values. Method: a batch with all kinds of operations, of bytes that are no text.
#[test]
fn a_line_names_keys_and_no_values() {
    let put = Put { key: "a\n\"\u{e9}".into(), value: "VALUE".into(), ttl_ms: 7 };
    let ops = [
        OpKind::Put(put),
        OpKind::Delete(KeyRange::key("k")),
        OpKind::Delete(KeyRange::prefix("p/")),
        OpKind::Delete(KeyRange { start: "z".into(), end: "".into(), unbounded: true }),
    ];
    let write = Write {
        conditions: vec![Condition { key: "c".into(), mod_revision: 1 }],
        ops: ops.into_iter().map(|kind| Op { kind: Some(kind) }).collect(),
        return_previous: false,
    };
    let mut said = line(|trail| {
        trail.proven(Some(("alice", "session")));
        trail.changes(&Kind::Write(write));
        trail.at(7);
    });
    assert!(humantime::parse_rfc3339(said["time"].as_str().unwrap()).is_ok(), "{said}");
    said.as_object_mut().unwrap().remove("time");
    let expected = serde_json::json!({
        "user": "alice", "proof": "session", "address": "127.0.0.1", "method": "kv.v1.Kv/Batch",
        "keys": [{"key": "a\\n\\\"\\xc3\\xa9"}, {"key": "k"}, {"from": "p/", "to": "p0"}, {"from": "z"}, {"if": "c"}],
        "revision": 7, "outcome": "PERMISSION_DENIED",
    });
    assert_eq!(said, expected);
}

/// A change of users names the user, and neither a password nor its hash.
#[test]
fn a_line_has_no_password() {
    let user = UserPassword { name: "bob".into(), hash: "$argon2id$HASH".into() };
    let said = line(|trail| trail.changes(&Kind::Auth(AuthKind::UserAdd(user).into())));
    assert_eq!((&said["target"], &said["user"]), (&"user bob".into(), &serde_json::Value::Null));
    assert!(!said.to_string().contains("HASH"));
}

/// However many keys there are, and however long they and names are, a line has a bound.
#[test]
fn a_line_has_a_bound() {
    let long = Put { key: vec![0xff; 4_000].into(), ..Put::default() };
    let many = (0..5_000).map(|n| Put { key: format!("{n}").into(), ..Put::default() });
    let ops = [long].into_iter().chain(many).map(|put| Op { kind: Some(OpKind::Put(put)) });
    let write = Write { ops: ops.collect(), ..Write::default() };
    let said = line(|trail| {
        trail.changes(&Kind::Write(write));
        trail.concerns(format_args!("user {}", "é".repeat(100_000)));
    });
    let keys = said["keys"].as_array().unwrap();
    assert!(keys[0]["key"].as_str().unwrap().ends_with("(4000 bytes)"), "{said}");
    assert_eq!(keys.len() + said["keys_left_out"].as_u64().unwrap() as usize, 5_001);
    assert!(keys.len() > 100 && said.to_string().len() < 10_000, "{said}");
}

/// Goal: a node's lines say who did what, and are silent about what nobody else may know. Method: values, a password and
/// a token that would be found anywhere in a line.
#[test]
fn a_node_tells_who_did_what() {
    fixture::run(async {
        let (certificates, kept) = (Certificates::make(), Arc::new(Kept::default()));
        let flags = certificates.flags("optional");
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mut it = Fixture::start_on(kept.machine(), 0, &flags).await;
        it.set("a/k", "VALUE").await;
        while it.node().raft().store().feature_level() < kvorum_store::feature::AUTH {
            sleep(Duration::from_millis(20)).await;
        }
        let client = it.node().addresses.client;
        let mut root = AuthClient::new(certificates.connect(client, Some("root")).await);
        let user = |name: &str, password: &str| auth::UserAddRequest {
            name: name.into(),
            password: password.into(),
        };
        root.user_add(user("root", "")).await.unwrap();
        let role = auth::UserGrantRoleRequest { user: "root".into(), role: "root".into() };
        root.user_grant_role(role).await.unwrap();
        root.user_add(user("bob", "PASSWORD")).await.unwrap();
        root.auth_enable(auth::AuthEnableRequest {}).await.unwrap();
        kept.take();

        let anybody = certificates.connect(client, None).await;
        let login =
            |password: &str| auth::AuthenticateRequest { name: "bob".into(), password: password.into() };
        AuthClient::new(anybody.clone()).authenticate(login("PASSWORD2")).await.unwrap_err();
        let token = AuthClient::new(anybody.clone()).authenticate(login("PASSWORD")).await.unwrap();
        let token = token.into_inner().token;
        let set = kv::SetRequest { key: "a/k".into(), value: "VALUE".into(), ..Default::default() };
        let mut set = Request::new(set);
        set.metadata_mut().insert("token", token.parse().unwrap());
        kv::kv_client::KvClient::new(anybody.clone()).set(set).await.unwrap_err();
        // It has proven nobody, whoever the certificate is.
        let mut get = Request::new(kv::GetRequest { key: "a/k".into(), ..Default::default() });
        get.metadata_mut().insert("token", "TOKEN".parse().unwrap());
        let by_root = certificates.connect(client, Some("root")).await;
        let mut by_root = kv::kv_client::KvClient::new(by_root);
        by_root.get(get).await.unwrap_err();
        let get = kv::GetRequest { key: "a/k".into(), ..Default::default() };
        let revision = by_root.get(get).await.unwrap().into_inner().header.unwrap().revision;
        let set = kv::SetRequest { key: "b".into(), value: "VALUE".into(), ..Default::default() };
        by_root.set(set).await.unwrap();

        let lines = kept.take();
        for line in &lines {
            for secret in ["VALUE", "PASSWORD", "TOKEN", &token] {
                assert!(!line.contains(secret), "{secret} in {line}");
            }
        }
        let told: Vec<_> = lines
            .iter()
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
                let keys = line.get("keys").map(ToString::to_string).unwrap_or_default();
                let told = ["user", "proof", "method", "target", "outcome"].map(text).join(" ");
                (told, keys, line["revision"].as_u64())
            })
            .collect();
        let key = |key: &str| format!(r#"[{{"key":"{key}"}}]"#);
        let none = String::new;
        assert_eq!(
            told,
            [
                ("- none auth.v1.Auth/Authenticate user bob INVALID_ARGUMENT".to_owned(), none(), None),
                ("bob password auth.v1.Auth/Authenticate user bob OK".to_owned(), none(), None),
                ("bob session kv.v1.Kv/Set - PERMISSION_DENIED".to_owned(), key("a/k"), None),
                ("- none kv.v1.Kv/Get - UNAUTHENTICATED".to_owned(), key("a/k"), Some(revision)),
                ("root certificate kv.v1.Kv/Get - OK".to_owned(), key("a/k"), Some(revision)),
                ("root certificate kv.v1.Kv/Set - OK".to_owned(), key("b"), Some(revision + 1)),
            ]
        );
        it.stop().await;
    });
}

/// Takes nothing until it is told.
struct Stuck(mpsc::Receiver<()>, u64);

impl io::Write for Stuck {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        self.1 += 1;
        if self.1.is_multiple_of(10) { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(line.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Goal: whoever writes does not wait, so many wait for the reader, and every other line is counted. Method: an
/// output that takes nothing, and then fails at every tenth line.
#[test]
fn what_nobody_reads_is_counted_and_not_waited_for() {
    let (go_on, stuck) = mpsc::channel();
    let (output, guard) = StandardOutput::on(Stuck(stuck, 0));
    let more = 1_000;
    for _ in 0..LINES_WAITING_MAX + more {
        output.line(b"{}\n");
    }
    let dropped = output.lost();
    // One is in the writer's hand.
    assert!((more as u64 - 1..=more as u64).contains(&dropped), "{dropped}");
    drop(go_on);
    let until = Instant::now() + Duration::from_secs(60);
    let written = LINES_WAITING_MAX as u64 + more as u64 - dropped;
    while output.lost() < dropped + written / 10 {
        assert!(Instant::now() < until, "{} of {written}", output.lost());
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(guard);
    assert_eq!(output.lost(), dropped + written / 10);
}
