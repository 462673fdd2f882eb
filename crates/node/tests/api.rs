//! Goal: what a client sees of one node: the services, their limits and errors, watches, the HTTP
//! port, a clean stop. Method: a node in this process that founds a cluster of one, and plain
//! generated clients.

#![allow(clippy::unwrap_used, clippy::wildcard_imports, clippy::disallowed_methods)]

mod fixture;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser as _;
use fixture::*;
use kvorum_node::config::Cli;
use kvorum_node::machine::Machine;
use kvorum_node::server::Node;
use kvorum_proto::admin::v1 as admin;
use kvorum_proto::admin::v1::admin_client::AdminClient;
use kvorum_proto::kv::v1::batch_op::{Op, Put};
use kvorum_proto::kv::v1::cluster_client::ClusterClient;
use kvorum_proto::kv::v1::condition::Expect;
use kvorum_proto::kv::v1::event::Kind;
use kvorum_proto::kv::v1::kv_client::KvClient;
use kvorum_proto::kv::v1::*;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

/// The names of this process's threads.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok()).collect()
}

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status}"));
    assert_eq!(info.domain, "kvorum.io");
    info.reason.clone()
}

fn on(key: &'static str, expect: Expect) -> Option<Condition> {
    Some(Condition { key: key.into(), expect: Some(expect) })
}

/// Tools find the services by reflection, older ones by its name of before it was finished: both name the
/// same services, and give each one's file.
#[test]
fn reflection_is_served_under_both_its_names() {
    run(async_reflection_is_served_under_both_its_names());
}

async fn async_reflection_is_served_under_both_its_names() {
    macro_rules! ask {
        ($version:ident, $channel:expr) => {{
            use tonic_reflection::pb::$version::ServerReflectionRequest;
            use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
            use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
            use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
            let ask = async |message_request| {
                let request =
                    ServerReflectionRequest { host: String::new(), message_request: Some(message_request) };
                let mut client = ServerReflectionClient::new($channel.clone());
                let answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
                answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap()
            };
            let listed = ask(MessageRequest::ListServices(String::new())).await;
            let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
            let mut names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
            names.sort();
            for name in &names {
                let file = ask(MessageRequest::FileContainingSymbol(name.clone())).await;
                assert!(matches!(file, MessageResponse::FileDescriptorResponse(_)), "{name}: {file:?}");
            }
            names
        }};
    }
    let mut it = Fixture::start().await;
    let expected = [
        "auth.v1.Auth",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "kv.v1.Cluster",
        "kv.v1.Kv",
    ];
    assert_eq!(ask!(v1, it.channel), expected);
    assert_eq!(ask!(v1alpha, it.channel), expected);
    it.stop().await;
}

#[test]
fn keys_are_set_read_and_deleted() {
    run(async_keys_are_set_read_and_deleted());
}

async fn async_keys_are_set_read_and_deleted() {
    let mut it = Fixture::start().await;
    assert!(!it.get("a").await.found);
    let first = it.set("a", "1").await;
    let answer = it.get("a").await;
    let kv = answer.kv.unwrap();
    assert_eq!(
        (&kv.value[..], kv.create_revision, kv.mod_revision, kv.version),
        (&b"1"[..], first, first, 1)
    );
    let header = answer.header.unwrap();
    assert_eq!(header.revision, first);
    assert!(header.cluster_id != 0 && header.node_id != 0 && header.term != 0);

    // Conditions, and what was there before.
    let condition = on("", Expect::ModRevision(first));
    let request =
        SetRequest { key: "a".into(), value: "2".into(), condition, return_previous: true, ttl_ms: 0 };
    let answer = it.kv.set(request.clone()).await.unwrap().into_inner();
    assert_eq!(&answer.previous.unwrap().value[..], b"1");
    let refused = it.kv.set(request).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "CONDITION_FAILED"));

    // An older revision is still there, a future one is not.
    let request = GetRequest { key: "a".into(), revision: first, ..Default::default() };
    assert_eq!(&it.kv.get(request).await.unwrap().into_inner().kv.unwrap().value[..], b"1");
    let request = GetRequest { key: "a".into(), revision: 1 << 40, ..Default::default() };
    assert_eq!(reason(&it.kv.get(request).await.unwrap_err()), "FUTURE_REVISION");

    it.set("b", "").await;
    let request = DeleteRequest { range: key_range("a", "z", false), return_previous: true, condition: None };
    let answer = it.kv.delete(request).await.unwrap().into_inner();
    assert_eq!((answer.deleted, answer.previous.len()), (2, 2));
    assert!(!it.get("a").await.found);
    it.stop().await;
}

