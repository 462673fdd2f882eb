//! Goal: memory is bounded by the configured caches and not by the number of keys, and a node with many
//! keys is soon ready again.
//!
//! Method: `kvorum-bench fill` writes keys of 256 bytes into three nodes with default flags; the kernel
//! says how much memory the processes hold. A million keys (`MEMORY_KEYS`) for the size of the nodes and
//! what a scan adds to it, ten million (`RESTART_KEYS`) for a restart. These run for minutes and mean
//! something in a release build only, so that they have to be asked for: `--ignored`, with
//! `KVORUM_NODE_BIN`, `KVORUM_TOOL_BIN` and `KVORUM_BENCH_BIN`.

use std::process::Stdio;
use std::time::Duration;

use kvorum_faults::process::{Node, memory};
use kvorum_faults::{Cluster, Context as _, Layout, Result, binary, ensure, rpc, settings, wait};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

const MIB: u64 = 1024 * 1024;
/// What the product promises.
const NODE_LIMIT: u64 = 300 * MIB;
const SCAN_LIMIT: u64 = 32 * MIB;
const READY_LIMIT: Duration = Duration::from_secs(10);
/// Looks at the memory of a process.
const PERIOD: Duration = Duration::from_millis(20);

/// The memory of a node at rest stays as it is for so long, and it comes to rest within the limit.
const CALM: Duration = Duration::from_secs(3);
const CALM_LIMIT: Duration = Duration::from_secs(60);

/// One cluster at a time has the machine.
static MACHINE: Mutex<()> = Mutex::const_new(());

#[tokio::test]
#[ignore = "takes minutes, and a release build"]
async fn a_million_keys_take_little_memory() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let cluster = Cluster::found(3, Layout::default()).await?;
    let keys = fill(&cluster, settings::number("MEMORY_KEYS", 1_000_000)).await?;
    for node in cluster.nodes() {
        let peak = memory(node.process_id(), "VmHWM")?;
        eprintln!("memory: {} held {} MiB at most with {keys} keys", node.name(), peak / MIB);
        ensure!(peak < NODE_LIMIT, "{} held {} MiB at most", node.name(), peak / MIB);
    }
    for node in cluster.nodes() {
        settle(node).await?;
        scan(node, keys).await?;
    }
    cluster.close()
}

#[tokio::test]
#[ignore = "takes minutes, and a release build"]
async fn ten_million_keys_are_soon_ready_again() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let cluster = Cluster::found(3, Layout::default()).await?;
    let keys = fill(&cluster, settings::number("RESTART_KEYS", 10_000_000)).await?;
    let follower = cluster.follower().await?;
    for stop in ["SIGTERM", "SIGKILL"] {
        match stop {
            "SIGTERM" => follower.terminate().await?,
            _ => follower.kill()?,
        }
        let begun = Instant::now();
        follower.start().await?;
        ready(&follower, begun, &format!("{stop}, with {keys} keys")).await?;
    }
    Node::kill_all(cluster.nodes().iter().map(std::sync::Arc::as_ref))?;
    let begun = Instant::now();
    for node in cluster.nodes() {
        node.spawn()?;
    }
    for node in cluster.nodes() {
        ready(node, begun, &format!("SIGKILL of all, with {keys} keys")).await?;
    }
    for node in cluster.nodes() {
        eprintln!("memory: {} holds {} MiB", node.name(), memory(node.process_id(), "VmRSS")? / MIB);
    }
    cluster.close()
}

/// Writes the keys by atomic requests of a hundred.
async fn fill(cluster: &Cluster, keys: u64) -> Result<u64> {
    let begun = Instant::now();
    let (endpoints, space) = (cluster.endpoints().join(","), keys.to_string());
    let mut bench = Command::new(binary::bench()?);
    bench.args(["fill", "--endpoints", &endpoints, "--key-space", &space, "--clients", "8", "--json"]);
    let output = bench.stderr(Stdio::inherit()).output().await.context("run kvorum-bench")?;
    ensure!(output.status.success(), "kvorum-bench fill ended with {}", output.status);
    eprintln!("memory: {keys} keys written in {:?}", begun.elapsed());
    cluster.wait_healthy().await?;
    for node in cluster.nodes() {
        let held = node.status().await?.keys;
        ensure!(held == keys, "{} holds {held} keys of {keys}", node.name());
    }
    Ok(keys)
}

/// Waits until the node has compacted what was written: that moves its memory too.
async fn settle(node: &Node) -> Result<()> {
    wait::until("calm", CALM_LIMIT, async || {
        let before = memory(node.process_id(), "VmRSS")?;
        sleep(CALM).await;
        let moved = memory(node.process_id(), "VmRSS")?.abs_diff(before);
        ensure!(moved < MIB, "the memory of {} moved by {moved} bytes in {CALM:?}", node.name());
        Ok(())
    })
    .await
}

/// Scans all keys with the tool, and compares the peaks of tool and node with what they are without it.
async fn scan(node: &Node, keys: u64) -> Result<()> {
    let small = scan_with(node, &["--limit", "1000"]).await?;
    let before = memory(node.process_id(), "VmRSS")?;
    let begun = Instant::now();
    let large = scan_with(node, &[]).await?;
    let (client, server) = (large.client.saturating_sub(small.client), large.server.saturating_sub(before));
    eprintln!(
        "memory: a scan of {keys} keys took {:?} and moved {} by {} MiB, the tool by {} MiB",
        begun.elapsed(),
        node.name(),
        server / MIB,
        client / MIB
    );
    ensure!(client < SCAN_LIMIT && server < SCAN_LIMIT, "that is more than {} MiB", SCAN_LIMIT / MIB);
    Ok(())
}

/// The most memory that tool and node held during a scan.
struct Peaks {
    client: u64,
    server: u64,
}

async fn scan_with(node: &Node, arguments: &[&str]) -> Result<Peaks> {
    let mut tool = Command::new(binary::tool()?);
    tool.args(["--endpoints", node.client_address(), "--timeout", "5m", "scan", "--serializable"]);
    let mut child = tool.args(arguments).stdout(Stdio::null()).kill_on_drop(true).spawn()?;
    let mut peaks = Peaks { client: 0, server: 0 };
    loop {
        // A process that has ended, and was not waited for, has no memory any more.
        peaks.client = peaks.client.max(memory(child.id(), "VmHWM").unwrap_or(0));
        peaks.server = peaks.server.max(memory(node.process_id(), "VmRSS")?);
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "the scan ended with {status}");
            return Ok(peaks);
        }
        sleep(PERIOD).await;
    }
}

/// Waits until the node says that it is ready.
async fn ready(node: &Node, begun: Instant, after: &str) -> Result<()> {
    wait::until("readiness", 6 * READY_LIMIT, async || {
        node.check_alive()?;
        ensure!(rpc::is_ready(node.http_address()).await?, "it is not ready");
        Ok(())
    })
    .await?;
    let took = begun.elapsed();
    eprintln!("memory: {} was ready {took:?} after its start after {after}", node.name());
    ensure!(took < READY_LIMIT, "the limit is {READY_LIMIT:?}");
    Ok(())
}
