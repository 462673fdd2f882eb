//! Room on the disk: when to refuse writes that grow the store, and a ballast that can be thrown.
//!
//! Below the reserve the disk counts as low and the cluster refuses growth, while the log, flushes
//! and compactions still have the reserve to live on. Should they use up half of it, the ballast, a
//! file of nothing, is removed and they live on that. It is put back, and the disk is no longer
//! low, when there is room for both and a margin.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::files::{Files, How, Room};
use crate::limits::SEGMENT_BYTES_MAX;
use crate::machine::Machine;

/// The ballast's file in the data directory.
const BALLAST: &str = "ballast";

/// How much room to keep.
#[derive(Clone, Copy, Debug)]
pub struct SpaceOptions {
    /// With less free bytes than this the disk is low.
    pub reserve_bytes: u64,
    /// Bytes of the ballast; 0: none.
    pub ballast_bytes: u64,
}

/// Log segments in a reserve: a few of them, and a compaction of the state.
const SEGMENTS_IN_RESERVE: u64 = 8;
/// The reserve's part of a disk of less than 2 GiB. It is generous: on a small disk log, memtables
/// and table files cannot be as small in proportion.
const RESERVE_SHARE: u64 = 4;
/// Segments are whole pages.
const PAGE_BYTES: u64 = 4096;

impl SpaceOptions {
    /// What to keep on a disk of this size: 512 MiB, or a quarter of a small disk.
    pub fn for_disk(total_bytes: u64) -> SpaceOptions {
        let segment_bytes = SEGMENT_BYTES_MAX.min(total_bytes / RESERVE_SHARE / SEGMENTS_IN_RESERVE);
        let segment_bytes = (segment_bytes / PAGE_BYTES * PAGE_BYTES).max(PAGE_BYTES);
        // The ballast is one log segment, so that the log can always go on.
        SpaceOptions { reserve_bytes: segment_bytes * SEGMENTS_IN_RESERVE, ballast_bytes: segment_bytes }
    }

    /// What compactions of the state may take of the reserve; log and flushes have the rest.
    pub fn compaction_bytes(&self) -> u64 {
        self.reserve_bytes / 2
    }

    /// The size of the log's segments that the reserve is made for.
    pub fn segment_bytes(&self) -> u64 {
        self.reserve_bytes / SEGMENTS_IN_RESERVE
    }
}

/// What the disk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceState {
    /// Bytes that this process may still use.
    pub free_bytes: u64,
    /// Bytes of the whole file system.
    pub total_bytes: u64,
    /// Whether growth is to be refused.
    pub low: bool,
}

/// The room in a data directory. Clones share the ballast.
#[derive(Clone)]
pub struct Space(Arc<Inner>);

struct Inner {
    files: Arc<dyn Files>,
    dir: PathBuf,
    options: SpaceOptions,
    held: Mutex<Held>,
}

/// What was found last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    ballast: bool,
    low: bool,
}

/// What to do after a look at the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decision {
    low: bool,
    ballast: Ballast,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ballast {
    Leave,
    Remove,
    Make,
}

impl Space {
    /// Watches the disk of a data directory, keeping what befits its size.
    pub fn open_for_disk(dir: &Path) -> io::Result<Space> {
        Space::open_for_disk_on(&Machine::system(), dir)
    }

    /// The same on any machine.
    pub fn open_for_disk_on(machine: &Machine, dir: &Path) -> io::Result<Space> {
        let options = SpaceOptions::for_disk(machine.files.room(dir)?.total_bytes);
        Space::open_on(machine, dir, options)
    }

    /// Watches the disk of a data directory. The ballast is made at the first check with room for it.
    pub fn open(dir: &Path, options: SpaceOptions) -> io::Result<Space> {
        Space::open_on(&Machine::system(), dir, options)
    }

    /// The same on any machine.
    pub fn open_on(machine: &Machine, dir: &Path, options: SpaceOptions) -> io::Result<Space> {
        let files = machine.files.clone();
        let ballast = match files.look(&dir.join(BALLAST))? {
            Some(found) if found.bytes == options.ballast_bytes => true,
            // Left unfinished by a crash, or of another size now.
            Some(_) => files.remove_file(&dir.join(BALLAST)).map(|()| false)?,
            None => false,
        };
        let held = Mutex::new(Held { ballast, low: false });
        Ok(Space(Arc::new(Inner { files, dir: dir.to_owned(), options, held })))
    }

    /// How much room is kept.
    pub fn options(&self) -> SpaceOptions {
        self.0.options
    }

    /// Looks at the disk, and throws the ballast or takes it back. `promised_bytes` answers, for the size
    /// of the disk, how much of what is free is promised to something that may grow: growth is refused
    /// as if it had been taken.
    pub fn check(&self, promised_bytes: impl FnOnce(u64) -> u64) -> io::Result<SpaceState> {
        let mut held = self.lock();
        let Room { free_bytes, total_bytes } = self.0.files.room(&self.0.dir)?;
        let promised_bytes = promised_bytes(total_bytes);
        let decision = decide(free_bytes, promised_bytes, *held, self.0.options);
        held.low = decision.low;
        match decision.ballast {
            Ballast::Leave => {}
            Ballast::Remove => self.remove(&mut held),
            Ballast::Make => held.ballast = self.make(),
        }
        Ok(SpaceState { free_bytes, total_bytes, low: held.low })
    }

