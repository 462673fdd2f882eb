//! `kv.v1.Kv`: what clients do with keys.

use kvorum_proto::kv::v1 as pb;
use kvorum_proto::kv::v1::kv_server::{Kv, KvServer};
use kvorum_store::command::{Compact, KeyRange, Kind, TtlSet, Written};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::convert::{self, check_key, header, key_value};
use super::{scan, watch};
use crate::access::Caller;
use crate::error::RequestError;
use crate::net::deadline::deadline;
use crate::net::outbox::{Outbox, SMALL_BYTES_MAX};
use crate::net::remote::Remote;
use crate::net::sizes::decoding_limit;
use crate::requests::{Consistency, Requests};

/// The service.
#[derive(Clone)]
pub struct KvService {
    requests: Requests,
}

impl KvService {
    /// The service with its limits, ready to be served.
    pub fn server(requests: Requests) -> KvServer<KvService> {
        let limit = decoding_limit(requests.bytes_max());
        KvServer::new(KvService { requests }).max_decoding_message_size(limit)
    }
}

/// An answer with so many bytes of keys and values, which count as waiting to be sent where they are many.
/// Most are few, and cost nothing for it.
fn respond<T>(remote: &Remote, bytes: usize, answer: T) -> Response<T> {
    if bytes > SMALL_BYTES_MAX { Outbox::on(remote).answer(bytes, answer) } else { Response::new(answer) }
}

#[tonic::async_trait]
impl Kv for KvService {
    type ScanStream = BoxStream<pb::ScanResponse>;
    type WatchStream = BoxStream<pb::WatchResponse>;

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::GetResponse>, Status> {
        let deadline = deadline(request.metadata());
        let remote = Remote::of(request.extensions())?.clone();
        let caller = Caller::of(&request)?;
        let pb::GetRequest { key, revision, serializable } = request.into_inner();
        check_key(&key)?;
        let (range, consistency) = (KeyRange::key(key.clone()), Consistency::of(serializable));
        let mut grant = self.requests.may_read(caller, range, consistency, deadline).await?;
        let read = self.requests.get(key, revision, Some(&remote.account), deadline);
        // Nothing waits from here until a large answer is counted, so that each sees those before it.
        let (got, _place) = read.await?;
        grant.holds()?;
        let header = Some(header(self.requests.head(got.revision)));
        let bytes = got.record.as_ref().map_or(0, |record| record.value.len());
        let kv = got.record.map(key_value);
        Ok(respond(&remote, bytes, pb::GetResponse { header, found: kv.is_some(), kv }))
    }

    async fn set(&self, request: Request<pb::SetRequest>) -> Result<Response<pb::SetResponse>, Status> {
        let deadline = deadline(request.metadata());
        let remote = Remote::of(request.extensions())?.clone();
        let caller = Caller::of(&request)?;
        let command = convert::set(request.into_inner())?;
        let done = self.requests.write(&caller, command, deadline).await?;
        let header = Some(header(done.head));
        let previous = done.written()?.previous.into_iter().next();
        let bytes = previous.as_ref().map_or(0, |record| record.value.len());
        Ok(respond(&remote, bytes, pb::SetResponse { header, previous: previous.map(key_value) }))
    }