#[test]
fn a_batch_is_all_or_nothing() {
    run(async_a_batch_is_all_or_nothing());
}

async fn async_a_batch_is_all_or_nothing() {
    let mut it = Fixture::start().await;
    let put = |key: &'static str| BatchOp {
        op: Some(Op::Put(Put { key: key.into(), value: "v".into(), ttl_ms: 0 })),
    };
    let delete = |range: Option<KeyRange>| BatchOp { op: range.map(Op::Delete) };
    let old = it.set("old", "v").await;
    let refused = BatchRequest {
        conditions: on("new", Expect::ModRevision(old)).into_iter().collect(),
        ops: vec![put("new")],
    };
    assert_eq!(reason(&it.kv.batch(refused).await.unwrap_err()), "CONDITION_FAILED");
    let twice = BatchRequest { ops: vec![put("new"), put("new")], ..Default::default() };
    assert_eq!(reason(&it.kv.batch(twice).await.unwrap_err()), "INVALID");
    assert!(!it.get("new").await.found);
    let request = BatchRequest {
        conditions: on("new", Expect::Absent(true)).into_iter().collect(),
        ops: vec![put("new"), delete(key_range("old", "", false)), put("newer")],
    };
    let answer = it.kv.batch(request).await.unwrap().into_inner();
    assert_eq!(answer.deleted, [0, 1, 0]);
    assert_eq!(answer.header.unwrap().revision, old + 1);
    it.stop().await;
}

#[test]
fn ttls_are_set_read_and_dropped() {
    run(async_ttls_are_set_read_and_dropped());
}

async fn async_ttls_are_set_read_and_dropped() {
    let mut it = Fixture::start().await;
    let request = SetRequest { key: "t".into(), ttl_ms: 100_000, ..Default::default() };
    it.kv.set(request).await.unwrap();
    let request = TtlRequest { key: "t".into(), ..Default::default() };
    let ttl = it.kv.ttl(request.clone()).await.unwrap().into_inner();
    assert!(ttl.found && ttl.has_ttl && (90_000..=100_000).contains(&ttl.remaining_ms), "{ttl:?}");
    let expire = ExpireRequest { key: "t".into(), ttl_ms: 1_000_000 };
    assert!(it.kv.expire(expire).await.unwrap().into_inner().found);
    let persist = PersistRequest { key: "t".into() };
    let answer = it.kv.persist(persist.clone()).await.unwrap().into_inner();
    assert!(answer.found && answer.had_ttl);
    assert!(!it.kv.persist(persist).await.unwrap().into_inner().had_ttl);
    let ttl = it.kv.ttl(request).await.unwrap().into_inner();
    assert!(ttl.found && !ttl.has_ttl);
    let missing =
        it.kv.ttl(TtlRequest { key: "no".into(), ..Default::default() }).await.unwrap().into_inner();
    assert!(!missing.found && !missing.has_ttl);
    it.stop().await;
}

/// Values just within the limit pass; anything larger is refused with the limit in the message,
/// also where the transport refuses it long before us.
#[test]
fn too_large_requests_name_the_limit() {
    run(async_too_large_requests_name_the_limit());
}

