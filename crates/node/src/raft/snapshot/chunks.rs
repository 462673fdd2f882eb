//! The parts of a snapshot on the wire.

use kvorum_proto::admin::v1 as admin;
use kvorum_store::entry;
use kvorum_store::{Begin, Chunk};
use tonic::Status;

/// A part as it is sent.
pub fn wire_chunk(chunk: Chunk, cluster_id: u64) -> admin::SnapshotChunk {
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

/// A part that came in.
pub fn read_chunk(chunk: admin::SnapshotChunk) -> Result<Chunk, Status> {
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
