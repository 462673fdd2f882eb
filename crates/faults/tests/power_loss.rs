//! Goal: nothing that was acknowledged is lost when all members lose power at once.
//!
//! Method: each of three nodes has its data on a disk of its own, an ext4 in a loop-mounted image file,
//! beneath which is another one that plays the disk's write cache. Under load all are killed with SIGKILL,
//! and their image files copied without a sync before: what a node wrote and did not sync is in a cache and
//! not in the copy. The nodes start again from the copies. Three times (`POWER_CUTS`); then everything is
//! checked that the torture test checks.
//!
//! `KVORUM_FAULTS_STRACE=fdatasync` runs the nodes under strace, which makes that system call do nothing and
//! return success; `fdatasync:when=100+` does so from each thread's hundredth call on. The test must fail
//! then: this shows that it notices a missing sync.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kvorum_faults::disk::{Disk, PowerDisk};
use kvorum_faults::process::Node;
use kvorum_faults::workload::Workload;
use kvorum_faults::{Cluster, Layout, Result, settings};
use tokio::time::sleep;

/// Load between two power cuts. It stays below the 30 s after which a kernel writes out pages unasked.
const LOAD: Duration = Duration::from_secs(4);

#[tokio::test]
async fn nothing_acknowledged_is_lost_to_a_power_failure() -> Result<()> {
    if let Some(reason) = Disk::missing() {
        eprintln!("SKIPPED power_loss: {reason}");
        return Ok(());
    }
    let (cuts, seed) = (settings::number("POWER_CUTS", 3), settings::seed());
    let directory = tempfile::Builder::new().prefix("kvorum-disks-").tempdir()?;
    let disk = |number: usize| PowerDisk::make(&directory.path().join(number.to_string()));
    let mut disks = vec![disk(0)?, disk(1)?, disk(2)?];
    let data: Vec<PathBuf> = disks.iter().map(|disk| disk.mount_point().join("data")).collect();
    let omitted_syscall = std::env::var("KVORUM_FAULTS_STRACE").ok();
    let cluster = Cluster::found(3, Layout { data, omitted_syscall, ..Layout::default() }).await?;
    let mut workload = Workload::start(&cluster, seed).await?;
    for _ in 0..cuts {
        sleep(LOAD).await;
        Node::kill_all(cluster.nodes().iter().map(Arc::as_ref))?;
        for disk in &mut disks {
            disk.cut_power()?;
        }
        for node in cluster.nodes() {
            node.start().await?;
        }
        cluster.wait_healthy().await?;
        workload.check_clients().await?;
        workload.advance();
    }
    let report = workload.finish(&cluster).await?;
    eprintln!("power_loss: after {cuts} power cuts, {report}");
    cluster.close()
}
