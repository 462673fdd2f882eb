//! Snapshots on the wire: a checkpoint's files in chunks, with checksums at the end. At no time is
//! more of it in memory than a few chunks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvorum_proto::{admin::v1 as admin, peer::v1 as peer};
use kvorum_store::entry;
use kvorum_store::{Begin, Checkpoint, Chunk, Received, ReceivedSnapshot, SnapshotReceiver, SnapshotSender};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::PeerClient;
use super::state_machine::SnapshotData;
use super::types::{TypeConfig, Vote, encode_membership, wire_log_id, wire_vote};
use crate::metrics::Metrics;

/// Chunks of about 1 MiB that wait for the disk or the network.
pub const CHUNKS_WAITING_MAX: usize = 2;

/// A snapshot on which nothing moves for so long has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Sends a snapshot to a peer and answers the peer's vote once it is installed there.
pub async fn send_snapshot(
    mut client: PeerClient,
    envelope: Option<peer::Envelope>,
    vote: Vote,
    snapshot: Snapshot,
    metrics: Arc<Metrics>,
) -> Result<Option<peer::Vote>, Status> {
    let SnapshotData::Outgoing(checkpoint) = snapshot.snapshot else {
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
    let (parts, queue) = mpsc::channel(CHUNKS_WAITING_MAX);
    let part = |part| peer::SnapshotRequest { part: Some(part) };
    let _ = parts.send(part(peer::snapshot_request::Part::Header(header))).await;
    let cluster_id = envelope.map_or(0, |envelope| envelope.cluster_id);
    let bytes = checkpoint.total_bytes();
    let reader = spawn_blocking(move || {
        send_chunks(checkpoint, cluster_id, |chunk| {
            parts.blocking_send(part(peer::snapshot_request::Part::Chunk(chunk))).is_ok()
        })
    });
    let response = client.snapshot(ReceiverStream::new(queue)).await;
    reader.await.map_err(|error| Status::internal(error.to_string()))??;
    let vote = response?.into_inner().vote;
    metrics.snapshots.sent(bytes, begun.elapsed());
    Ok(vote)
}

/// Reads a checkpoint chunk by chunk for as long as `send` takes them.
pub fn send_chunks(
    checkpoint: Arc<Checkpoint>,
    cluster_id: u64,
    mut send: impl FnMut(admin::SnapshotChunk) -> bool,
) -> Result<(), Status> {
    for chunk in SnapshotSender::new(checkpoint) {
        let chunk = chunk.map_err(|error| Status::data_loss(format!("read snapshot: {error}")))?;
        if !send(wire_chunk(chunk, cluster_id)) {
            // Whoever wanted it has gone; its own error says why.
            return Ok(());
        }
    }
    Ok(())
}

/// Receives the files of a snapshot into the data directory and verifies them.
pub async fn receive_snapshot(
    mut stream: Streaming<peer::SnapshotRequest>,
    receiver: SnapshotReceiver,
) -> Result<ReceivedSnapshot, Status> {
    let (chunks, mut queue) = mpsc::channel(CHUNKS_WAITING_MAX);
    let writer = spawn_blocking(move || {
        let mut receiver = receiver;
        while let Some(chunk) = queue.blocking_recv() {
            match receiver.chunk(chunk).map_err(|error| Status::data_loss(error.to_string()))? {
                Received::More(more) => receiver = more,
                Received::Whole(received) => return Ok(received),
            }
        }
        Err(Status::cancelled("the snapshot broke off"))
    });
    loop {
        let message = timeout(STALL_TIMEOUT, stream.message()).await;
        let message = message.map_err(|_| Status::deadline_exceeded("no chunk of the snapshot came in"))?;
        let Some(message) = message? else { break };
        let Some(peer::snapshot_request::Part::Chunk(chunk)) = message.part else {
            return Err(Status::invalid_argument("a snapshot has one header"));
        };
        if chunks.send(read_chunk(chunk)?).await.is_err() {
            // The writer has the whole of it, or an error.
            break;
        }
    }
    drop(chunks);
    writer.await.map_err(|error| Status::internal(error.to_string()))?
}

fn wire_chunk(chunk: Chunk, cluster_id: u64) -> admin::SnapshotChunk {
    use admin::snapshot_chunk::Part;
    let part = match chunk {
        Chunk::Begin(begin) => {
            let Begin { format_version, applied, revision, total_bytes, files, feature_level } = begin;
            let applied = applied.map(|id| admin::LogId { term: id.term, index: id.index });
            Part::Begin(admin::SnapshotBegin {
                format_version,
                cluster_id,
                applied,
                revision,
                total_bytes,
                files,
                feature_level,
            })
        }
        Chunk::File { name, size_bytes } => Part::File(admin::SnapshotFile { name, size_bytes }),
        Chunk::Data(data) => Part::Data(data),
        Chunk::End { file_crc32c, crc32c } => Part::End(admin::SnapshotEnd { file_crc32c, crc32c }),
    };
    admin::SnapshotChunk { part: Some(part) }
}

fn read_chunk(chunk: admin::SnapshotChunk) -> Result<Chunk, Status> {
    use admin::snapshot_chunk::Part;
    match chunk.part {
        Some(Part::Begin(begin)) => Ok(Chunk::Begin(Begin {
            format_version: begin.format_version,
            applied: begin.applied.map(|id| entry::LogId { term: id.term, index: id.index }),
            revision: begin.revision,
            total_bytes: begin.total_bytes,
            files: begin.files,
            feature_level: begin.feature_level,
        })),
        Some(Part::File(file)) => Ok(Chunk::File { name: file.name, size_bytes: file.size_bytes }),
        Some(Part::Data(data)) => Ok(Chunk::Data(data)),
        Some(Part::End(end)) => Ok(Chunk::End { file_crc32c: end.file_crc32c, crc32c: end.crc32c }),
        None => Err(Status::invalid_argument("a chunk of a snapshot is empty")),
    }
}