async fn async_too_large_requests_name_the_limit() {
    let mut it = Fixture::start().await;
    let value = |bytes: usize| Bytes::from(vec![b'v'; bytes]);
    it.set("large", value(1_468_006)).await;
    assert_eq!(it.get("large").await.kv.unwrap().value.len(), 1_468_006);
    for bytes in [1_572_864, 2 << 20, 20 << 20] {
        let request = SetRequest { key: "large".into(), value: value(bytes), ..Default::default() };
        let refused = it.kv.set(request).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "TOO_LARGE"));
        assert!(refused.message().contains("1572864 bytes"), "{}", refused.message());
    }
    let empty = it.kv.set(SetRequest::default()).await.unwrap_err();
    assert_eq!((empty.code(), reason(&empty).as_str()), (Code::InvalidArgument, "INVALID"));
    it.stop().await;
}

#[test]
fn scans_are_paged_at_one_revision() {
    run(async_scans_are_paged_at_one_revision());
}

async fn async_scans_are_paged_at_one_revision() {
    const KEYS: usize = 300;
    let mut it = Fixture::start().await;
    let keys: Vec<String> = (0..KEYS).map(|n| format!("k{n:04}")).collect();
    for key in &keys {
        let value = Bytes::from(vec![b'v'; 4096]);
        it.kv.set(SetRequest { key: key.clone().into(), value, ..Default::default() }).await.unwrap();
    }
    let found = |pages: &[ScanResponse]| -> Vec<String> {
        let kvs = pages.iter().flat_map(|page| &page.kvs);
        kvs.map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
    };
    let pages = it.scan(ScanRequest { range: everything(), ..Default::default() }).await;
    assert!(pages.len() > 2, "a large range comes in pages");
    assert_eq!(found(&pages), keys);
    let pinned = pages[0].header.unwrap().revision;
    assert!(pages.iter().all(|page| page.header.unwrap().revision == pinned));

    it.set("k0000a", "later").await;
    let request = ScanRequest {
        range: everything(),
        revision: pinned,
        reverse: true,
        limit: 250,
        ..Default::default()
    };
    let expected: Vec<String> = keys.iter().rev().take(250).cloned().collect();
    assert_eq!(found(&it.scan(request).await), expected);
    let request = ScanRequest { range: key_range("x", "y", false), ..Default::default() };
    let pages = it.scan(request).await;
    assert_eq!((pages.len(), pages[0].kvs.len()), (1, 0), "even an empty scan tells its revision");
    let request = ScanRequest { range: everything(), keys_only: true, limit: 5, ..Default::default() };
    assert!(it.scan(request).await[0].kvs.iter().all(|kv| kv.value.is_empty()));
    it.stop().await;
}

/// Every event once and in order: those before the watch from disk, those since from memory, with
/// what was there before, across more changes than the ring holds.
#[test]
fn a_watch_sees_the_past_and_the_present() {
    run(async_a_watch_sees_the_past_and_the_present());
}

async fn async_a_watch_sees_the_past_and_the_present() {
    let mut it = Fixture::start().await;
    let first = it.set("a", "1").await;
    it.set("b", "other").await;
    // More than the ring holds, so that the past is read from disk.
    for _ in 0..12 {
        it.set("big", vec![0; 1 << 20]).await;
    }
    let deleted = DeleteRequest { range: key_range("a", "", false), ..Default::default() };
    it.kv.delete(deleted).await.unwrap();

    let mut watch = it.watch(key_range("a", "", false), first).await;
    let mark = watch.message().await.unwrap().unwrap();
    assert_eq!((mark.events.len(), mark.header.unwrap().revision), (0, first - 1), "a mark comes at once");
    let mut events = Vec::new();
    while events.len() < 2 {
        events.extend(watch.message().await.unwrap().unwrap().events);
    }
    assert_eq!((events[0].kind(), &events[0].kv.as_ref().unwrap().value[..]), (Kind::Put, &b"1"[..]));
    assert_eq!(events[1].kind(), Kind::Delete);
    assert_eq!(&events[1].previous.as_ref().unwrap().value[..], b"1");

    let mut all = it.watch(everything(), 0).await;
    let mark = all.message().await.unwrap().unwrap().header.unwrap().revision;
    let now = it.set("a", "2").await;
    assert_eq!(now, mark + 1);
    for watch in [&mut watch, &mut all] {
        let response = timeout(Duration::from_secs(5), watch.message()).await.unwrap().unwrap().unwrap();
        assert_eq!(response.header.unwrap().revision, now);
        assert_eq!(&response.events[0].kv.as_ref().unwrap().value[..], b"2");
    }
    it.stop().await;
}

