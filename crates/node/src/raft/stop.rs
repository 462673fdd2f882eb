//! How this node's part in consensus ends.

use std::time::Duration;

use tokio::time::timeout;

use super::Raft;

impl Raft {
    /// Waits until all writes that came to this node, from members too, are answered, or the time is up: one
    /// that it took as the leader it answers when the next leader has committed it.
    pub async fn settle(&self, within: Duration) {
        let Ok(core) = self.core() else { return };
        let answered = async { tokio::join!(core.proposer.idle(), core.forwarder.idle()) };
        if timeout(within, answered).await.is_err() {
            tracing::warn!("some writes were not answered in time");
        }
    }

    /// From now on this node does not stand for election: it is about to go. One that was taken out of the cluster
    /// hears of no leader any more, and would forget the one it knows, to whom it still forwards what its last
    /// clients ask for.
    pub fn stand_no_more(&self) {
        if let Ok(core) = self.core() {
            core.raft.runtime_config().elect(false);
        }
    }

    /// From now on nobody waits for a leader here.
    pub fn stop_waiting(&self) {
        self.inner.stopping.send_replace(true);
    }

    /// Stops taking part in consensus, and flushes the store so that the next start is quick.
    pub async fn shutdown(&self) {
        self.stop_waiting();
        if let Some(core) = self.inner.core.get()
            && let Err(error) = core.raft.shutdown().await
        {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
        let store = self.inner.store.clone();
        match self.inner.blocking.run(move || store.flush()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the store was not flushed"),
            Err(error) => tracing::warn!(%error, "the store was not flushed"),
        }
    }
}
