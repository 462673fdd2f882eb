//! `kv.v1.Kv`: what clients do with keys.
//!
//! One Put: [`KvService::set`] -> `raft.propose` -> (log, quorum, apply) -> the outcome here.

use std::sync::Arc;

use bytes::Bytes;
use kvorum_proto::kv::v1 as pb;
use kvorum_proto::kv::v1::kv_server::{Kv, KvServer};
use kvorum_store::Get;
use kvorum_store::command::{Answer, Command, Compact, Kind, TtlSet, Written};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::budget::Account;
use super::convert::{self, check_key, key_value};
use super::outbox::{Outbox, SMALL_BYTES_MAX};
use super::shared_reads::SharedReads;
use super::transport::Remote;
use super::{deadline, decoding_limit, scan, watch};
use crate::error::{RequestError, answered};
use crate::metrics::Metrics;
use crate::raft::{Applied, Raft};
use crate::watch::WatchHub;

/// Reads of scans, and of keys that are not in memory, that may be under way at a time: each is a blocking
/// thread, with a page in memory.
const BLOCKING_READS_MAX: usize = 8;

/// The service.
#[derive(Clone)]
pub struct KvService {
    raft: Raft,
    hub: Arc<WatchHub>,
    metrics: Arc<Metrics>,
    request_bytes_max: usize,
    scan_reads: Arc<Semaphore>,
    /// Of watches that fell behind. Apart from those of scans, so that neither holds up the other.
    watch_reads: Arc<SharedReads>,
    /// And of single keys that are not in memory.
    key_reads: Arc<Semaphore>,
}

impl KvService {
    /// The service with its limits, ready to be served.
    pub fn server(
        raft: Raft,
        hub: Arc<WatchHub>,
        metrics: Arc<Metrics>,
        request_bytes_max: usize,
    ) -> KvServer<KvService> {
        let scan_reads = Arc::new(Semaphore::new(BLOCKING_READS_MAX));
        let watch_reads = SharedReads::new(raft.store().clone());
        let key_reads = Arc::new(Semaphore::new(BLOCKING_READS_MAX));
        KvServer::new(KvService { raft, hub, metrics, request_bytes_max, scan_reads, watch_reads, key_reads })
            .max_decoding_message_size(decoding_limit(request_bytes_max))
    }

