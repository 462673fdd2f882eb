//! Goal: what one follower needs and the leader cannot give costs no more than it must. A log segment that
//! is damaged ends the leader's process, which names it, and its next start; the others go on. A
//! checkpoint that cannot be made costs the follower its patience, and the node an alarm, nothing else.
//!
//! Method: three nodes, one of which is down while the others write. For the damage, the others are
//! restarted, so that the log is read from disk, and one byte of what the third one lacks is flipped in the
//! leader's; for the checkpoint, little log is kept, and a file stands where checkpoints go.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kvorum_faults::rpc::RawClient;
use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, wait};
use kvorum_proto::admin::v1::State;
use tokio::sync::Mutex;
use tokio::time::sleep;

/// Values that are written while a member is down.
const WRITES: usize = 600;
const VALUE_BYTES: usize = 16 * 1024;
/// Log that is kept: less than that.
const LOG_RETAIN: &str = "2MiB";
/// The log is looked at four times a second, and purged in two of these looks.
const PURGE_PAUSE: Duration = Duration::from_secs(3);
/// Another attempt at a checkpoint comes within 5 s.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(30);
/// A process whose log can't be read is gone within this, and so is one that finds it at its start.
const END_LIMIT: Duration = Duration::from_secs(10);

/// One cluster at a time has the machine.
static MACHINE: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn a_damaged_segment_ends_the_process_that_needs_it() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let cluster = Cluster::found(3, Layout::default()).await?;
    let behind = cluster.follower().await?;
    behind.kill()?;
    let others: Vec<_> = cluster.nodes().iter().filter(|node| node.is_running()).cloned().collect();
    let before = segment_end(others[0].data())?;
    fill(&cluster, WRITES / 4).await?;
    for node in &others {
        node.kill()?;
    }
    for node in &others {
        node.start().await?;
    }
    let leader = cluster.leader().await?;
    cluster.wait_healthy().await?;
    let segment = segment(leader.data())?;
    let after = segment_end(leader.data())?;
    flip(&segment, before + (after - before) / 2)?;

    behind.start().await?;
    let status = leader.wait_ended(END_LIMIT).await?;
    ensure!(!status.success(), "it ended with {status}");
    let (logged, name, last) = (leader.log()?.len(), segment.display().to_string(), leader.last_words()?);
    eprintln!("dead_core: {last}");
    ensure!(last.contains(&name) && last.contains("damaged at byte"), "it ended with: {last}");
    // The others elect one of them, and are complete.
    cluster.wait_healthy().await?;
    fill(&cluster, 1).await?;

    leader.spawn()?;
    let status = leader.wait_ended(END_LIMIT).await?;
    let said = &leader.log()?[logged..];
    ensure!(!status.success() && said.contains(&name), "the start ended with {status} and said:\n{said}");
    cluster.close()
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_made_is_tried_again() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let cluster = Cluster::found(3, Layout::with_flags(["--log-retain-bytes", LOG_RETAIN])).await?;
    let behind = cluster.follower().await?;
    behind.kill()?;
    let leader = cluster.leader().await?;
    let before = leader.status().await?;
    fill(&cluster, WRITES).await?;
    sleep(PURGE_PAUSE).await;
    let obstacle = leader.data().join("checkpoints");
    // The leader makes checkpoints already, for the member that does not answer.
    wait::until("a moment without a checkpoint", CATCH_UP_LIMIT, async || {
        if obstacle.is_dir() {
            fs::remove_dir_all(&obstacle)?;
        }
        Ok(fs::write(&obstacle, "")?)
    })
    .await?;

    behind.start().await?;
    wait::until("the alarm", CATCH_UP_LIMIT, async || {
        let alarms = leader.status().await?.alarms;
        ensure!(alarms == ["CHECKPOINT_FAILED"], "its alarms are {alarms:?}");
        Ok(())
    })
    .await?;
    // Longer than an election takes: it leads on, and writes are served.
    sleep(Duration::from_secs(2)).await;
    fill(&cluster, 10).await?;
    let status = leader.status().await?;
    ensure!((status.state(), status.term) == (State::Leader, before.term), "it leads no more: {status:?}");
    let said = leader.log()?;
    let said = said.lines().find(|line| line.contains("no checkpoint could be made"));
    let said = said.context("the log is silent about it")?;
    ensure!(said.contains(&obstacle.display().to_string()), "the log says only: {said}");

    fs::remove_file(&obstacle)?;
    wait::until("the end of the alarm", CATCH_UP_LIMIT, async || {
        let alarms = leader.status().await?.alarms;
        ensure!(alarms.is_empty(), "its alarms are {alarms:?}");
        Ok(())
    })
    .await?;
    cluster.wait_healthy().await?;
    cluster.compare_stores(cluster.nodes()).await?;
    cluster.close()
}

/// Writes so many values, at whoever leads.
async fn fill(cluster: &Cluster, writes: usize) -> Result<()> {
    let leader = cluster.leader().await?;
    let raw = RawClient::new(leader.client_address())?;
    for number in 0..writes {
        let value: Vec<u8> = format!("{number};").bytes().cycle().take(VALUE_BYTES).collect();
        raw.set(format!("fill/{number:06}").into(), value.into(), None).await?;
    }
    Ok(())
}

/// The only segment of a log that is still in its first.
fn segment(data: &Path) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(data.join("log"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
    ensure!(found.len() == 1, "the log has the segments {found:?}");
    found.pop().context("a log has a segment")
}

/// The last byte of that which is no zero.
fn segment_end(data: &Path) -> Result<u64> {
    let bytes = fs::read(segment(data)?)?;
    bytes.iter().rposition(|byte| *byte != 0).map(|at| at as u64).context("the segment is empty")
}

fn flip(file: &Path, offset: u64) -> Result<()> {
    let opened = fs::File::options().read(true).write(true).open(file)?;
    let mut byte = [0];
    opened.read_exact_at(&mut byte, offset)?;
    byte[0] ^= 1;
    Ok(opened.write_all_at(&byte, offset)?)
}
