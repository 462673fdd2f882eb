//! What must hold before a node takes part again, and when it may serve what it holds.

use std::time::Duration;

use kvorum_store::Store;
use kvorum_store::log::Log;
use openraft::metrics::WaitError;

use super::Raft;
use super::options::StartError;

/// Between two attempts to find out whether the log is replayed.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Checks that log and state belong together: the state has everything the log no longer has, and
/// nothing the log does not have, unless it was just installed from a snapshot.
pub fn check_positions(store: &Store, log: &Log) -> Result<(), StartError> {
    let (applied, state) = (store.applied(), log.state());
    if state.purged > applied {
        return Err(StartError::Inconsistent(format!(
            "the log begins after {}, but the state goes only to {}",
            text(state.purged),
            text(applied)
        )));
    }
    if applied > state.last.max(state.purged) && store.installed() != applied {
        return Err(StartError::Inconsistent(format!(
            "the state goes to {}, but the log only to {}",
            text(applied),
            text(state.last)
        )));
    }
    Ok(())
}

fn text(id: Option<kvorum_store::entry::LogId>) -> String {
    id.map_or_else(|| "nothing".into(), |id| id.to_string())
}

/// Marks the node as recovered once everything its log held durably before the start, and that the
/// cluster has committed, is applied.
pub fn follow(raft: Raft) {
    tokio::spawn(async move {
        let Ok(core) = raft.core() else { return };
        let mut stopping = raft.watch_stopping();
        loop {
            tokio::select! {
                recovered = core.raft.wait_for_recovery(Some(ATTEMPT)) => match recovered {
                    Ok(_) => {
                        raft.inner.recovered.send_replace(true);
                        return;
                    }
                    // The core has ended: each further attempt would come to nothing at once.
                    Err(WaitError::ShuttingDown) => return,
                    Err(WaitError::Timeout(..)) => {}
                },
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
        }
    });
}