    /// Proposes a command and answers what it did, with the header of its revision.
    async fn write(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<(pb::Header, Option<Answer>), RequestError> {
        let requested = match &command.kind {
            Some(Kind::Compact(compact)) => compact.revision,
            _ => 0,
        };
        // Applying it would refuse it too; but by then it would take room in the log of a full disk.
        if let Some(kind) = &command.kind
            && let Some(refused) = self.raft.store().refuse_growth(kind)
        {
            return Err(RequestError::refused(refused, requested));
        }
        let command = command.encoded();
        if command.len() > self.request_bytes_max {
            return Err(RequestError::TooLarge {
                bytes: command.len() as u64,
                limit: self.request_bytes_max as u64,
            });
        }
        let Applied { outcome, term } = self.raft.propose(command, deadline).await?;
        match outcome.answer {
            Some(Answer::Refused(refused)) => Err(RequestError::refused(refused, requested)),
            answer => Ok((pb::Header { term, ..self.header(outcome.revision) }, answer)),
        }
    }

    /// Returns when a read may be answered from this node's state.
    async fn ready_to_read(&self, serializable: bool, deadline: Instant) -> Result<(), RequestError> {
        match serializable {
            true => self.raft.recovered(deadline).await,
            false => self.raft.read_barrier(deadline).await,
        }
    }

    /// Reads a key from this node's state, once the connection may have more to send, if one is named. What is
    /// in memory, as most is, costs least where it is asked for; where there are few cores, raft's own thread
    /// must not wait for the disk. With what was read there comes its place among such reads, to be kept until
    /// a large value is counted as waiting to be sent.
    async fn read(
        &self,
        key: Bytes,
        revision: u64,
        account: Option<&Account>,
    ) -> Result<(Get, Option<OwnedSemaphorePermit>), RequestError> {
        let store = self.raft.store();
        loop {
            if let Some(account) = account {
                account.admitted().await;
            }
            if revision == 0
                && let Some(got) = answered(store.get_cached(&key))?
            {
                return Ok((got, None));
            }
            let place =
                self.key_reads.clone().acquire_owned().await.map_err(|_| RequestError::ShuttingDown)?;
            // While it waited for its place, others may have taken the room.
            if account.is_some_and(|account| !account.is_admitted()) {
                continue;
            }
            let store = store.clone();
            let read = spawn_blocking(move || (answered(store.get(&key, revision)), place));
            let (got, place) = read.await.map_err(|_| RequestError::ShuttingDown)?;
            return Ok((got?, Some(place)));
        }
    }

    fn header(&self, revision: u64) -> pb::Header {
        let overview = self.raft.overview();
        let (cluster_id, node_id, term) = (overview.cluster_id, overview.node_id, overview.term);
        pb::Header { cluster_id, node_id, term, revision, incarnation: overview.incarnation }
    }
}

/// What a write did. An answer of another kind cannot come from a store of this release.
fn written(answer: Option<Answer>) -> Result<Written, RequestError> {
    match answer {
        Some(Answer::Written(written)) => Ok(written),
        other => Err(unexpected(&other)),
    }
}

fn ttl_set(answer: Option<Answer>) -> Result<TtlSet, RequestError> {
    match answer {
        Some(Answer::Ttl(set)) => Ok(set),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(answer: &Option<Answer>) -> RequestError {
    RequestError::OutcomeUnknown(format!("it was answered in a way this release does not know: {answer:?}"))
}

#[tonic::async_trait]
impl Kv for KvService {
    type ScanStream = BoxStream<pb::ScanResponse>;
    type WatchStream = BoxStream<pb::WatchResponse>;

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::GetResponse>, Status> {
        let deadline = deadline(request.metadata());
        let remote = request.extensions().get::<Remote>().cloned();
        let pb::GetRequest { key, revision, serializable } = request.into_inner();
        check_key(&key)?;
        self.ready_to_read(serializable, deadline).await?;
        let account = remote.as_ref().map(|remote| &remote.account);
        let read = timeout_at(deadline, self.read(key, revision, account)).await;
        // Nothing waits from here until a large answer is counted, so that each sees those before it.
        let (got, _place) = read.map_err(|_| RequestError::Busy)??;
        let header = Some(self.header(got.revision));
        let bytes = got.record.as_ref().map_or(0, |record| record.value.len());
        let kv = got.record.map(key_value);
        let answer = pb::GetResponse { header, found: kv.is_some(), kv };
        match remote {
            Some(remote) if bytes > SMALL_BYTES_MAX => Ok(Outbox::on(&remote).answer(bytes, answer)),
            _ => Ok(Response::new(answer)),
        }
    }

    async fn set(&self, request: Request<pb::SetRequest>) -> Result<Response<pb::SetResponse>, Status> {
        let deadline = deadline(request.metadata());
        let command = convert::set(request.into_inner())?;
        let (header, answer) = self.write(command, deadline).await?;
        let previous = written(answer)?.previous.into_iter().next().map(key_value);
        Ok(Response::new(pb::SetResponse { header: Some(header), previous }))
    }

    async fn delete(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> Result<Response<pb::DeleteResponse>, Status> {
        let deadline = deadline(request.metadata());
        let outbox = Outbox::of(request.extensions())?;
        let command = convert::delete(request.into_inner())?;
        let (header, answer) = self.write(command, deadline).await?;
        let Written { deleted, previous } = written(answer)?;
        let bytes: usize = previous.iter().map(|record| record.key.len() + record.value.len()).sum();
        let answer = pb::DeleteResponse {
            header: Some(header),
            deleted: deleted.iter().sum(),
            previous: previous.into_iter().map(key_value).collect(),
        };
        Ok(if bytes > SMALL_BYTES_MAX { outbox.answer(bytes, answer) } else { Response::new(answer) })
    }

    async fn ttl(&self, request: Request<pb::TtlRequest>) -> Result<Response<pb::TtlResponse>, Status> {
        let deadline = deadline(request.metadata());
        let pb::TtlRequest { key, serializable } = request.into_inner();
        check_key(&key)?;
        self.ready_to_read(serializable, deadline).await?;
        let (got, _) = self.read(key, 0, None).await?;
        let header = Some(self.header(got.revision));
        let expires = got.record.as_ref().map_or(0, |record| record.deadline_ms);
        let remaining_ms = expires.saturating_sub(self.raft.cluster_now_ms());
        Ok(Response::new(pb::TtlResponse {
            header,
            found: got.record.is_some(),
            has_ttl: expires > 0,
            remaining_ms,
        }))
    }

    async fn expire(
        &self,
        request: Request<pb::ExpireRequest>,
    ) -> Result<Response<pb::ExpireResponse>, Status> {
        let deadline = deadline(request.metadata());
        let command = convert::expire(request.into_inner())?;
        let (header, answer) = self.write(command, deadline).await?;
        Ok(Response::new(pb::ExpireResponse { header: Some(header), found: ttl_set(answer)?.found }))
    }

    async fn persist(
        &self,
        request: Request<pb::PersistRequest>,
    ) -> Result<Response<pb::PersistResponse>, Status> {
        let deadline = deadline(request.metadata());
        let command = convert::persist(request.into_inner())?;
        let (header, answer) = self.write(command, deadline).await?;
        let TtlSet { found, had_ttl } = ttl_set(answer)?;
        Ok(Response::new(pb::PersistResponse { header: Some(header), found, had_ttl }))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactRequest>,
    ) -> Result<Response<pb::CompactResponse>, Status> {
        let deadline = deadline(request.metadata());
        let revision = request.into_inner().revision;
        if revision == 0 {
            return Err(RequestError::Invalid("the revision to compact is missing".into()).into());
        }
        let (header, _) = self.write(Kind::Compact(Compact { revision }).into(), deadline).await?;
        Ok(Response::new(pb::CompactResponse { header: Some(header) }))
    }

    async fn batch(&self, request: Request<pb::BatchRequest>) -> Result<Response<pb::BatchResponse>, Status> {
        let deadline = deadline(request.metadata());
        let command = convert::batch(request.into_inner())?;
        let (header, answer) = self.write(command, deadline).await?;
        let deleted = written(answer)?.deleted;
        Ok(Response::new(pb::BatchResponse { header: Some(header), deleted }))
    }

    async fn scan(&self, request: Request<pb::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let deadline = deadline(request.metadata());
        let outbox = Outbox::of(request.extensions())?;
        let request = request.into_inner();
        let range = convert::key_range(request.range.clone())?;
        self.ready_to_read(request.serializable, deadline).await?;
        let reader = scan::Reader {
            store: self.raft.store().clone(),
            reads: self.scan_reads.clone(),
            header: self.header(0),
            outbox: outbox.clone(),
            record_bytes_max: self.request_bytes_max,
        };
        let pages = scan::pages(reader, range, &request).await?;
        Ok(outbox.respond(pages))
    }

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let deadline = deadline(request.metadata());
        let outbox = Outbox::of(request.extensions())?;
        let pb::WatchRequest { range, from_revision, previous } = request.into_inner();
        let range = convert::key_range(range)?;
        self.raft.recovered(deadline).await?;
        let source = watch::Source {
            store: self.raft.store().clone(),
            reads: self.watch_reads.clone(),
            metrics: self.metrics.clone(),
            header: self.header(0),
            previous,
            outbox: outbox.clone(),
        };
        let stream = watch::Stream::open(source, self.hub.watch(range), from_revision)?;
        Ok(outbox.respond(stream.responses()))
    }
}
