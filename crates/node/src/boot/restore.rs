//! Adopting what `kvorum snapshot restore` has unpacked: the state of another cluster becomes that
//! of a new cluster with this one member.
//!
//! Every step can be repeated: the snapshot's manifest stays in the state's directory until all of
//! them are done, and raft does not start before.

use std::io;
use std::path::{Path, PathBuf};

use kvorum_store::Store;
use kvorum_store::data_dir::{DataDir, DataDirError, Identity, Origin};
use kvorum_store::files::Files;
use kvorum_store::log::{Log, Vote};
use rand::Rng as _;

use super::durably;
use crate::config::{Bootstrap, Config};
use crate::raft::founding_membership;

/// Where the tool puts the files, and the one that says that all of them are there.
const RESTORE_DIR: &str = "restore";
const MANIFEST: &str = "manifest";
/// The first state of a data directory.
const STATE_DIR: &str = "state-1";

/// Why a restored snapshot was not adopted.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The tool did not finish.
    #[error("{} holds a snapshot that was not unpacked to its end; remove the data directory and restore it again", .0.display())]
    Unfinished(PathBuf),
    /// A managed cluster never founds itself.
    #[error("{} holds a restored snapshot, which founds a new cluster; start this node with --bootstrap single", .0.display())]
    Bootstrap(PathBuf),
    /// The operating system refused.
    #[error("adopt the restored snapshot in {}: {source}; check the disk and its permissions", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The identity was not written.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The state was not changed.
    #[error("adopt the restored snapshot: {0}")]
    Store(#[from] kvorum_store::StoreError),
}

/// Makes a restored snapshot the state of a data directory that has none yet.
pub fn take_state(disk: &dyn Files, config: &Config) -> Result<(), RestoreError> {
    let restored = config.data_dir.join(RESTORE_DIR);
    if !exists(disk, &restored)? {
        return Ok(());
    }
    if !exists(disk, &restored.join(MANIFEST))? {
        return Err(RestoreError::Unfinished(restored));
    }
    if config.bootstrap != Bootstrap::Single {
        return Err(RestoreError::Bootstrap(restored));
    }
    disk.rename(&restored, &config.data_dir.join(STATE_DIR)).map_err(io_error(&restored))?;
    disk.sync_dir(&config.data_dir).map_err(io_error(&config.data_dir))
}

/// Founds the new cluster on a state that was taken, and answers the disk's identity.
///
/// The log goes on where the snapshot ends, in a later term, so that a member that is added later
/// can get what came before only by a snapshot.
pub async fn found(
    disk: &dyn Files,
    config: &Config,
    data_dir: &DataDir,
    log: &Log,
    store: &Store,
    advertise: (&str, &str),
    identity: Identity,
) -> Result<(), RestoreError> {
    let state = config.data_dir.join(STATE_DIR);
    let manifest = state.join(MANIFEST);
    if !exists(disk, &manifest)? {
        return Ok(());
    }
    let applied = store.applied().unwrap_or_default();
    durably(|done| log.purge(applied, done)).await;
    let vote = Vote { term: applied.term, node_id: identity.node_id, committed: false };
    durably(|done| log.save_vote(vote, done)).await;
    let (peer, client) = advertise;
    // Whoever holds the snapshot's file could sign sessions with the key in it.
    let mut session_key = [0; 32];
    rand::rng().fill_bytes(&mut session_key);
    store.found_from(&founding_membership(identity.node_id, peer, client), &session_key)?;
    if identity.cluster_id == 0 {
        let cluster_id = config.cluster_id.unwrap_or_else(|| rand::rng().next_u64().max(1));
        data_dir.set_cluster(cluster_id, 1, Origin::Joins)?;
        tracing::info!(
            cluster = format!("{cluster_id:016x}"),
            revision = store.revision(),
            "a new cluster is founded on the restored snapshot"
        );
    }
    disk.remove_file(&manifest).map_err(io_error(&manifest))?;
    disk.sync_dir(&state).map_err(io_error(&state))
}

fn exists(disk: &dyn Files, path: &Path) -> Result<bool, RestoreError> {
    Ok(disk.look(path).map_err(io_error(path))?.is_some())
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.to_owned();
    move |source| RestoreError::Io { path, source }
}