    async fn delete(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> Result<Response<pb::DeleteResponse>, Status> {
        let deadline = deadline(request.metadata());
        let remote = Remote::of(request.extensions())?.clone();
        let caller = Caller::of(&request)?;
        let command = convert::delete(request.into_inner())?;
        let done = self.requests.write(&caller, command, deadline).await?;
        let header = Some(header(done.head));
        let Written { deleted, previous } = done.written()?;
        let bytes = previous.iter().map(|record| record.key.len() + record.value.len()).sum();
        let previous = previous.into_iter().map(key_value).collect();
        Ok(respond(&remote, bytes, pb::DeleteResponse { header, deleted: deleted.iter().sum(), previous }))
    }

    async fn ttl(&self, request: Request<pb::TtlRequest>) -> Result<Response<pb::TtlResponse>, Status> {
        let deadline = deadline(request.metadata());
        let caller = Caller::of(&request)?;
        let pb::TtlRequest { key, serializable } = request.into_inner();
        check_key(&key)?;
        let (range, consistency) = (KeyRange::key(key.clone()), Consistency::of(serializable));
        let mut grant = self.requests.may_read(caller, range, consistency, deadline).await?;
        let (got, _) = self.requests.get(key, 0, None, deadline).await?;
        grant.holds()?;
        let expires = got.record.as_ref().map_or(0, |record| record.deadline_ms);
        Ok(Response::new(pb::TtlResponse {
            header: Some(header(self.requests.head(got.revision))),
            found: got.record.is_some(),
            has_ttl: expires > 0,
            remaining_ms: self.requests.remaining_ms(expires),
        }))
    }

    async fn expire(
        &self,
        request: Request<pb::ExpireRequest>,
    ) -> Result<Response<pb::ExpireResponse>, Status> {
        let deadline = deadline(request.metadata());
        let caller = Caller::of(&request)?;
        let command = convert::expire(request.into_inner())?;
        let done = self.requests.write(&caller, command, deadline).await?;
        let header = Some(header(done.head));
        Ok(Response::new(pb::ExpireResponse { header, found: done.ttl_set()?.found }))
    }

    async fn persist(
        &self,
        request: Request<pb::PersistRequest>,
    ) -> Result<Response<pb::PersistResponse>, Status> {
        let deadline = deadline(request.metadata());
        let caller = Caller::of(&request)?;
        let command = convert::persist(request.into_inner())?;
        let done = self.requests.write(&caller, command, deadline).await?;
        let header = Some(header(done.head));
        let TtlSet { found, had_ttl } = done.ttl_set()?;
        Ok(Response::new(pb::PersistResponse { header, found, had_ttl }))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactRequest>,
    ) -> Result<Response<pb::CompactResponse>, Status> {
        let deadline = deadline(request.metadata());
        let caller = Caller::of(&request)?;
        let revision = request.into_inner().revision;
        if revision == 0 {
            return Err(RequestError::Invalid("the revision to compact is missing".into()).into());
        }
        let done = self.requests.write(&caller, Kind::Compact(Compact { revision }), deadline).await?;
        Ok(Response::new(pb::CompactResponse { header: Some(header(done.head)) }))
    }

    async fn batch(&self, request: Request<pb::BatchRequest>) -> Result<Response<pb::BatchResponse>, Status> {
        let deadline = deadline(request.metadata());
        let caller = Caller::of(&request)?;
        let command = convert::batch(request.into_inner())?;
        let done = self.requests.write(&caller, command, deadline).await?;
        let header = Some(header(done.head));
        Ok(Response::new(pb::BatchResponse { header, deleted: done.written()?.deleted }))
    }

    async fn scan(&self, request: Request<pb::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let deadline = deadline(request.metadata());
        let outbox = Outbox::of(request.extensions())?;
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let range = convert::key_range(request.range.clone())?;
        let consistency = Consistency::of(request.serializable);
        let grant = self.requests.may_read(caller, range.clone(), consistency, deadline).await?;
        let reader = scan::Reader {
            reads: self.requests.scans().clone(),
            header: header(self.requests.head(0)),
            outbox: outbox.clone(),
            page_bytes_max: self.requests.raft().options().limits.page_bytes_max,
            record_bytes_max: self.requests.bytes_max(),
        };
        let pages = scan::pages(reader, grant, range, &request).await?;
        Ok(outbox.respond(pages))
    }

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let deadline = deadline(request.metadata());
        let outbox = Outbox::of(request.extensions())?;
        let caller = Caller::of(&request)?;
        let pb::WatchRequest { range, from_revision, previous } = request.into_inner();
        let (watcher, reads, grant) =
            self.requests.watch(caller, convert::key_range(range)?, deadline).await?;
        let source = watch::Source {
            reads,
            grant,
            metrics: self.requests.metrics().clone(),
            header: header(self.requests.head(0)),
            previous,
            response_bytes_max: self.requests.raft().options().limits.response_bytes_max,
            outbox: outbox.clone(),
        };
        let stream = watch::Stream::open(source, watcher, from_revision)?;
        Ok(outbox.respond(stream.responses()))
    }
}
