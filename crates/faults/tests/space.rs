//! Goal: a full disk refuses what would fill it further, before the file system does, and nothing else;
//! no member stops, the stores stay equal, and all is well again once there is room.
//!
//! Method: three nodes, each on a small ext4 of its own in a loop-mounted image. Under one of them another
//! file takes the room, first down to the reserve and then all of it; then clients write until all disks
//! are full. What was acknowledged is compared with what is there at the end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use kvorum_client::{Client, Error, KeyRange};
use kvorum_faults::disk::Disk;
use kvorum_faults::process::Node;
use kvorum_faults::rpc::RawClient;
use kvorum_faults::{Cluster, Context as _, Failure, Layout, Result, ensure, wait};
use rand::RngExt as _;
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// The disk under each node.
const DISK_BYTES: u64 = 256 * 1024 * 1024;
/// The part of a small disk that is the reserve.
const RESERVE_SHARE: u64 = 4;
/// Values that fill a disk in hundreds of writes.
const VALUE_BYTES: usize = 128 * 1024;
/// An alarm is raised, or cleared, within this; an election may come between.
const ALARM_LIMIT: Duration = Duration::from_secs(20);
/// After a deletion of everything, RocksDB gives room back within this.
const CLEANING_LIMIT: Duration = Duration::from_secs(60);

/// Changes of 128 KiB each that no memtable takes without a flush.
const CHANGES_TO_FLUSH: usize = 200;

/// One cluster at a time has the machine.
static MACHINE: Mutex<()> = Mutex::const_new(());

/// A cluster on small disks, and what it was told to hold.
struct Bench {
    /// Before the disks, which have to be free of processes to be unmounted.
    cluster: Cluster,
    client: Client,
    acknowledged: BTreeMap<String, Bytes>,
    written: usize,
    level: u32,
    disks: Vec<Disk>,
    _directory: TempDir,
}

#[tokio::test]
async fn a_full_disk_under_one_member() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let Some(mut bench) = Bench::start(1).await? else { return Ok(()) };
    for _ in 0..50 {
        bench.write().await?;
    }
    let full = bench.cluster.follower().await?;
    let status = full.status().await?;
    let other = bench.mount_of(&full).join("another");
    let room = status.disk_free_bytes - status.disk_bytes / RESERVE_SHARE / 4 * 3;
    take(&other, room)?;
    bench.wait_refused().await?;
    // A follower applies a little later what the leader has.
    wait::until("the alarm", ALARM_LIMIT, async || {
        let alarms = full.status().await?.alarms;
        ensure!(alarms == ["NO_SPACE"], "the full member's alarms are {alarms:?}");
        Ok(())
    })
    .await?;
    bench.check_usable().await?;

    // The last byte is taken too, and the others go on until a flush must fail on this one.
    let rest = bench.mount_of(&full).join("the rest");
    take_all(&rest)?;
    let (last, _) = bench.acknowledged.last_key_value().context("there are keys")?;
    for _ in 0..CHANGES_TO_FLUSH {
        bench.client.expire(last.clone(), Duration::from_secs(3600)).await?;
    }
    wait::until("a flush without room", ALARM_LIMIT, async || {
        ensure!(full.log()?.contains("writes to the store wait"), "there was room after all");
        Ok(())
    })
    .await?;
    bench.cluster.check_alive()?;

    fs::remove_file(&rest)?;
    fs::remove_file(&other)?;
    bench.wait_accepted(ALARM_LIMIT).await?;
    bench.finish().await
}

#[tokio::test]
async fn full_disks_under_all_members() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let Some(mut bench) = Bench::start(2).await? else { return Ok(()) };
    for disk in &bench.disks {
        take(&disk.mount_point().join("another"), DISK_BYTES / 8)?;
    }
    let begun = Instant::now();
    bench.wait_refused().await?;
    eprintln!("space: {} values of 128 KiB filled the disks in {:?}", bench.written, begun.elapsed());
    for node in bench.cluster.nodes() {
        let status = node.status().await?;
        let (free, total) = (status.disk_free_bytes, status.disk_bytes);
        eprintln!("space: {} has {free} of {total} bytes left", node.name());
        ensure!(free > total / RESERVE_SHARE / 4, "{} went far into its reserve: {free}", node.name());
        let log = node.log()?;
        let met = ["no room", "No space left"].into_iter().find(|words| log.contains(words));
        ensure!(met.is_none(), "{} met the end of its disk before its clients did", node.name());
    }
    bench.check_usable().await?;

    // Somebody else's file goes.
    for disk in &bench.disks {
        fs::remove_file(disk.mount_point().join("another"))?;
    }
    bench.wait_accepted(ALARM_LIMIT).await?;

    // Full again; this time the clients clear up themselves.
    bench.wait_refused().await?;
    let begun = Instant::now();
    for hundred in 0..=bench.written / 100 {
        let range = KeyRange::prefix(format!("fill/{hundred:04}"));
        let deleted = bench.client.delete_range(range).timeout(ALARM_LIMIT).await?;
        // What is deleted takes room until it is compacted.
        if deleted.deleted > 0 {
            bench.client.compact(deleted.header.revision).await?;
        }
    }
    bench.acknowledged.clear();
    bench.wait_accepted(CLEANING_LIMIT).await?;
    eprintln!("space: writes went on {:?} after everything was deleted", begun.elapsed());
    bench.finish().await
}

