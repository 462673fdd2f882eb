//! What ends by itself once all is well and nobody writes: keys with a TTL, log that nobody needs, what snapshots
//! and older states have left on the disk, compactions, alarms.

use std::fs;
use std::io;
use std::path::Path;

use kvorum_node::observer::Seen;
use kvorum_store::command::KeyRange;
use kvorum_store::{Scan, Store};

use super::{Cluster, Violation, told};
use crate::world::World;

/// Records of a page.
const PAGE_KEYS: usize = 1000;
const PAGE_BYTES: usize = 1 << 20;
/// Segments of a log beyond those that hold what is kept: the one that is written, the one in which what is kept begins,
/// and the spare.
const SEGMENTS_BEYOND: u64 = 3;
/// A directory of a data directory that is not to be there, but for the one state.
const STATE: &str = "state-";
const CHECKPOINTS: &str = "checkpoints";
const INCOMING: &str = "incoming-";

impl Cluster {
    /// What is yet to end, if anything.
    pub fn unrest(&self, world: &World) -> Result<Option<String>, Violation> {
        for (host, seen) in self.seen(world) {
            let dir = &world.hosts[host].dir;
            // What a disk that fails does not let go stays until the next start.
            let has_failed = self.errors_until[host] >= self.began[host] && self.errors_until[host] > 0;
            let of_disk = || self.on_disk(dir, has_failed).map_err(told);
            let what = match of_store(&seen).map_err(|error| format!("member {host}: {error}"))? {
                Some(what) => Some(what),
                None => of_disk()?,
            };
            if let Some(what) = what {
                return Ok(Some(format!("member {host} {what}")));
            }
        }
        Ok(None)
    }

    fn on_disk(&self, dir: &Path, has_failed: bool) -> io::Result<Option<String>> {
        let mut states = 0;
        let segments = sizes(&dir.join("log"))?;
        let (log, largest) = (segments.iter().sum::<u64>(), segments.into_iter().max().unwrap_or_default());
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            states += usize::from(name.starts_with(STATE));
            let is_left = match &*name {
                CHECKPOINTS => fs::read_dir(dir.join(CHECKPOINTS))?.next().is_some(),
                name => name.starts_with(INCOMING) || states > 1,
            };
            if is_left && !has_failed {
                return Ok(Some(format!("has {name}, of which nobody needs anything")));
            }
        }
        // One that was made for a write that is larger than a segment is so large.
        let segment = self.setup.limits.store.segment_bytes_max.max(largest);
        let log_max = self.setup.log_retain_bytes + SEGMENTS_BEYOND * segment;
        Ok((log > log_max).then(|| format!("has {log} bytes of log, and is to keep {log_max} at most")))
    }
}

fn sizes(dir: &Path) -> io::Result<Vec<u64>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.metadata()?.len())).collect()
}

fn of_store(seen: &Seen) -> Result<Option<String>, String> {
    let Seen { store, alarms, cluster_time_ms, .. } = seen;
    if store.compaction_backlog() {
        return Ok(Some("has not compacted all that it is to".to_owned()));
    }
    let of_space = store.space_alarms();
    if !of_space.is_empty() || !alarms.is_empty() {
        return Ok(Some(format!("has alarms: {alarms:?}, and of space those of {of_space:x?}")));
    }
    let mortal = mortal(store)?;
    Ok(mortal.map(|(key, deadline_ms)| {
        format!("has {key}, which goes at {deadline_ms} of cluster time, and that is {cluster_time_ms}")
    }))
}

/// A key that ends, and when. All keys are looked at: what is kept by deadlines may be what is wrong.
fn mortal(store: &Store) -> Result<Option<(String, u64)>, String> {
    let mut scan = Scan {
        range: KeyRange::prefix(""),
        keys_only: true,
        keys_max: PAGE_KEYS,
        bytes_max: PAGE_BYTES,
        ..Scan::default()
    };
    loop {
        let page = store.scan_page(&scan).map_err(|error| error.to_string())?;
        if let Some(record) = page.records.iter().find(|record| record.deadline_ms != 0) {
            return Ok(Some((String::from_utf8_lossy(&record.key).into_owned(), record.deadline_ms)));
        }
        if page.next.is_none() {
            return Ok(None);
        }
        (scan.revision, scan.after) = (page.revision, page.next);
    }
}
