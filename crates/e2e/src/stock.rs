//! Clients that know nothing of Kvorum but its `.proto` file, through the cluster's Service: Python's grpcio with
//! the usual retry policy, and tonic's plain channel, which tries nothing twice by itself. A member that goes without a word
//! costs them failures that our own client hides.

use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kvorum_faults::rpc::{RawClient, is_unprocessed};
use kvorum_operator::memory::host_port;
use kvorum_operator::names;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::{Cluster, Context as _, Result, command, ensure, settings};

/// Writers with tonic's plain channel, each with a connection of its own.
const WRITERS: usize = 8;
/// Between two writes of a writer.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a single write may take.
const SLOWEST: Duration = Duration::from_secs(1);
/// How long the writers may take to end: the longest call, and a moment.
const END_LIMIT: Duration = Duration::from_secs(15);
/// Clients are at work for so long before something is done to the cluster.
const WARM_UP: Duration = Duration::from_secs(3);
/// And so long afterwards: a member that was told to stop serves on for five seconds.
const LINGER: Duration = Duration::from_secs(6);
/// Failures that are worth reading.
const FAILURES_SHOWN: usize = 10;

/// Clients at work.
pub struct Stock {
    stop: Arc<AtomicBool>,
    plain: Vec<JoinHandle<Result<Seen>>>,
    python: Child,
}

/// Does something to a cluster while clients are at work, none of which may notice; nothing where they cannot be had.
pub async fn watched<'c>(
    cluster: &'c Cluster<'c>,
    what: &str,
    change: impl AsyncFnOnce(&'c Cluster<'c>) -> Result<()>,
) -> Result<()> {
    let Some(stock) = Stock::start(cluster).await? else { return Ok(()) };
    // Their connections are there, and to all members.
    sleep(WARM_UP).await;
    change(cluster).await?;
    // The last member that went is gone by then.
    sleep(LINGER).await;
    let report = stock.finish().await?;
    cluster.test().say(format!("{what}: {report}"));
    report.check()
}

/// What the clients of one kind saw.
#[derive(Debug, Default)]
pub struct Seen {
    writes: usize,
    slowest: Duration,
    failures: Vec<String>,
}

/// What all of them saw.
#[derive(Debug)]
pub struct Report {
    plain: Seen,
    python: Seen,
}

impl Stock {
    /// Starts clients of a cluster's Service. `None`, and a line that says why, where there can be none.
    pub async fn start(cluster: &Cluster<'_>) -> Result<Option<Stock>> {
        if settings::forwards() {
            eprintln!("skipped: Services are not reached from here (E2E_REACH=forward)");
            return Ok(None);
        }
        // Made once: the next start finds it.
        let python = match python().await {
            Ok(python) => python,
            Err(failure) => {
                eprintln!("skipped: Python's grpcio cannot be had: {failure}");
                return Ok(None);
            }
        };
        let service = cluster.test().api::<Service>().get(cluster.name()).await?;
        let address = service.spec.and_then(|spec| spec.cluster_ip).context("the Service has no address")?;
        let address = host_port(&address, names::CLIENT_PORT);
        let stop = Arc::new(AtomicBool::new(false));
        let plain = (0..WRITERS).map(|n| tokio::spawn(write(n, address.clone(), stop.clone()))).collect();
        let mut command = Command::new(python);
        command.arg(settings::root().join("crates/e2e/stock/writer.py")).arg(&address);
        command.arg(settings::root().join("proto"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let python = command.spawn().context("start the writers of Python")?;
        Ok(Some(Stock { stop, plain, python }))
    }

    /// Stops the clients.
    pub async fn finish(mut self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.python.stdin.take());
        let mut plain = Seen::default();
        for task in self.plain {
            plain.add(task.await??);
        }
        let output = timeout(END_LIMIT, self.python.wait_with_output()).await??;
        let said: Value = serde_json::from_slice(&output.stdout).context("read what Python's writers saw")?;
        let failures = said["failures"].as_array().cloned().unwrap_or_default();
        let python = Seen {
            writes: said["writes"].as_u64().unwrap_or_default() as usize,
            slowest: Duration::from_secs_f64(said["slowest_ms"].as_f64().unwrap_or_default() / 1000.0),
            failures: failures
                .iter()
                .map(|failure| failure.as_str().unwrap_or_default().to_owned())
                .collect(),
        };
        Ok(Report { plain, python })
    }
}

impl Seen {
    fn add(&mut self, other: Seen) {
        self.writes += other.writes;
        self.slowest = self.slowest.max(other.slowest);
        self.failures.extend(other.failures);
    }

    fn check(&self, whose: &str) -> Result<()> {
        ensure!(self.writes > 100, "{whose} wrote {} times only", self.writes);
        let shown = &self.failures[..self.failures.len().min(FAILURES_SHOWN)];
        ensure!(
            shown.is_empty(),
            "{} of {} writes of {whose} failed: {shown:#?}",
            self.failures.len(),
            self.writes
        );
        let limit = SLOWEST * settings::latency_scale() / 100;
        ensure!(self.slowest < limit, "a write of {whose} took {:?}, the limit is {limit:?}", self.slowest);
        Ok(())
    }
}

impl Report {
    /// No write failed, and none took long.
    pub fn check(&self) -> Result<()> {
        self.python.check("Python's grpcio")?;
        self.plain.check("tonic's plain channel")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |seen: &Seen| {
            let (writes, failed, slowest) = (seen.writes, seen.failures.len(), seen.slowest.as_millis());
            format!("{failed} of {writes} writes failed, the slowest took {slowest} ms")
        };
        write!(f, "grpcio: {}; plain channel: {}", of(&self.python), of(&self.plain))
    }
}

async fn write(n: usize, address: String, stop: Arc<AtomicBool>) -> Result<Seen> {
    let (client, begun, mut seen) = (RawClient::new(&address)?, Instant::now(), Seen::default());
    while !stop.load(Ordering::Relaxed) {
        let called = Instant::now();
        let key = || format!("plain/{n}/{}", seen.writes).into();
        let mut written = client.set(key(), "value".into(), None).await;
        // What gRPC's own clients do by themselves.
        if written.as_ref().is_err_and(is_unprocessed) {
            written = client.set(key(), "value".into(), None).await;
        }
        if let Err(status) = written {
            seen.failures.push(format!("{:.2} s: {status:?}", (called - begun).as_secs_f64()));
        }
        seen.writes += 1;
        seen.slowest = seen.slowest.max(called.elapsed());
        sleep(PAUSE).await;
    }
    Ok(seen)
}

/// A Python with grpcio and its generator: `E2E_PYTHON`, the usual one where it has them, or one of its own that is
/// made with pip.
pub async fn python() -> Result<PathBuf> {
    let usual = PathBuf::from(std::env::var_os("E2E_PYTHON").unwrap_or_else(|| "python3".into()));
    let has = async |python: &PathBuf| command::output(python, ["-c", "import grpc, grpc_tools"]).await;
    if has(&usual).await.is_ok() {
        return Ok(usual);
    }
    let own = settings::root().join("target/e2e/python");
    let python = own.join("bin/python3");
    if has(&python).await.is_err() {
        command::output(&usual, ["-m".into(), "venv".into(), own]).await?;
        command::output(&python, ["-m", "pip", "install", "--quiet", "grpcio", "grpcio-tools"]).await?;
        has(&python).await?;
    }
    Ok(python)
}