impl Bench {
    /// None where disks cannot be made.
    /// A cluster of this feature level. On the first one changes of a TTL copy the value and pass, as members
    /// of the first release would have it: so a store can grow there though nothing may.
    async fn start(level: u32) -> Result<Option<Bench>> {
        if let Some(reason) = Disk::missing() {
            eprintln!("SKIPPED space: {reason}");
            return Ok(None);
        }
        let directory = tempfile::Builder::new().prefix("kvorum-disks-").tempdir()?;
        let disk = |number: usize| Disk::sized(&directory.path().join(number.to_string()), DISK_BYTES);
        let disks = vec![disk(0)?, disk(1)?, disk(2)?];
        let data = disks.iter().map(|disk| disk.mount_point().join("data")).collect();
        let flags = vec!["--feature-level-max".to_owned(), level.to_string()];
        let cluster = Cluster::found(3, Layout { data, flags, ..Layout::default() }).await?;
        wait::until("the feature level", ALARM_LIMIT, async || {
            for node in cluster.nodes() {
                let now = node.status().await?.feature_level;
                ensure!(now == level, "{} is on level {now}", node.name());
            }
            Ok(())
        })
        .await?;
        let client = cluster.client().await?;
        let acknowledged = BTreeMap::new();
        Ok(Some(Bench { cluster, client, acknowledged, written: 0, level, disks, _directory: directory }))
    }

    fn mount_of(&self, node: &Node) -> PathBuf {
        node.data().parent().map_or_else(PathBuf::new, PathBuf::from)
    }

    /// Writes one more value, which no compression makes small.
    async fn write(&mut self) -> Result<(), Error> {
        let mut value = vec![0; VALUE_BYTES];
        rand::rng().fill(&mut value[..]);
        let (key, value) = (format!("fill/{:06}", self.written), Bytes::from(value));
        self.written += 1;
        self.client.set(key.clone(), value.clone()).await?;
        self.acknowledged.insert(key, value);
        Ok(())
    }

    /// Writes until NO_SPACE is the answer.
    async fn wait_refused(&mut self) -> Result<()> {
        let deadline = Instant::now() + 5 * ALARM_LIMIT;
        while Instant::now() < deadline {
            match self.write().await {
                Ok(()) => {}
                Err(Error::NoSpace { .. }) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::new("writes were never refused"))
    }

    /// Waits until a write is taken again.
    async fn wait_accepted(&mut self, within: Duration) -> Result<()> {
        wait::until("the end of NO_SPACE", within, async || Ok(self.write().await?)).await?;
        // A follower applies a little later what the leader has.
        wait::until("the end of all alarms", within, async || {
            for node in self.cluster.nodes() {
                let alarms = node.status().await?.alarms;
                ensure!(alarms.is_empty(), "writes are taken, and {} has {alarms:?}", node.name());
            }
            Ok(())
        })
        .await
    }

    /// While nothing may grow: reads and deletes go on at every node, changes of a TTL on the first feature
    /// level alone, and the stores are equal.
    async fn check_usable(&mut self) -> Result<()> {
        let refused = self.write().await;
        ensure!(matches!(refused, Err(Error::NoSpace { .. })), "a write was answered {refused:?}");
        for node in self.cluster.nodes() {
            let client = Client::connect([node.client_address()]).await?;
            let Some((key, value)) = self.acknowledged.pop_first() else {
                return Err(Failure::new("there are too few keys"));
            };
            let read = client.get(key.clone()).await?.kv;
            ensure!(read.is_some_and(|kv| kv.value == value), "{key} is not what was written");
            let changed = client.expire(key.clone(), Duration::from_secs(3600)).await;
            match changed {
                Ok(_) if self.level == 1 => _ = client.persist(key.clone()).await?,
                Err(Error::NoSpace { .. }) if self.level > 1 => {}
                changed => return Err(Failure::new(format!("a change of a TTL was answered {changed:?}"))),
            }
            let deleted = client.delete(key.clone()).await?.deleted;
            ensure!(deleted == 1, "{key} was not deleted");
        }
        self.cluster.compare_stores(self.cluster.nodes()).await.map(drop)
    }

    /// Everything that was acknowledged is on every member, and nothing else of it but what a client was
    /// told is refused.
    async fn finish(self) -> Result<()> {
        let Bench { cluster, acknowledged, disks, .. } = self;
        cluster.compare_stores(cluster.nodes()).await?;
        for node in cluster.nodes() {
            let kvs = RawClient::new(node.client_address())?.scan(0).await?;
            let equal = kvs.len() == acknowledged.len()
                && kvs
                    .iter()
                    .zip(&acknowledged)
                    .all(|(kv, (key, value))| kv.key == *key && kv.value == *value);
            let (held, wanted) = (kvs.len(), acknowledged.len());
            ensure!(equal, "{} holds {held} keys, other than the {wanted} acknowledged", node.name());
        }
        cluster.close()?;
        drop(disks);
        Ok(())
    }
}

/// Takes room as another user of the disk does.
fn take(path: &PathBuf, bytes: u64) -> Result<()> {
    let file = File::create(path)?;
    Ok(rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?)
}

/// Takes all the room that root can get.
fn take_all(path: &PathBuf) -> Result<()> {
    let mut file = File::create(path)?;
    let block = vec![1; 1024 * 1024];
    while file.write_all(&block).is_ok() {}
    // Smaller than a block is what is left.
    while file.write_all(&block[..4096]).is_ok() {}
    Ok(())
}
