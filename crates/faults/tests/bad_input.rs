//! Goal: whatever a caller gets wrong, he is told clearly what it was, and nothing is lost by it.
//!
//! Method: the real tool and the raw API against a real cluster, and real nodes with flags, ports and
//! directories that cannot work. Each case names the words that its answer must hold. At the end the
//! cluster holds what was written before, and nobody panicked.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use kvorum_faults::disk::Disk;
use kvorum_faults::process::{Node, Setup};
use kvorum_faults::program::{self, Ended};
use kvorum_faults::{Cluster, Context as _, Failure, Layout, Result, ensure, ports, rpc};
use kvorum_proto::admin::v1::State;
use kvorum_proto::kv::v1 as wire;
use kvorum_proto::kv::v1::kv_client::KvClient;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// What goes through, and what does not, with the usual limit of 1.5 MiB.
const LARGE_BYTES: usize = 1_400 * 1024;
const TOO_LARGE_BYTES: usize = 2 * 1024 * 1024;
const LIMIT: &str = "1572864";

#[tokio::test]
async fn wrong_requests_are_refused_and_nothing_is_lost() -> Result<()> {
    let cluster = Cluster::found(3, Layout::default()).await?;
    let all = cluster.endpoints();
    program::tool(&all, &["set", "kept", "as it was"]).await?.output()?;

    wrong_command_lines(&all).await?;
    wrong_batches(&all).await?;
    revisions_out_of_reach(&all).await?;
    for node in [cluster.leader().await?, cluster.follower().await?] {
        large_requests(&node).await?;
        raw_requests(&node).await?;
    }

    cluster.compare_stores(cluster.nodes()).await?;
    let kept = program::tool(&all, &["get", "kept"]).await?;
    ensure!(kept.output()? == b"as it was", "the key holds {:?}", kept.stdout);
    check_no_panic(&cluster)?;
    cluster.close()
}

/// What the tool can tell by itself: 2 is the code of a wrong command line.
async fn wrong_command_lines(endpoints: &[String]) -> Result<()> {
    let cases: [(&[&str], i32, &[&str]); 12] = [
        (&["get", "k", "--no-such-flag"], 2, &["--no-such-flag"]),
        (&["no-such-command"], 2, &["no-such-command"]),
        (&["get"], 2, &["KEY"]),
        (&["set", "k", "v", "--ttl", "soon"], 2, &["--ttl", "soon"]),
        (&["set", "k", "v", "--ttl", "0s"], 2, &["--ttl", "1ms"]),
        (&["set", "k", "v", "--if-absent", "--if-revision", "3"], 2, &["--if-absent"]),
        (&["scan", "--limit", "many"], 2, &["--limit"]),
        (&["compact", "0"], 2, &["REVISION"]),
        (&["member", "remove", "not-an-id"], 2, &["hexadecimal"]),
        (&["set", "", "v"], 1, &["key", "empty"]),
        (&["get", ""], 1, &["key", "empty"]),
        (&["get", "no such key"], 3, &["no such key"]),
    ];
    for (arguments, code, words) in cases {
        program::tool(endpoints, arguments).await?.expect(code, words)?;
    }
    let nonsense = ["no port".to_owned()];
    program::tool(&nonsense, &["get", "k"]).await?.expect(2, &["no port", "--endpoints"])?;
    let exists = program::tool(endpoints, &["set", "kept", "lost", "--if-absent"]).await?;
    exists.expect(4, &["kept"])
}

