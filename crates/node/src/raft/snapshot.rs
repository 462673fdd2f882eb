//! Snapshots on the wire: a checkpoint's files in chunks, with checksums at the end. At no time is
//! more of it in memory than a few chunks, and no thread waits for the other side.

use std::future::ready;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use kvorum_proto::{admin::v1 as admin, peer::v1 as peer};
use kvorum_store::entry;
use kvorum_store::{Begin, Checkpoint, Chunk, Received, ReceivedSnapshot, SnapshotReceiver, Store};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::PeerClient;
use super::holds::LogHolds;
use super::outgoing::Outgoing;
use super::state_machine::SnapshotData;
use super::types::{TypeConfig, Vote, encode_membership, wire_log_id, wire_vote};
use crate::error::RequestError;
use crate::metrics::Metrics;

/// A snapshot on which nothing moves for so long has failed.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A receiver verifies and installs what it received at this rate at least, in bytes a second: a disk that
/// is slower than this carries no member.
const INSTALL_RATE_MIN: u64 = 4 << 20;

/// Snapshots that are streamed to administrators at a time. Each keeps the files of its checkpoint from
/// being removed, and the disk busy that the cluster lives on.
const STREAMS_MAX: usize = 4;

/// Snapshots that are received at a time: one, and that of a new leader while the last one's is still
/// being verified. The next waits, and its sender gives up after [`STALL_TIMEOUT`].
const RECEIVING_MAX: usize = 2;

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// What all snapshots of this node share; so do clones.
#[derive(Clone)]
pub struct Snapshots {
    /// What they hold of the log.
    pub holds: LogHolds,
    /// The last checkpoint that was made, while anybody has it. One is made at a time.
    last: Arc<Mutex<Weak<Checkpoint>>>,
    streams: Arc<Semaphore>,
    receiving: Arc<Semaphore>,
}

impl Default for Snapshots {
    fn default() -> Self {
        Snapshots {
            holds: LogHolds::default(),
            last: Arc::default(),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            receiving: Arc::new(Semaphore::new(RECEIVING_MAX)),
        }
    }
}

impl Snapshots {
    /// A checkpoint of what is applied by now, or a little more. Those who ask for the same state share one.
    pub async fn checkpoint(&self, store: &Store) -> io::Result<Arc<Checkpoint>> {
        let mut last = self.last.lock().await;
        if let Some(checkpoint) = last.upgrade().filter(|last| last.applied() == store.applied()) {
            return Ok(checkpoint);
        }
        let store = store.clone();
        let made = spawn_blocking(move || store.checkpoint()).await?.map_err(io::Error::other)?;
        let made = Arc::new(made);
        *last = Arc::downgrade(&made);
        Ok(made)
    }

    /// A place among the streams to administrators.
    pub fn stream_place(&self) -> Result<OwnedSemaphorePermit, RequestError> {
        self.streams.clone().try_acquire_owned().map_err(|_| {
            RequestError::Occupied(format!(
                "{STREAMS_MAX} snapshots are streamed from this node already; ask another member, or again when \
                 one has ended"
            ))
        })
    }

    /// A place among the snapshots that are received.
    pub async fn receiving_place(&self) -> Result<OwnedSemaphorePermit, RequestError> {
        self.receiving.clone().acquire_owned().await.map_err(|_| RequestError::ShuttingDown)
    }
}

/// Sends a snapshot to a peer and answers the peer's vote once it is installed there. Until then, and until
/// that peer has caught up by it, the log behind the snapshot is held.
pub async fn send_snapshot(
    mut client: PeerClient,
    envelope: Option<peer::Envelope>,
    vote: Vote,
    snapshot: Snapshot,
    metrics: Arc<Metrics>,
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
    let outgoing = Outgoing::new(checkpoint, None, cluster_id, STALL_TIMEOUT);
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
        hold.installed_by(to, tokio::time::Instant::now());
    }
    metrics.snapshots.sent(bytes, begun.elapsed());
    Ok(answered)
}

/// Receives the files of a snapshot into the data directory and verifies them.
pub async fn receive_snapshot(
    mut stream: Streaming<peer::SnapshotRequest>,
    data_dir: PathBuf,
    feature_level_max: u32,
    place: OwnedSemaphorePermit,
) -> Result<ReceivedSnapshot, Status> {
    let unreadable = |error: kvorum_store::ReceiveError| Status::data_loss(error.to_string());
    // The place goes where the receiver goes: a thread that is still at work has it.
    let begun = blocking(move || {
        let receiver = SnapshotReceiver::new(&data_dir)?;
        Ok((receiver.with_feature_level_max(feature_level_max), place))
    });
    let begun: Result<_, kvorum_store::ReceiveError> = begun.await?;
    let mut receiving = Apart::new(begun.map_err(|error| Status::internal(error.to_string()))?);
    loop {
        let message = timeout(STALL_TIMEOUT, stream.message()).await;
        let message = message.map_err(|_| Status::deadline_exceeded("no chunk of the snapshot came in"))?;
        let Some(message) = message? else {
            return Err(Status::cancelled("the snapshot broke off"));
        };
        let Some(peer::snapshot_request::Part::Chunk(chunk)) = message.part else {
            return Err(Status::invalid_argument("a snapshot has one header"));
        };
        let (chunk, (receiver, place)) = (read_chunk(chunk)?, receiving.take());
        let taken = blocking(move || {
            Ok(match receiver.chunk(chunk)? {
                Received::More(receiver) => Progress::More((receiver, place)),
                Received::Whole(received) => Progress::Whole(received),
            })
        });
        match taken.await?.map_err(unreadable)? {
            Progress::More(more) => receiving = Apart::new(more),
            Progress::Whole(received) => return Ok(received),
        }
    }
}

enum Progress {
    More((SnapshotReceiver, OwnedSemaphorePermit)),
    Whole(ReceivedSnapshot),
}

/// Does what may wait for the disk on another thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))
}

/// Something whose end removes files: dropped, it is handed to a thread that may wait for the disk.
struct Apart<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Apart<T> {
    fn new(content: T) -> Apart<T> {
        Apart(Some(content))
    }

    fn take(mut self) -> T {
        self.0.take().expect("only this takes it, and takes the whole")
    }
}

impl<T: Send + 'static> Drop for Apart<T> {
    fn drop(&mut self) {
        if let (Some(content), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(move || drop(content));
        }
    }
}

pub(super) fn wire_chunk(chunk: Chunk, cluster_id: u64) -> admin::SnapshotChunk {
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