/// Many watchers of one prefix, some busy ones of other keys: each sees its own events, all of
/// them, whatever else is written meanwhile.
#[test]
fn many_watchers_miss_nothing() {
    run(async_many_watchers_miss_nothing());
}

async fn async_many_watchers_miss_nothing() {
    const WATCHERS: usize = 100;
    const WRITES: usize = 200;
    let mut it = Fixture::start().await;
    let mut watches = Vec::new();
    for n in 0..WATCHERS {
        let range = if n % 2 == 0 { key_range("a", "b", false) } else { key_range("b", "", false) };
        let mut watch = it.watch(range, 0).await;
        watch.message().await.unwrap();
        watches.push(watch);
    }
    let readers: Vec<_> = watches
        .into_iter()
        .enumerate()
        .map(|(n, mut watch)| {
            let expected = if n % 2 == 0 { WRITES } else { WRITES / 10 };
            tokio::spawn(async move {
                let mut revisions = Vec::new();
                while revisions.len() < expected {
                    let response = watch.message().await.unwrap().unwrap();
                    revisions.extend(response.events.iter().map(|it| it.kv.as_ref().unwrap().mod_revision));
                }
                assert!(revisions.is_sorted_by(|a, b| a < b), "watcher {n}: {revisions:?}");
                assert_eq!(revisions.len(), expected);
            })
        })
        .collect();
    for n in 0..WRITES {
        it.set("a1", "v").await;
        if n % 10 == 0 {
            it.set("b", "v").await;
        }
    }
    for reader in readers {
        timeout(Duration::from_secs(20), reader).await.expect("no watcher misses an event").unwrap();
    }
    it.stop().await;
}

#[test]
fn compacted_revisions_are_refused() {
    run(async_compacted_revisions_are_refused());
}

async fn async_compacted_revisions_are_refused() {
    let mut it = Fixture::start().await;
    let old = it.set("a", "1").await;
    let now = it.set("a", "2").await;
    it.kv.compact(CompactRequest { revision: now }).await.unwrap();
    let get = GetRequest { key: "a".into(), revision: old, ..Default::default() };
    let watch = WatchRequest { range: everything(), from_revision: old, previous: false };
    let scan = ScanRequest { range: everything(), revision: old, ..Default::default() };
    for refused in [
        it.kv.get(get).await.unwrap_err(),
        it.kv.watch(watch).await.unwrap_err(),
        it.kv.scan(scan).await.unwrap_err(),
        it.kv.compact(CompactRequest { revision: old }).await.unwrap_err(),
    ] {
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::OutOfRange, "COMPACTED"));
        let details = refused.get_error_details();
        assert_eq!(details.error_info().unwrap().metadata["compacted"], now.to_string());
    }
    it.stop().await;
}

/// The HTTP port, health and the list of members; `promtool`, where it is installed, finds nothing
/// to say about the metrics.
#[test]
fn the_node_tells_how_it_is() {
    run(async_the_node_tells_how_it_is());
}

