//! Goal: whoever reads a node's standard error, or its audit on the standard output, and does so no more, costs nothing but
//! lines: the node starts, serves and stops as ever, and what must end its process ends it.
//!
//! Method: the standard error is a pipe that is full and that nobody reads, and then one whose reader is gone; and the
//! same of both, with more calls than lines may wait.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use kvorum_faults::process::Release;
use kvorum_faults::slow_disk::SlowDisk;
use kvorum_faults::{Cluster, Context as _, Layout, Result, binary, ensure, rpc};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

/// A process whose disk fails is gone within this, whoever reads its last line.
const END_LIMIT: Duration = Duration::from_secs(10);

/// A thousand more than lines of the audit may wait.
const AUDITED_CALLS: usize = 11_000;
/// So many calls at a time.
const TASKS: usize = 50;

#[tokio::test]
async fn nobody_waits_for_who_reads_the_log() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let reader = full_pipe(&directory.path().join("stderr"))?;
    let binary = Some(program(directory.path(), &["2>stderr"])?);
    let release = Release { binary, flags: vec!["--log-level=debug".into()] };
    let cluster = Cluster::found(1, Layout { release, ..Layout::default() }).await?;
    let (node, client) = (cluster.leader().await?, cluster.client().await?);
    client.set("k", "while nobody reads").await?;

    if let Some(reason) = SlowDisk::missing() {
        eprintln!("SKIPPED unread_log: {reason}");
        return cluster.close();
    }
    let fails = SlowDisk::fail(&node)?;
    // It has no answer: the process ends before it is durable.
    let _ = client.set("k", "lost").timeout(Duration::from_secs(1)).await;
    let status = node.wait_ended(END_LIMIT).await?;
    ensure!(!status.success(), "its disk fails, and it ended with {status}");
    drop(fails);

    node.start().await?;
    cluster.wait_healthy().await?;
    drop(reader);
    for number in 0..20 {
        client.set("k", format!("the reader is gone, {number}")).await?;
    }
    node.check_alive()?;
    node.terminate().await?;
    cluster.close()
}

#[tokio::test]
async fn nobody_waits_for_who_reads_the_audit() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let readers = ["stdout", "stderr"].map(|name| full_pipe(&directory.path().join(name)));
    let binary = Some(program(directory.path(), &["1>stdout", "2>stderr"])?);
    let flags = vec!["--log-level=debug".into(), "--audit=all".into()];
    let cluster =
        Cluster::found(1, Layout { release: Release { binary, flags }, ..Layout::default() }).await?;
    let (node, client) = (cluster.leader().await?, cluster.client().await?);
    client.set("k", "while nobody reads").await?;
    let mut readers_at_work = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let client = client.clone();
        readers_at_work.spawn(async move {
            for _ in 0..AUDITED_CALLS / TASKS {
                client.get("k").serializable().await?;
            }
            Ok::<(), kvorum_client::Error>(())
        });
    }
    while let Some(done) = readers_at_work.join_next().await {
        done??;
    }
    let dropped = rpc::metric(node.http_address(), "kvorum_audit_dropped_total").await?;
    // Some more are what the cluster's founder and the client ask for themselves.
    ensure!((900.0..1_300.0).contains(&dropped), "{dropped} lines were dropped");
    // What waits does not hold up the end either.
    node.terminate().await?;

    node.start().await?;
    cluster.wait_healthy().await?;
    drop(readers);
    for number in 0..20 {
        client.set("k", format!("the readers are gone, {number}")).await?;
    }
    let dropped = rpc::metric(node.http_address(), "kvorum_audit_dropped_total").await?;
    ensure!(dropped > 0.0, "lines that nobody can get are counted as dropped");
    node.check_alive()?;
    node.terminate().await?;
    cluster.close()
}

/// A pipe that takes nothing more, and its reader.
fn full_pipe(path: &Path) -> Result<File> {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).context("make a pipe")?;
    // Opened for both, it waits for nobody.
    let nonblock = OFlags::NONBLOCK.bits().cast_signed();
    let mut pipe = OpenOptions::new().read(true).write(true).custom_flags(nonblock).open(path)?;
    loop {
        match pipe.write(b"\n") {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(pipe),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A program that becomes the node, with pipes in the directory as its outputs.
fn program(directory: &Path, outputs: &[&str]) -> Result<std::path::PathBuf> {
    let (path, node) = (directory.join("node"), binary::node()?);
    let output = |output: &&str| {
        let (number, name) = output.split_once('>').expect("it is an output's number, and a name");
        format!("{number}>'{}'", directory.join(name).display())
    };
    let outputs: Vec<String> = outputs.iter().map(output).collect();
    let script = format!("#!/bin/sh\nexec '{}' \"$@\" {}\n", node.display(), outputs.join(" "));
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
    Ok(path)
}
