//! The space on this node's disk. A disk that hangs does not answer, so it is asked on another thread, and
//! whoever only wants to tell what there is goes by the last answer.

use std::io;

use kvorum_store::space::SpaceState;

use super::Raft;

/// The log takes no more than this part of a small disk, whatever the flag says.
pub(super) const LOG_SHARE: u64 = 4;

impl Raft {
    /// How much log is kept on a disk of this size.
    pub(super) fn log_bytes_max(&self, disk_bytes: u64) -> u64 {
        self.inner.options.log_retain_bytes.min(disk_bytes / LOG_SHARE)
    }

    /// Looks at the disk. What the log may yet take is not free for anything else.
    pub async fn look_at_disk(&self) -> io::Result<SpaceState> {
        let raft = self.clone();
        let look = move || {
            let promised = |disk_bytes| raft.log_bytes_max(disk_bytes).saturating_sub(raft.inner.log.bytes());
            let space = raft.inner.space.check(promised);
            raft.inner.disk.send_replace(space.as_ref().ok().copied());
            space
        };
        self.inner.blocking.run(look).await?
    }
}
