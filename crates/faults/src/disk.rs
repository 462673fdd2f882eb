//! File systems in files: one that can be small, and one whose power can be cut.
//!
//! SIGKILL leaves everything alone that was written, so that a store which never syncs survives it. A
//! power failure takes what is in the kernel's page cache, and what is in the disk's own write cache, where
//! direct writes end up too until the disk is told to flush. [`PowerDisk`] has both.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::{Context as _, Failure, Result};

/// Room for a log of several preallocated segments, and a store beside it.
const FILES_BYTES: u64 = 640 * 1024 * 1024;
/// Room for an image of that, and what its file system takes for itself.
const PLATTER_BYTES: u64 = FILES_BYTES + 160 * 1024 * 1024;

/// How often a file system that is busy is unmounted, and what lies between two attempts.
const UMOUNT_ATTEMPTS_MAX: u32 = 20;
const UMOUNT_PAUSE: Duration = Duration::from_millis(100);

/// An empty file system of its own for one test.
#[derive(Debug)]
pub struct Disk {
    mount: Mount,
}

impl Disk {
    /// Why disks cannot be made here, if they cannot.
    pub fn missing() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("mounting an image needs root".into());
        }
        for tool in ["losetup", "mkfs.ext4", "mount", "umount", "cp"] {
            if run("which", [Path::new(tool)]).is_err() {
                return Some(format!("{tool} is not installed"));
            }
        }
        run("losetup", [Path::new("--find")]).err().map(|failure| format!("no loop device: {failure}"))
    }

    /// Makes an empty file system of this size in `directory`, and mounts it.
    pub fn sized(directory: &Path, bytes: u64) -> Result<Disk> {
        fs::create_dir_all(directory)?;
        let image = directory.join("image");
        format(&image, bytes)?;
        Ok(Disk { mount: Mount::new(&image, &directory.join("mounted"))? })
    }

    /// From now on nothing can be written to the file system.
    pub fn make_read_only(&self) -> Result<()> {
        run("mount", [Path::new("-o"), Path::new("remount,ro"), self.mount_point()])
    }

    /// Where the file system is mounted.
    pub fn mount_point(&self) -> &Path {
        &self.mount.point
    }
}

/// A file system on a disk whose power can be cut.
///
/// It is an ext4 in an image file, and that file is the only one on another ext4 in an image file, the
/// platter. What the inner file system writes to its device, directly or not, is in the page cache of the
/// outer one until the device is told to flush: that is the disk's write cache. So a copy of the outer
/// image, taken without any sync, is what a power failure leaves.
#[derive(Debug)]
pub struct PowerDisk {
    directory: PathBuf,
    /// How often the power was cut; each time goes on with a new platter.
    generation: u32,
    /// `None` only while the power is cut. They are dropped in this order: the inner one first.
    mounts: Option<(Mount, Mount)>,
}

impl PowerDisk {
    /// Makes an empty disk in `directory`, and mounts it.
    pub fn make(directory: &Path) -> Result<PowerDisk> {
        fs::create_dir_all(directory)?;
        let mut disk = PowerDisk { directory: directory.to_owned(), generation: 0, mounts: None };
        format(&disk.platter(), PLATTER_BYTES)?;
        let platter = Mount::new(&disk.platter(), &disk.directory.join("platter"))?;
        format(&platter.point.join("files"), FILES_BYTES)?;
        drop(platter);
        disk.mount()?;
        Ok(disk)
    }

    /// Where the file system is mounted.
    pub fn mount_point(&self) -> PathBuf {
        self.directory.join("mounted")
    }

    /// The power fails, and comes back: everything that was not synced is gone. No process may use the
    /// file system at this moment.
    pub fn cut_power(&mut self) -> Result<()> {
        let before = self.platter();
        self.generation += 1;
        // This reads what was written to the platter. Nothing is synced before; to unmount syncs, but to
        // the old image.
        run("cp", [Path::new("--sparse=always"), &before, &self.platter()])?;
        if let Some((files, platter)) = self.mounts.take() {
            files.unmount()?;
            platter.unmount()?;
        }
        fs::remove_file(&before)?;
        self.mount()
    }

    fn mount(&mut self) -> Result<()> {
        let platter = Mount::new(&self.platter(), &self.directory.join("platter"))?;
        let files = Mount::new(&platter.point.join("files"), &self.mount_point())?;
        self.mounts = Some((files, platter));
        Ok(())
    }

    fn platter(&self) -> PathBuf {
        self.directory.join(format!("platter-{}", self.generation))
    }
}

/// Makes an ext4 in a new file.
fn format(image: &Path, bytes: u64) -> Result<()> {
    File::create(image)?.set_len(bytes)?;
    // Without lazy initialisation no kernel thread writes to the image behind our back.
    let options = ["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"].map(Path::new);
    run("mkfs.ext4", options.into_iter().chain([image]))
}

/// A mounted image.
#[derive(Debug)]
struct Mount {
    point: PathBuf,
}

impl Mount {
    /// A long commit interval keeps the journal from syncing what nobody asked to be synced.
    fn new(image: &Path, point: &Path) -> Result<Mount> {
        fs::create_dir_all(point)?;
        let options = ["-o", "loop,commit=300"].map(Path::new);
        run("mount", options.into_iter().chain([image, point]))?;
        Ok(Mount { point: point.to_owned() })
    }

    fn unmount(self) -> Result<()> {
        // Somebody who looks at all file systems of the machine, a kubelet say, may have it open for a moment.
        let mut attempts = 1;
        while let Err(failure) = run("umount", [&self.point]) {
            if attempts == UMOUNT_ATTEMPTS_MAX || !failure.to_string().contains("busy") {
                return Err(failure);
            }
            attempts += 1;
            std::thread::sleep(UMOUNT_PAUSE);
        }
        // There is nothing left to be done when it is dropped.
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily, as the nodes of a failed test may still be about to end.
        let _ = run("umount", [Path::new("--lazy"), &self.point]);
    }
}

fn run<P: AsRef<Path>>(tool: &str, arguments: impl IntoIterator<Item = P>) -> Result<()> {
    let mut command = Command::new(tool);
    command.args(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
    let output = command.output().context(format!("run {tool}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let message = String::from_utf8_lossy(&output.stderr);
            Err(Failure::new(format!("{tool} failed ({}): {}", output.status, message.trim())))
        }
    }
}
