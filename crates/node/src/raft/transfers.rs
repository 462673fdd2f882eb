//! Snapshots that come in at this node's peer port, and those that go out there to administrators.

use futures_util::Stream;
use kvorum_proto::{admin::v1 as admin, peer::v1 as peer};
use openraft::storage::Snapshot;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::feature::unknown_level;
use super::snapshot::data::SnapshotData;
use super::snapshot::outgoing::{Outgoing, STALL_TIMEOUT};
use super::snapshot::receive::receive_snapshot;
use super::types::{raft_vote, wire_vote};
use super::{Raft, admit};

impl Raft {
    /// Receives a whole snapshot and replaces the state by it.
    pub async fn install_snapshot(
        &self,
        header: peer::SnapshotHeader,
        chunks: Streaming<peer::SnapshotRequest>,
    ) -> Result<peer::SnapshotResponse, Status> {
        let begun = Instant::now();
        let from = header.envelope.unwrap_or_default().from;
        let [committed, _] = self.memberships()?;
        let checked = admit::snapshot_header(&self.standing(), &committed, header.clone());
        self.admitted("a snapshot", from, checked)?;
        let known = self.inner.options.feature_level_max;
        if header.feature_level > known {
            return Err(Status::failed_precondition(unknown_level(
                "the snapshot",
                header.feature_level,
                known,
            )));
        }
        let mut turn = self.inner.snapshots.receiving_turn();
        let place = self.inner.snapshots.receiving_place(&mut turn).await?;
        let metrics = &self.inner.metrics.snapshots;
        let received = receive_snapshot(chunks, self.store(), turn, place, self.blocking())
            .await
            .inspect_err(|_| metrics.failed())?;
        let bytes = received.begin().total_bytes;
        // Much may have been committed while the files came in.
        let [committed, _] = self.memberships()?;
        let applied = received.begin().applied;
        let checked = admit::snapshot_header(&self.standing(), &committed, header);
        let checked = checked.and_then(|header| admit::snapshot_content(&header, applied).map(|()| header));
        let header = self.admitted("a snapshot", from, checked)?;
        let vote = raft_vote(header.vote);
        self.note_leader(&vote);
        let meta = header.meta;
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Incoming(Box::new(received)) };
        let installed = self.core()?.raft.install_full_snapshot(vote, snapshot).await;
        let installed = installed.map_err(|fatal| Status::unavailable(fatal.to_string()))?;
        metrics.received(bytes, begun.elapsed());
        tracing::info!(bytes, seconds = begun.elapsed().as_secs_f32(), "snapshot installed");
        Ok(peer::SnapshotResponse { vote: Some(wire_vote(&installed.vote)) })
    }

    /// Streams the whole store as of one position, for a backup.
    pub async fn stream_snapshot(
        &self,
    ) -> Result<impl Stream<Item = Result<admin::SnapshotChunk, Status>> + Send + use<>, Status> {
        let cluster_id = self.core()?.identity.cluster_id;
        let snapshots = &self.inner.snapshots;
        let place = snapshots.stream_place()?;
        let checkpoint = snapshots.checkpoint(&self.inner.store).await;
        let checkpoint = checkpoint.map_err(|error| Status::internal(error.to_string()))?;
        let outgoing =
            Outgoing::new(checkpoint, Some(place), cluster_id, STALL_TIMEOUT, self.blocking().clone());
        outgoing.give_up_when_stalled();
        Ok(outgoing.chunks())
    }
}