/// The line is named, by its number in the file, and no line is applied.
async fn wrong_batches(endpoints: &[String]) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("batch.jsonl");
    let name = file.to_str().context("a temporary directory has a plain name")?;
    let good = r#"{"set": "half", "value": "done"}"#;
    for (bad, words) in [
        ("{\"set\": ", "EOF"),
        (r#"{"put": "k"}"#, "put"),
        (r#"{"set": "k"}"#, "value"),
        (r#"{"set": "k", "value": "v", "ttl": "soon"}"#, "ttl"),
        (r#"{"set": true, "key_base64": "?", "value": "v"}"#, "base64"),
        ("\u{0}", "expected"),
    ] {
        std::fs::write(&file, format!("{good}\n\n{bad}\n{good}\n"))?;
        let line = format!("{name}:3:");
        program::tool(endpoints, &["batch", name]).await?.expect(1, &[&line, words])?;
        let from_stdin = std::fs::read(&file)?;
        let ended = program::tool_with(endpoints, &["batch", "-"], &from_stdin).await?;
        ended.expect(1, &["standard input:3:"])?;
    }
    std::fs::write(&file, format!("{good}\n{good}\n"))?;
    program::tool(endpoints, &["batch", name]).await?.expect(1, &["half", "written twice"])?;
    std::fs::write(&file, "\n")?;
    program::tool(endpoints, &["batch", name]).await?.expect(1, &[name, "no line"])?;
    program::tool(endpoints, &["batch", "/no/such/file"]).await?.expect(1, &["/no/such/file"])?;
    program::tool(endpoints, &["get", "half"]).await?.expect(3, &[])
}

/// Revisions that are compacted or do not exist yet.
async fn revisions_out_of_reach(endpoints: &[String]) -> Result<()> {
    for value in ["1", "2", "3"] {
        program::tool(endpoints, &["set", "history", value]).await?.output()?;
    }
    let compacted = program::tool(endpoints, &["-o", "json", "set", "history", "4"]).await?;
    let answer: serde_json::Value = serde_json::from_slice(compacted.output()?)?;
    let revision = answer["revision"].as_u64().context("the tool answers a revision")?;
    program::tool(endpoints, &["compact", &revision.to_string()]).await?.output()?;

    let (past, future) = ((revision - 1).to_string(), (revision + 1_000_000).to_string());
    let (compacted, current) = (revision.to_string(), "does not exist yet");
    for (arguments, words) in [
        (vec!["get", "history", "--revision", &past], [&past[..], &compacted]),
        (vec!["get", "history", "--revision", &future], [&future, current]),
        (vec!["scan", "--revision", &past], [&past, &compacted]),
        (vec!["scan", "--revision", &future], [&future, current]),
        (vec!["watch", "history", "--from-revision", &past], [&past, &compacted]),
        (vec!["compact", &past], [&past, &compacted]),
        (vec!["compact", &future], [&future, current]),
    ] {
        program::tool(endpoints, &arguments).await?.expect(1, &words)?;
    }
    Ok(())
}

/// Through this node: 1.4 MiB arrive whole, 2 MiB are refused with the limit, and so is ten times that.
async fn large_requests(node: &Node) -> Result<()> {
    let endpoint = [node.client_address().to_owned()];
    let value: Vec<u8> = (0..LARGE_BYTES).map(|at| (at * 31 % 251) as u8).collect();
    program::tool_with(&endpoint, &["set", "large", "-"], &value).await?.output()?;
    let read = program::tool(&endpoint, &["get", "large"]).await?;
    ensure!(read.output()? == value, "a large value came back changed, {} bytes", read.stdout.len());

    let too_large = vec![b'x'; TOO_LARGE_BYTES];
    let refused = program::tool_with(&endpoint, &["set", "large", "-"], &too_large).await?;
    refused.expect(1, &[LIMIT])?;
    let mut kv = KvClient::new(rpc::channel(node.client_address())?);
    for times in [1, 10] {
        let value = Bytes::from(vec![b'x'; times * TOO_LARGE_BYTES]);
        let request = wire::SetRequest { key: "large".into(), value, ..Default::default() };
        let status = kv.set(request).await.err().context("so much must be refused")?;
        expect_refusal(&status, Code::InvalidArgument, "TOO_LARGE", LIMIT)?;
    }
    let read = program::tool(&endpoint, &["get", "large"]).await?;
    ensure!(read.output()? == value, "a refused write changed the value");
    Ok(())
}

/// What no tool of ours would send.
async fn raw_requests(node: &Node) -> Result<()> {
    let mut kv: KvClient<Channel> = KvClient::new(rpc::channel(node.client_address())?);
    let key = || Bytes::from_static(b"kept");
    let mut refusals = Vec::new();
    let set = wire::SetRequest { key: Bytes::new(), value: key(), ..Default::default() };
    refusals.push((kv.set(set).await.err(), "empty"));
    let set = wire::SetRequest { key: vec![0; 100_000].into(), ..Default::default() };
    refusals.push((kv.set(set).await.err(), "65536"));
    let set = wire::SetRequest { key: key(), condition: Some(Default::default()), ..Default::default() };
    refusals.push((kv.set(set).await.err(), "condition"));
    refusals.push((kv.delete(wire::DeleteRequest::default()).await.err(), "range"));
    let range = wire::KeyRange { start: key(), end: "z".into(), unbounded: true };
    let delete = wire::DeleteRequest { range: Some(range), ..Default::default() };
    refusals.push((kv.delete(delete).await.err(), "not both"));
    refusals.push((kv.batch(wire::BatchRequest::default()).await.err(), "no operation"));
    let batch = wire::BatchRequest { ops: vec![Default::default()], ..Default::default() };
    refusals.push((kv.batch(batch).await.err(), ""));
    let expire = wire::ExpireRequest { key: key(), ttl_ms: 0 };
    refusals.push((kv.expire(expire).await.err(), "at least 1"));
    refusals.push((kv.compact(wire::CompactRequest { revision: 0 }).await.err(), "revision"));
    refusals.push((kv.scan(wire::ScanRequest::default()).await.err(), "range"));
    refusals.push((kv.watch(wire::WatchRequest::default()).await.err(), "range"));
    for (at, (status, word)) in refusals.into_iter().enumerate() {
        let status = status.context(format!("raw request {at} must be refused"))?;
        expect_refusal(&status, Code::InvalidArgument, "INVALID", word).context(format!("request {at}"))?;
    }
    Ok(())
}

fn expect_refusal(status: &Status, code: Code, reason: &str, word: &str) -> Result<()> {
    let details = status.get_error_details();
    let found = details.error_info().map(|info| info.reason.as_str());
    let fits = status.code() == code && found == Some(reason) && status.message().contains(word);
    ensure!(fits, "{reason} ({word}) was expected: {status:?}");
    Ok(())
}

#[tokio::test]
async fn endpoints_that_do_not_answer_are_named_in_time() -> Result<()> {
    // One refuses connections, one takes them and says nothing.
    let refusing = format!("127.0.0.1:{}", ports::free()?);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let silent = listener.local_addr()?.to_string();
    let endpoints = [refusing.clone(), silent.clone()];
    let both = [&refusing[..], &silent];
    // Whoever takes a connection may have taken the write too; the other surely has not.
    let cases: [(&[&str], &[&str]); 5] = [
        (&["get", "k"], &both),
        (&["scan"], &both),
        (&["watch", "k"], &both),
        (&["status"], &both),
        (&["set", "k", "v"], &[&silent, "unknown"]),
    ];
    for (arguments, words) in cases {
        let all: Vec<_> = ["--timeout", "1s"].iter().chain(arguments).copied().collect();
        let ended = program::tool(&endpoints, &all).await?;
        ended.expect(1, words)?;
        ensure!(ended.took < Duration::from_millis(2500), "`{}` took {:?}", ended.line, ended.took);
    }
    Ok(())
}

#[tokio::test]
async fn a_start_that_cannot_work_says_why() -> Result<()> {
    let cluster = Cluster::found(1, Layout::default()).await?;
    let node = &cluster.nodes()[0];
    let scratch = tempfile::tempdir()?;
    wrong_flags(scratch.path()).await?;
    wrong_environment(scratch.path()).await?;
    busy_ports(node, scratch.path()).await?;
    wrong_directories(node, scratch.path()).await?;
    read_only_directory(scratch.path()).await?;

    // All of these met a node at work, which goes on, and its data, which stays.
    program::tool(&cluster.endpoints(), &["set", "k", "v"]).await?.output()?;
    let cluster_id = node.status().await?.cluster_id;
    node.terminate().await?;
    let data = node.data().display().to_string();
    let other = starting(node.data(), &["--cluster-id", "0x1234"]).await?;
    other.expect(1, &[&data, &format!("{cluster_id:016x}"), "0000000000001234"])?;
    node.start().await?;
    wrong_cluster(&cluster, scratch.path()).await?;
    let found = program::tool(&cluster.endpoints(), &["get", "k"]).await?;
    ensure!(found.output()? == b"v", "the key holds {:?}", found.stdout);
    check_no_panic(&cluster)?;
    cluster.close()
}

/// Starts a node on free ports, which is expected not to come up.
async fn starting(data: &Path, flags: &[&str]) -> Result<Ended> {
    let data = data.display().to_string();
    let mut arguments = vec!["--data-dir".to_owned(), data];
    for flag in ["--listen-client", "--listen-peer", "--listen-http"] {
        if !flags.contains(&flag) {
            arguments.extend([flag.to_owned(), "127.0.0.1:0".to_owned()]);
        }
    }
    arguments.extend(flags.iter().map(|flag| flag.to_string()));
    let ended = program::node(&arguments).await?;
    let lines = ended.stderr.lines().filter(|line| line.starts_with("kvorum-node: ")).count();
    ensure!(ended.code == Some(2) || lines == 1, "not one line says why:\n{}", ended.stderr);
    Ok(ended)
}

/// Every flag with a value that it cannot have. Nothing is made on disk.
async fn wrong_flags(scratch: &Path) -> Result<()> {
    let data = scratch.join("never-made");
    let cases: [(&[&str], &str); 32] = [
        (&["--no-such-flag"], "--no-such-flag"),
        (&["stray"], "stray"),
        (&["--listen-client", "nonsense"], "host:port"),
        (&["--listen-client", "127.0.0.1:65536"], "host:port"),
        (&["--listen-peer", ":2380"], "host:port"),
        (&["--listen-http", ""], "--listen-http"),
        (&["--listen-client", "127.0.0.1:4", "--listen-peer", "127.0.0.1:4"], "each its own port"),
        (&["--listen-client", "0.0.0.0:2379"], "--advertise-client"),
        (&["--listen-peer", "[::]:2380"], "--advertise-peer"),
        (&["--advertise-client", "0.0.0.0:1"], "cannot be dialled"),
        (&["--advertise-peer", "nonsense"], "host:port"),
        (&["--advertise-peer", "a host:2380"], "host:port"),
        (&["--bootstrap", "maybe"], "single"),
        (&["--cluster-id", "0"], "--cluster-id"),
        (&["--cluster-id", "xyz"], "hexadecimal"),
        (&["--cluster-id", "0x11111111111111111"], "hexadecimal"),
        (&["--incarnation-min", "first"], "--incarnation-min"),
        (&["--auto-compaction-retention", "an hour"], "1h"),
        (&["--auto-compaction-retention", "10"], "unit"),
        (&["--election-timeout-ms", "0"], "from 100 to 60000"),
        (&["--election-timeout-ms", "1e3"], "--election-timeout-ms"),
        (&["--heartbeat-interval-ms", "0"], "a quarter"),
        (&["--heartbeat-interval-ms", "700"], "a quarter"),
        (&["--request-bytes-max", "1GiB"], "--request-bytes-max"),
        (&["--request-bytes-max", "0"], "--request-bytes-max"),
        (&["--cache-bytes", "1MB"], "MiB"),
        (&["--cache-bytes", "4096"], "--cache-bytes"),
        (&["--quota-bytes", "99999999999GiB"], "too many"),
        (&["--quota-bytes", "five"], "--quota-bytes"),
        (&["--log-retain-bytes", "much"], "--log-retain-bytes"),
        (&["--log-format", "yaml"], "json"),
        (&["--log-level", "kvorum=loud"], "--log-level"),
    ];
    for (flags, word) in cases {
        starting(&data, flags).await?.expect(2, &[word])?;
        ensure!(!data.exists(), "{flags:?} was refused, and a data directory made before");
    }
    Ok(())
}

/// A variable is refused as its flag is, and the message says which flag it is.
async fn wrong_environment(scratch: &Path) -> Result<()> {
    let setting = ["KVORUM_CACHE_BYTES=lots", "KVORUM_DATA_DIR=never-made"];
    let binary = kvorum_faults::binary::node()?.display().to_string();
    let arguments: Vec<&str> = setting.into_iter().chain([&binary[..]]).collect();
    let ended = program::run(Path::new("/usr/bin/env"), &arguments, &[]).await?;
    ended.expect(2, &["--cache-bytes", "lots"])?;
    ensure!(!scratch.join("never-made").exists(), "a data directory was made");
    Ok(())
}

/// An empty disk that is meant for another cluster, or for one that was recovered, stays empty.
async fn wrong_cluster(cluster: &Cluster, scratch: &Path) -> Result<()> {
    for (name, flag, value) in
        [("for another", "--cluster-id", "0x1234"), ("newer", "--incarnation-min", "7")]
    {
        let setup = Setup {
            name: name.into(),
            data: scratch.join(name),
            log: scratch.join(format!("{name}.log")),
            flags: vec![flag.into(), value.into()],
            omitted_syscall: None,
            tls: None,
        };
        let node = Node::new(setup)?;
        node.start().await?;
        let add = ["--timeout", "1s", "member", "add", node.peer_address()];
        program::tool(&cluster.endpoints(), &add).await?.expect(1, &[flag])?;
        let status = node.status().await?;
        ensure!(status.state() == State::Unjoined, "{name}: it is {:?}", status.state());
        node.terminate().await?;
    }
    Ok(())
}

async fn busy_ports(node: &Node, scratch: &Path) -> Result<()> {
    let data = scratch.join("busy");
    for (flag, address) in [
        ("--listen-client", node.client_address()),
        ("--listen-peer", node.peer_address()),
        ("--listen-http", node.http_address()),
    ] {
        let ended = starting(&data, &[flag, address]).await?;
        ended.expect(1, &[flag, address, "stop the process that uses the port"])?;
    }
    let elsewhere = starting(&data, &["--listen-client", "192.0.2.1:2379"]).await?;
    elsewhere.expect(1, &["192.0.2.1:2379", "an address of this machine"])?;
    ensure!(!data.exists(), "ports come first; a data directory was made before");
    Ok(())
}

async fn wrong_directories(node: &Node, scratch: &Path) -> Result<()> {
    let held = node.data().display().to_string();
    starting(node.data(), &[]).await?.expect(1, &[&held, "in use by another process"])?;
    let file = scratch.join("file");
    std::fs::write(&file, "")?;
    starting(&file, &[]).await?.expect(1, &[&file.display().to_string(), "not a directory"])?;
    let below = file.join("below");
    starting(&below, &[]).await?.expect(1, &[&below.display().to_string(), "check"])?;
    let verified = program::node(&["verify", "--data-dir", &held]).await?;
    verified.expect(1, &[&held, "in use by another process"])?;
    let missing = scratch.join("missing").display().to_string();
    program::node(&["verify", "--data-dir", &missing]).await?.expect(1, &[&missing])
}

/// Root may write whatever the permissions say, so it takes a file system that is read-only.
async fn read_only_directory(scratch: &Path) -> Result<()> {
    if let Some(reason) = Disk::missing() {
        eprintln!("SKIPPED bad_input on a read-only file system: {reason}");
        return Ok(());
    }
    let disk = Disk::sized(&scratch.join("disk"), 16 * 1024 * 1024)?;
    let (there, new) = (disk.mount_point().join("there"), disk.mount_point().join("new"));
    std::fs::create_dir(&there)?;
    disk.make_read_only()?;
    starting(&there, &[]).await?.expect(1, &[&there.display().to_string(), "not writable"])?;
    starting(&new, &[]).await?.expect(1, &[&new.display().to_string(), "Read-only"])
}

fn check_no_panic(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let log = node.log()?;
        if let Some(line) = log.lines().find(|line| line.contains("panicked")) {
            return Err(Failure::new(format!("{} panicked: {line}", node.name())));
        }
    }
    Ok(())
}