    /// Throws the ballast at once, when the disk has refused something. The disk counts as low from
    /// then on, until there is room for the ballast again.
    pub fn release_ballast(&self) {
        let mut held = self.lock();
        held.low = true;
        if held.ballast {
            self.remove(&mut held);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().expect("no thread panics while it holds this lock")
    }

    fn remove(&self, held: &mut Held) {
        let path = self.0.dir.join(BALLAST);
        match self.0.files.remove_file(&path) {
            Ok(()) => {
                tracing::warn!(file = %path.display(), "removed the ballast: the disk is nearly full");
                held.ballast = false;
            }
            Err(error) => tracing::error!(file = %path.display(), %error, "cannot remove the ballast"),
        }
    }

    /// Whether there is a ballast now. Without one the node lives on, with less to fall back on.
    fn make(&self) -> bool {
        let path = self.0.dir.join(BALLAST);
        let files = &self.0.files;
        let made = files.open(&path, How::Create).and_then(|file| {
            file.preallocate(0, self.0.options.ballast_bytes)?;
            file.sync_all()
        });
        if let Err(error) = made {
            tracing::warn!(file = %path.display(), %error, "cannot make the ballast");
            // A rest of it is removed with the next attempt at the latest: `create` truncates.
            let _ = files.remove_file(&path);
            return false;
        }
        true
    }
}

fn decide(free_bytes: u64, promised_bytes: u64, held: Held, options: SpaceOptions) -> Decision {
    let SpaceOptions { reserve_bytes, ballast_bytes } = options;
    let wanted = if held.ballast { 0 } else { ballast_bytes };
    // The margin keeps the state from flapping around the limit.
    let comfortable = reserve_bytes.saturating_add(reserve_bytes / 4).saturating_add(wanted);
    let left_bytes = free_bytes.saturating_sub(promised_bytes);
    let low = left_bytes < reserve_bytes || (held.low && left_bytes < comfortable);
    let ballast = if held.ballast && free_bytes < reserve_bytes / 2 {
        Ballast::Remove
    } else if wanted > 0 && left_bytes >= comfortable {
        Ballast::Make
    } else {
        Ballast::Leave
    };
    Decision { low, ballast }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Goal: the disk is low in time, and not in turns. Method: a table of states around each limit.
    #[test]
    fn decisions() {
        let options = SpaceOptions { reserve_bytes: 100, ballast_bytes: 40 };
        let cases = [
            // free, promised of it, has ballast, was low; is low, ballast
            (200, 0, true, false, false, Ballast::Leave),
            (100, 0, true, false, false, Ballast::Leave),
            (99, 0, true, false, true, Ballast::Leave),
            (50, 0, true, true, true, Ballast::Leave),
            (49, 0, true, true, true, Ballast::Remove),
            (89, 0, false, true, true, Ballast::Leave),
            (124, 0, true, true, true, Ballast::Leave),
            (125, 0, true, true, false, Ballast::Leave),
            (164, 0, false, true, true, Ballast::Leave),
            (165, 0, false, true, false, Ballast::Make),
            (164, 0, false, false, false, Ballast::Leave),
            // What is promised does not count as free, but for the ballast's removal.
            (200, 100, true, false, false, Ballast::Leave),
            (200, 101, true, false, true, Ballast::Leave),
            (224, 100, true, true, true, Ballast::Leave),
            (264, 100, false, true, true, Ballast::Leave),
            (265, 100, false, true, false, Ballast::Make),
            (50, 100, true, true, true, Ballast::Leave),
        ];
        for (free, promised, ballast, was_low, low, expected) in cases {
            let decision = decide(free, promised, Held { ballast, low: was_low }, options);
            let case = format!("{free} free, {promised} promised, ballast {ballast}");
            assert_eq!(decision, Decision { low, ballast: expected }, "{case}");
        }
    }

    /// Goal: a small disk keeps its share, any other what is enough. Method: sizes around 2 GiB.
    #[test]
    fn the_reserve_follows_the_disk() {
        const MIB: u64 = 1024 * 1024;
        for (disk, reserve, segment) in [(256, 64, 8), (1024, 256, 32), (2048, 512, 64), (1 << 20, 512, 64)] {
            let options = SpaceOptions::for_disk(disk * MIB);
            assert_eq!(options.reserve_bytes, reserve * MIB, "disk of {disk} MiB");
            assert_eq!((options.ballast_bytes, options.segment_bytes()), (segment * MIB, segment * MIB));
        }
    }

    /// Goal: the ballast comes, goes and comes back. Method: a real directory with room.
    #[test]
    fn the_ballast_is_made_and_thrown() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::open(dir.path(), SpaceOptions { reserve_bytes: 1, ballast_bytes: 4096 }).unwrap();
        assert!(!space.check(|_| 0).unwrap().low);
        assert_eq!(fs::metadata(dir.path().join(BALLAST)).unwrap().len(), 4096);
        space.release_ballast();
        assert!(!dir.path().join(BALLAST).exists());
        assert!(!space.check(|_| 0).unwrap().low);
        assert!(dir.path().join(BALLAST).exists());
    }
}
