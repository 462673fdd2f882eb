//! Sending a snapshot to another member.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use kvorum_proto::peer::v1 as peer;
use tokio::time::Instant;
use tonic::Status;

use super::data::SnapshotData;
use super::outgoing::{Outgoing, STALL_TIMEOUT};
use crate::blocking::Blocking;
use crate::metrics::Metrics;
use crate::net::dialer::PeerClient;
use crate::raft::types::{TypeConfig, Vote, encode_membership, wire_log_id, wire_vote};

/// A receiver verifies and installs what it received at this rate at least, in bytes a second: a disk that
/// is slower than this carries no member.
const INSTALL_RATE_MIN: u64 = 4 << 20;

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Sends a snapshot to a peer and answers the peer's vote once it is installed there. Until then, and until
/// that peer has caught up by it, the log behind the snapshot is held.
pub async fn send_snapshot(
    mut client: PeerClient,
    envelope: Option<peer::Envelope>,
    vote: Vote,
    snapshot: Snapshot,
    metrics: Arc<Metrics>,
    blocking: Blocking,
) -> Result<Option<peer::Vote>, Status> {
    let SnapshotData::Outgoing { checkpoint, hold } = snapshot.snapshot else {
        return Err(Status::internal("this snapshot has no files to send"));
    };
    let begun = Instant::now();
    let membership = snapshot.meta.last_membership;
    let header = peer::SnapshotHeader {
        envelope,
        vote: Some(wire_vote(&vote)),
        last_log_id: snapshot.meta.last_log_id.as_ref().map(wire_log_id),
        membership_log_id: membership.log_id().as_ref().map(wire_log_id),
        membership: encode_membership(membership.membership()).into(),
        feature_level: checkpoint.feature_level(),
    };
    let peer::Envelope { cluster_id, to, .. } = envelope.unwrap_or_default();
    let bytes = checkpoint.total_bytes();
    let outgoing = Outgoing::new(checkpoint, None, cluster_id, STALL_TIMEOUT, blocking);
    let part = |part| peer::SnapshotRequest { part: Some(part) };
    let header = stream::iter([part(peer::snapshot_request::Part::Header(header))]);
    // After an error the stream ends, and the receiver finds that its end is missing.
    let chunks =
        outgoing.chunks().take_while(|chunk| ready(chunk.is_ok())).filter_map(|chunk| ready(chunk.ok()));
    let chunks = chunks.map(move |chunk| part(peer::snapshot_request::Part::Chunk(chunk)));
    let answer_max = STALL_TIMEOUT + Duration::from_secs(bytes / INSTALL_RATE_MIN);
    let response = tokio::select! {
        response = client.snapshot(header.chain(chunks)) => response,
        () = outgoing.stalled(answer_max) => Err(Status::aborted("the receiver stands still")),
    };
    if let Some(failure) = outgoing.failure() {
        return Err(failure);
    }
    let answered = response?.into_inner().vote;
    if answered.is_none_or(|answered| answered.term <= vote.leader_id.term) {
        hold.installed_by(to, Instant::now());
    }
    metrics.snapshots.sent(bytes, begun.elapsed());
    Ok(answered)
}
