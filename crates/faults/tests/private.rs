//! Goal: what a node, a snapshot or a restore leaves on the disk, nobody but its owner reads: all values are in it. And
//! what is in memory alone is never left there.
//!
//! Method: the permissions of everything that is there after writes, a restart and a restore; a node that is aborted where
//! core files may be of any size.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use kvorum_faults::{Cluster, Layout, Result, ensure, program};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[tokio::test]
async fn what_is_on_disk_is_its_owners_alone() -> Result<()> {
    let cluster = Cluster::found(1, Layout::default()).await?;
    let (node, endpoints) = (cluster.leader().await?, cluster.endpoints());
    cluster.client().await?.set("k", "v").await?;
    node.terminate().await?;
    node.start().await?;
    cluster.wait_healthy().await?;
    let directory = tempfile::tempdir()?;
    let (saved, restored) = (directory.path().join("saved"), directory.path().join("restored"));
    let (saved_as, restored_as) = (saved.display().to_string(), restored.display().to_string());
    program::tool(&endpoints, &["snapshot", "save", &saved_as]).await?.output()?;
    program::tool(&[], &["snapshot", "restore", &saved_as, "--data-dir", &restored_as]).await?.output()?;
    let mut seen = 0;
    check(node.data(), &mut seen)?;
    ensure!(seen > 10, "it left {seen} files only");
    check(&saved, &mut seen)?;
    let mode = fs::metadata(&restored)?.permissions().mode();
    ensure!(mode & 0o077 == 0, "others get into what was restored: {mode:o}");
    cluster.close()
}

#[tokio::test]
async fn no_core_file_holds_what_was_in_memory() -> Result<()> {
    let maximum = getrlimit(Resource::Core).maximum;
    setrlimit(Resource::Core, Rlimit { current: maximum, maximum })?;
    let cluster = Cluster::found(1, Layout::default()).await?;
    let status = cluster.nodes()[0].abort().await?;
    ensure!(!status.core_dumped(), "it left a core file: {status}");
    Ok(())
}

fn check(path: &Path, seen: &mut usize) -> Result<()> {
    let metadata = fs::metadata(path)?;
    let mode = metadata.permissions().mode();
    ensure!(mode & 0o077 == 0, "others than its owner have rights on {}: {mode:o}", path.display());
    *seen += 1;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            check(&entry?.path(), seen)?;
        }
    }
    Ok(())
}
