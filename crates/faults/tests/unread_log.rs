//! Goal: whoever reads a node's standard error, and does so no more, costs nothing but lines: the node starts, serves and
//! stops as ever, and what must end its process ends it.
//!
//! Method: the standard error is a pipe that is full and that nobody reads, and then one whose reader is gone.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use kvorum_faults::process::Release;
use kvorum_faults::slow_disk::SlowDisk;
use kvorum_faults::{Cluster, Context as _, Layout, Result, binary, ensure};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

/// A process whose disk fails is gone within this, whoever reads its last line.
const END_LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn nobody_waits_for_who_reads_the_log() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let reader = full_pipe(&directory.path().join("stderr"))?;
    let release =
        Release { binary: Some(program(directory.path())?), flags: vec!["--log-level=debug".into()] };
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

/// A program that becomes the node, with the pipe as its standard error.
fn program(directory: &Path) -> Result<std::path::PathBuf> {
    let (path, node) = (directory.join("node"), binary::node()?);
    let script =
        format!("#!/bin/sh\nexec '{}' \"$@\" 2>'{}'\n", node.display(), directory.join("stderr").display());
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
    Ok(path)
}