async fn async_the_node_tells_how_it_is() {
    let mut it = Fixture::start().await;
    it.set("a", "1").await;
    let begun = Instant::now();
    while it.http("/readyz").await.0 != 200 {
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", it.http("/readyz").await);
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(it.http("/livez").await.0, 200);
    assert!(it.http("/version").await.1.contains(env!("CARGO_PKG_VERSION")));
    assert_eq!(it.http("/nothing").await.0, 404);
    let (code, metrics) = it.http("/metrics").await;
    assert_eq!(code, 200);
    assert!(
        metrics.contains(r#"kvorum_grpc_requests_total{code="OK",method="kv.v1.Kv/Set"} 1"#),
        "{metrics}"
    );
    check_with_promtool(&metrics);

    let mut health = HealthClient::new(it.channel.clone());
    let request = HealthCheckRequest { service: "kv.v1.Kv".into() };
    while health.check(request.clone()).await.unwrap().into_inner().status != 1 {
        assert!(begun.elapsed() < Duration::from_secs(10), "it never serves");
        sleep(Duration::from_millis(50)).await;
    }
    let members =
        ClusterClient::new(it.channel.clone()).members(MembersRequest {}).await.unwrap().into_inner();
    assert_eq!(members.members.len(), 1);
    assert!(members.members[0].reachable && members.members[0].voter);
    assert_eq!(members.members[0].role(), member::Role::Leader);
    it.stop().await;
}

/// A stream counts when it ends, by the status it ends with: a scan that was read to its end, a watch
/// that was given up, a scan that was refused.
#[test]
fn streams_are_counted_by_how_they_end() {
    run(async_streams_are_counted_by_how_they_end());
}

async fn async_streams_are_counted_by_how_they_end() {
    let mut it = Fixture::start().await;
    it.set("a", "1").await;
    it.scan(ScanRequest { range: everything(), ..Default::default() }).await;
    let future = ScanRequest { range: everything(), revision: 1_000, ..Default::default() };
    it.kv.scan(future).await.unwrap_err();
    let mut watch = it.watch(everything(), 0).await;
    watch.message().await.unwrap();
    let (_, metrics) = it.http("/metrics").await;
    assert!(metrics.contains(r#"kvorum_grpc_request_seconds_count{method="kv.v1.Kv/Watch"} 1"#), "{metrics}");
    assert!(!metrics.contains(r#",method="kv.v1.Kv/Watch"} 1"#), "the watch goes on: {metrics}");
    drop(watch);
    let ends = [("OK", "Scan"), ("OUT_OF_RANGE", "Scan"), ("CANCELLED", "Watch")]
        .map(|(code, method)| format!(r#"requests_total{{code="{code}",method="kv.v1.Kv/{method}"}} 1"#));
    let begun = Instant::now();
    loop {
        let (_, metrics) = it.http("/metrics").await;
        let Some(missing) = ends.iter().find(|end| !metrics.contains(*end)) else { break };
        assert!(begun.elapsed() < Duration::from_secs(5), "{missing} is missing in {metrics}");
        sleep(Duration::from_millis(10)).await;
    }
    it.stop().await;
}

fn check_with_promtool(metrics: &str) {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = promtool.spawn() else {
        eprintln!("promtool is not installed: the metrics are not checked");
        return;
    };
    child.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.trim().is_empty(), "{text}");
}

/// A stop ends open watches with a reason, and takes little time.
#[test]
fn a_stop_ends_watches_with_a_reason() {
    run(async_a_stop_ends_watches_with_a_reason());
}

async fn async_a_stop_ends_watches_with_a_reason() {
    let mut it = Fixture::start().await;
    let mut watch = it.watch(everything(), 0).await;
    watch.message().await.unwrap();
    let begun = Instant::now();
    it.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let end = timeout(Duration::from_secs(1), watch.message()).await.expect("the watch has ended");
    assert_eq!(reason(&end.unwrap_err()), "SHUTTING_DOWN");
}

/// The threads of this process that serve clients, which only one of these tests has.
fn client_threads() -> Vec<String> {
    let mut names = threads();
    names.retain(|name| name.starts_with("clients-"));
    names.sort();
    names
}

/// As on a machine with many cores: connections are dealt out to threads, on which all works as it does
/// on one. A stop answers what is under way, writes as well as watches, and then the threads are gone.
#[test]
fn threads_of_their_own_serve_clients_and_stop_like_one() {
    run(async_threads_of_their_own_serve_clients_and_stop_like_one());
}

async fn async_threads_of_their_own_serve_clients_and_stop_like_one() {
    let mut it = Fixture::start_with_threads(2).await;
    assert_eq!(client_threads(), ["clients-0\n", "clients-1\n"]);
    it.set("a", "1").await;
    let mut writers = Vec::new();
    let mut watches = Vec::new();
    for _ in 0..4 {
        let channel = connect(it.node().addresses.client).await;
        let mut kv = KvClient::new(channel.clone());
        let mut pages = kv
            .scan(ScanRequest { range: key_range("a", "b", false), ..Default::default() })
            .await
            .unwrap()
            .into_inner();
        assert_eq!(pages.message().await.unwrap().unwrap().kvs.len(), 1);
        let request = WatchRequest { range: key_range("a", "b", false), ..Default::default() };
        let mut watch = kv.watch(request).await.unwrap().into_inner();
        watch.message().await.unwrap();
        watches.push(watch);
        writers.push(tokio::spawn(async move {
            for written in 0.. {
                let set = SetRequest { key: "w".into(), value: "1".into(), ..Default::default() };
                if let Err(status) = kv.set(set).await {
                    return (written, status);
                }
            }
            unreachable!("the node stops")
        }));
    }
    it.set("a", "2").await;
    for watch in &mut watches {
        let response = timeout(Duration::from_secs(5), watch.message()).await.expect("an event comes");
        assert_eq!(&response.unwrap().unwrap().events[0].kv.as_ref().unwrap().value[..], b"2");
    }
    sleep(Duration::from_millis(200)).await;

    let begun = Instant::now();
    it.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    for writer in writers {
        let (written, status) = writer.await.unwrap();
        assert!(written > 0, "{status}");
        // A refusal, or a connection that was closed in order: it could not be made again, or hyper drops
        // what it had not begun to send ("connection closed"). No write was cut off.
        let info = status.get_error_details().error_info().map(|info| info.reason.clone());
        let text = format!("{status:?}");
        let unsent = text.contains("ConnectError") || text.contains(r#"Canceled, "connection closed""#);
        assert!(info.as_deref() == Some("SHUTTING_DOWN") || unsent, "{status:?}");
    }
    for mut watch in watches {
        assert_eq!(reason(&watch.message().await.unwrap_err()), "SHUTTING_DOWN");
    }
    while !client_threads().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?} go on", client_threads());
        sleep(Duration::from_millis(10)).await;
    }
}

/// The binary as a process. It is killed if a test leaves it running.
struct Process {
    child: Child,
    client: SocketAddr,
}

impl Process {
    /// A member keeps its peer address: another one would make its disk look like a copy.
    fn start(dir: &TempDir, peer: &str) -> Process {
        let any = "127.0.0.1:0";
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvorum-node"));
        command.args(["--bootstrap", "single", "--log-format", "json"]).arg("--data-dir").arg(dir.path());
        command.args(["--listen-client", any, "--listen-peer", peer, "--listen-http", any]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        let serving = lines.by_ref().map(Result::unwrap).find(|line| {
            seen.push_str(line);
            line.contains("\"serving\"")
        });
        // Whoever writes to a pipe that nobody reads is stopped.
        std::thread::spawn(move || lines.for_each(drop));
        let serving = serving.unwrap_or_else(|| panic!("it never serves: {seen}"));
        let client = serving.split("\"client\":\"").nth(1).and_then(|rest| rest.split('"').next());
        Process { child, client: client.and_then(|address| address.parse().ok()).expect("and where") }
    }

    async fn terminate(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        tokio::task::spawn_blocking(move || self.child.wait().unwrap()).await.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has mostly ended by then.
        let _ = self.child.kill();
    }
}

/// SIGTERM ends the process well within its time with exit code 0, with a client connected and a
/// watch open, and everything is there after the next start.
#[test]
fn sigterm_ends_the_process_cleanly() {
    run(async_sigterm_ends_the_process_cleanly());
}

async fn async_sigterm_ends_the_process_cleanly() {
    let dir = TempDir::new().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let peer = free.to_string();
    let process = Process::start(&dir, &peer);
    let mut kv = KvClient::new(connect(process.client).await);
    let set = SetRequest { key: "a".into(), value: "1".into(), ..Default::default() };
    let revision = kv.set(set).await.unwrap().into_inner().header.unwrap().revision;
    let request = WatchRequest { range: everything(), ..Default::default() };
    let _watch = kv.watch(request).await.unwrap();
    let begun = Instant::now();
    assert_eq!(process.terminate().await.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());

    let process = Process::start(&dir, &peer);
    let mut kv = KvClient::new(connect(process.client).await);
    let get = GetRequest { key: "a".into(), ..Default::default() };
    assert_eq!(kv.get(get).await.unwrap().into_inner().kv.unwrap().mod_revision, revision);
    process.terminate().await;

    let mut verify = Command::new(env!("CARGO_BIN_EXE_kvorum-node"));
    let output = verify.arg("verify").arg("--data-dir").arg(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// What cannot work stops the start with one line that says what to do.
#[test]
fn a_start_that_cannot_work_says_why() {
    run(async_a_start_that_cannot_work_says_why());
}

async fn async_a_start_that_cannot_work_says_why() {
    let mut it = Fixture::start().await;
    let fail = async |dir: &TempDir, more: &[&str]| {
        let error =
            Node::start(config(dir, more), Machine::real()).await.err().expect("it cannot start").to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    let error = fail(&it.dir, &[]).await;
    assert!(error.contains("process"), "held by another process: {error}");
    let used = it.node().addresses.client.to_string();
    let other = TempDir::new().unwrap();
    let dir = other.path().to_str().unwrap();
    let any = "127.0.0.1:0";
    let args = [
        "kvorum-node",
        "--data-dir",
        dir,
        "--listen-client",
        &used,
        "--listen-peer",
        any,
        "--listen-http",
        any,
    ];
    let error = Node::start(Cli::parse_from(args).flags.validate().unwrap(), Machine::real())
        .await
        .err()
        .expect("the port is in use");
    assert!(error.to_string().contains("--listen-client") && error.to_string().contains("in use"), "{error}");
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 0, "nothing was written");
    it.stop().await;
}

/// Goal: the value that a write brings back counts as waiting to be sent, as that of a read does, from when it
/// is answered until the client has taken it.
/// Method: a client that does not read, whose window is smaller than the value.
#[test]
fn a_value_that_a_write_brings_back_is_counted() {
    run(async_a_value_that_a_write_brings_back_is_counted());
}

async fn async_a_value_that_a_write_brings_back_is_counted() {
    const VALUE_BYTES: usize = 1 << 20;
    let mut fixture = Fixture::start().await;
    fixture.set("big", vec![b'v'; VALUE_BYTES]).await;
    let waits = async |fixture: &Fixture| {
        let (_, text) = fixture.http("/metrics").await;
        let line = text.lines().find(|line| line.starts_with("kvorum_send_budget_bytes ")).unwrap();
        line.split(' ').nth(1).unwrap().parse::<usize>().unwrap()
    };
    assert_eq!(waits(&fixture).await, 0);
    let address = format!("http://{}", fixture.node().addresses.client);
    let channel = Channel::from_shared(address).unwrap().initial_stream_window_size(64 * 1024);
    let mut client = tonic::client::Grpc::new(channel.connect().await.unwrap());
    client = client.max_decoding_message_size(2 * VALUE_BYTES);
    client.ready().await.unwrap();
    let set = SetRequest { key: "big".into(), return_previous: true, ..Default::default() };
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/kv.v1.Kv/Set");
    let codec = tonic_prost::ProstCodec::<SetRequest, SetResponse>::default();
    // As a stream, so that nothing is read before it is asked for.
    let mut unread =
        client.server_streaming(tonic::Request::new(set), path, codec).await.unwrap().into_inner();
    let waiting = waits(&fixture).await;
    assert!(waiting > VALUE_BYTES / 2, "{waiting} bytes are counted");
    let previous = unread.message().await.unwrap().unwrap().previous.unwrap();
    assert_eq!(previous.value.len(), VALUE_BYTES);
    assert!(unread.message().await.unwrap().is_none());
    assert_eq!(waits(&fixture).await, 0, "the client has all of it");
    fixture.stop().await;
}

/// Goal: who asks for a change of the cluster hears within his own deadline that it goes on, and it does.
/// Method: a member is to be added at an address where somebody listens and never answers.
#[test]
fn a_change_that_takes_too_long_is_told_in_time() {
    run(async_a_change_that_takes_too_long_is_told_in_time());
}

async fn async_a_change_that_takes_too_long_is_told_in_time() {
    /// On a busy machine the client's own clock may be the first to end a call, which says nothing.
    const ATTEMPTS_MAX: usize = 20;
    let mut fixture = Fixture::start().await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peer_address = silent.local_addr().unwrap().to_string();
    let mut admin = AdminClient::new(connect(fixture.node().addresses.peer).await);
    let node = Some(admin::Node { node_id: 7, peer_address, client_address: "127.0.0.1:1".into() });
    for attempt in 1.. {
        let mut request =
            tonic::Request::new(admin::AddLearnerRequest { node: node.clone(), expected: None });
        request.set_timeout(Duration::from_millis(500));
        let status = admin.add_learner(request).await.unwrap_err();
        if status.code() == Code::Cancelled && attempt < ATTEMPTS_MAX {
            continue;
        }
        assert_eq!(status.code(), Code::Unknown, "{status}");
        assert!(status.message().contains("time was up"), "{status}");
        break;
    }
    fixture.stop().await;
}

/// Goal: a stream whose client takes nothing ends, and its memory is there for others; one that waits in
/// vain for room is told so. Method: a patience of a second, and a budget of a few pages.
#[test]
fn a_stream_without_progress_ends() {
    run(async_a_stream_without_progress_ends());
}

async fn async_a_stream_without_progress_ends() {
    let mut fixture = Fixture::start_with(0, &["--send-budget-bytes", "4MiB", "--send-patience", "1s"]).await;
    for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        fixture.set(key, vec![b'v'; 1 << 20]).await;
    }
    let request = ScanRequest { range: everything(), ..Default::default() };
    let mut unread = fixture.kv.scan(request.clone()).await.unwrap().into_inner();
    let begun = Instant::now();
    while !fixture.http("/metrics").await.1.contains("kvorum_send_budget_bytes 0\n")
        || !fixture.http("/metrics").await.1.contains("method=\"kv.v1.Kv/Scan\"} 1")
    {
        assert!(begun.elapsed() < Duration::from_secs(30), "the stream does not end");
        sleep(Duration::from_millis(50)).await;
    }
    let ended = loop {
        match unread.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it was not read in time, and is complete"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Cancelled, "{ended}");
    // The connection itself goes on.
    assert_eq!(fixture.scan(request).await.iter().map(|page| page.kvs.len()).sum::<usize>(), 8);
    fixture.stop().await;
}
