//! When this node may answer a read.

use kvorum_proto::peer::v1 as peer;
use tokio::time::{Instant, timeout, timeout_at};

use super::read_index::Confirm;
use super::{Raft, WeakRaft};
use crate::error::RequestError;

impl Raft {
    /// Returns once this node has applied everything that was committed when the call came in.
    pub async fn read_barrier(&self, deadline: Instant) -> Result<(), RequestError> {
        let index = loop {
            let core = self.core()?;
            let readers = if self.overview().is_leader() { &core.leader_index } else { &core.follower_index };
            match readers.get(deadline).await {
                Ok(index) => break index,
                Err(error) if error.is_not_proposed() => self.pause(error, deadline).await?,
                Err(error) => return Err(error),
            }
        };
        self.wait_applied(index, deadline).await
    }

    /// Confirms leadership and answers the index that a read on a follower must wait for, as the leader
    /// only.
    pub async fn read_index_here(&self, deadline: Instant) -> Result<u64, RequestError> {
        if !self.overview().is_leader() {
            return Err(self.not_leader());
        }
        let core = self.core()?;
        let index = core.leader_index.get(deadline).await?;
        core.commit_wanted.notify_waiters();
        Ok(index)
    }

    /// Whether this node has, within an election timeout, heard from the leader and its quorum again.
    pub async fn confirm(&self) -> bool {
        self.read_barrier(Instant::now() + self.election_timeout()).await.is_ok()
    }

    /// Returns once this node may serve what it holds: a read from its own state that came after
    /// this can't be older than one from before the node was restarted.
    pub async fn recovered(&self, deadline: Instant) -> Result<(), RequestError> {
        if *self.inner.recovered.borrow() {
            return Ok(());
        }
        self.core()?;
        let mut recovered = self.inner.recovered.subscribe();
        match timeout_at(deadline, recovered.wait_for(|recovered| *recovered)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(RequestError::NoLeader),
        }
    }

    async fn wait_applied(&self, index: u64, deadline: Instant) -> Result<(), RequestError> {
        let mut applied = self.inner.applier.applied();
        if *applied.borrow() > index {
            return Ok(());
        }
        match timeout_at(deadline, applied.wait_for(|next| *next > index)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(RequestError::ShuttingDown),
            Err(_) => Err(RequestError::Deadline { outcome_unknown: false }),
        }
    }
}

/// Confirms as a follower: it asks the leader for the index.
pub(super) struct AskLeader(pub(super) WeakRaft);

impl Confirm for AskLeader {
    async fn confirm(&mut self) -> Result<u64, RequestError> {
        let (mut client, envelope, limit) = {
            let raft = self.0.upgrade()?;
            let (client, envelope) = raft.leader_client()?;
            (client, envelope, raft.election_timeout())
        };
        let mut request = tonic::Request::new(peer::ReadIndexRequest { envelope });
        request.set_timeout(limit);
        match timeout(limit, client.read_index(request)).await {
            Ok(Ok(response)) => Ok(response.into_inner().index),
            // A read can be asked again whatever became of it.
            Ok(Err(_)) | Err(_) => Err(RequestError::NoLeader),
        }
    }
}
