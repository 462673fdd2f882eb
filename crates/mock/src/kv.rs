//! `kv.v1` as a pretended node serves it.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream;
use kvorum_proto::kv::v1::cluster_server::Cluster;
use kvorum_proto::kv::v1::condition::Expect;
use kvorum_proto::kv::v1::kv_server::Kv;
use kvorum_proto::kv::v1::{
    BatchOp, BatchRequest, BatchResponse, CompactRequest, CompactResponse, Condition, DeleteRequest,
    DeleteResponse, Event, ExpireRequest, ExpireResponse, GetRequest, GetResponse, Header, Member,
    MembersRequest, MembersResponse, PersistRequest, PersistResponse, ScanRequest, ScanResponse, SetRequest,
    SetResponse, TtlRequest, TtlResponse, WatchRequest, WatchResponse, batch_op, member,
};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::{Act, Node, Store, reason};

/// How many keys one message of a scan has.
const CHUNK_KEYS: usize = 10;
/// The largest value that is taken, as on a real node.
const VALUE_BYTES_MAX: usize = 1536 * 1024;
/// How many keys one deletion may cover.
const DELETE_KEYS_MAX: usize = 20_000;

/// The services of one node.
#[derive(Clone)]
pub(crate) struct Pretended {
    pub(crate) node: Arc<Mutex<Node>>,
}

type Answers<T> = Pin<Box<dyn futures_util::Stream<Item = Result<T, Status>> + Send>>;

/// The client's check of a new connection, which is not part of any script.
fn is_probe(key: &[u8]) -> bool {
    key == b"\0"
}

impl Pretended {
    fn act(&self, name: &'static str, metadata: &MetadataMap) -> Result<Act, Status> {
        let mut node = self.node.lock().unwrap();
        let timeout = metadata.get("grpc-timeout").map(|value| value.to_str().unwrap().to_owned());
        node.calls.push((name, timeout));
        if node.stopping {
            return Err(reason("SHUTTING_DOWN", &[]));
        }
        let act = node.script.pop_front().unwrap_or_else(|| node.otherwise.clone());
        match act {
            Act::Refuse(name) => Err(reason(name, &[])),
            Act::Redirect(leader) => Err(reason("NOT_LEADER", &[("leader", &leader)])),
            Act::Fail(code) => Err(Status::new(code, "made to fail")),
            act => Ok(act),
        }
    }

    fn header(&self) -> Option<Header> {
        let node = self.node.lock().unwrap();
        let revision = node.store.lock().unwrap().revision();
        let Node { cluster_id, incarnation, node_id, term, .. } = *node;
        Some(Header { cluster_id, node_id, term, revision, incarnation })
    }

    fn store<T>(&self, work: impl FnOnce(&mut Store) -> T) -> T {
        let store = Arc::clone(&self.node.lock().unwrap().store);
        let mut store = store.lock().unwrap();
        work(&mut store)
    }

    /// Applies a write as the script wants it.
    async fn write<T>(
        &self,
        name: &'static str,
        metadata: &MetadataMap,
        key: bytes::Bytes,
        work: impl FnOnce(&mut Store) -> Result<T, Status>,
    ) -> Result<T, Status> {
        match self.act(name, metadata)? {
            Act::Hang => std::future::pending().await,
            Act::ApplyAndFail(code) => {
                self.store(work)?;
                Err(Status::new(code, "made to fail after it was applied"))
            }
            Act::OvertakeAndFail(value, code) => {
                self.store(|store| store.put(&key, &value.into()));
                Err(Status::new(code, "made to fail, and overtaken"))
            }
            _ => {
                // As a real node, it takes a moment.
                tokio::time::sleep(Duration::from_micros(200)).await;
                self.store(work)
            }
        }
    }
}

fn check(store: &Store, conditions: &[Condition], default_key: &[u8]) -> Result<(), Status> {
    for condition in conditions {
        let key = if condition.key.is_empty() { default_key } else { &condition.key };
        let now = store.get(key, 0);
        let holds = match condition.expect {
            Some(Expect::ModRevision(revision)) => now.as_ref().is_some_and(|kv| kv.mod_revision == revision),
            Some(Expect::Absent(_)) | None => now.is_none(),
        };
        if !holds {
            let actual = now.map_or(0, |kv| kv.mod_revision).to_string();
            return Err(reason("CONDITION_FAILED", &[("key_hex", &hex(key)), ("actual", &actual)]));
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tonic::async_trait]
impl Kv for Pretended {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        if !is_probe(&request.key)
            && let Act::Hang = self.act("get", &metadata)?
        {
            std::future::pending::<()>().await;
        }
        let kv = self.store(|store| store.get(&request.key, request.revision));
        Ok(Response::new(GetResponse { header: self.header(), found: kv.is_some(), kv }))
    }

    async fn set(&self, request: Request<SetRequest>) -> Result<Response<SetResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        if request.value.len() > VALUE_BYTES_MAX {
            return Err(reason("TOO_LARGE", &[]));
        }
        let previous = self
            .write("set", &metadata, request.key.clone(), |store| {
                check(store, request.condition.as_slice(), &request.key)?;
                let previous = store.get(&request.key, 0);
                store.put(&request.key, &request.value);
                Ok(previous)
            })
            .await?;
        Ok(Response::new(SetResponse { header: self.header(), previous }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let range = request.range.unwrap_or_default();
        let previous = self
            .write("delete", &metadata, range.start.clone(), |store| {
                check(store, request.condition.as_slice(), &range.start)?;
                if store.scan(&range, 0).len() > DELETE_KEYS_MAX {
                    return Err(reason("TOO_LARGE", &[]));
                }
                Ok(store.delete(&range))
            })
            .await?;
        let deleted = previous.len() as u64;
        Ok(Response::new(DeleteResponse { header: self.header(), deleted, previous: Vec::new() }))
    }

    async fn ttl(&self, request: Request<TtlRequest>) -> Result<Response<TtlResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.act("ttl", &metadata)?;
        let found = self.store(|store| store.get(&request.key, 0)).is_some();
        let has_ttl = request.key.starts_with(b"ttl/");
        Ok(Response::new(TtlResponse { header: self.header(), found, has_ttl, remaining_ms: 4_250 }))
    }

    async fn expire(&self, request: Request<ExpireRequest>) -> Result<Response<ExpireResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.act("expire", &metadata)?;
        let found = self.store(|store| store.get(&request.key, 0)).is_some();
        Ok(Response::new(ExpireResponse { header: self.header(), found }))
    }

    async fn persist(&self, request: Request<PersistRequest>) -> Result<Response<PersistResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.act("persist", &metadata)?;
        let found = self.store(|store| store.get(&request.key, 0)).is_some();
        let had_ttl = request.key.starts_with(b"ttl/");
        Ok(Response::new(PersistResponse { header: self.header(), found, had_ttl }))
    }

    type ScanStream = Answers<ScanResponse>;

    async fn scan(&self, request: Request<ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        let cut = match self.act("scan", &metadata)? {
            Act::Cut(chunks) => Some(chunks),
            _ => None,
        };
        let mut header = self.header();
        if request.revision != 0 {
            header.as_mut().unwrap().revision = request.revision;
        }
        let revision = header.as_ref().unwrap().revision;
        let mut kvs = self.store(|store| store.scan(&request.range.unwrap_or_default(), revision));
        if request.reverse {
            kvs.reverse();
        }
        if request.limit != 0 {
            kvs.truncate(request.limit as usize);
        }
        let mut chunks: Vec<_> =
            kvs.chunks(CHUNK_KEYS).map(|kvs| Ok(ScanResponse { header, kvs: kvs.to_vec() })).collect();
        if let Some(cut) = cut
            && cut < chunks.len()
        {
            chunks.truncate(cut);
            chunks.push(Err(Status::unavailable("broken off")));
        }
        Ok(Response::new(Box::pin(stream::iter(chunks))))
    }

    async fn compact(&self, request: Request<CompactRequest>) -> Result<Response<CompactResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.act("compact", &metadata)?;
        self.store(|store| store.compacted = request.revision);
        Ok(Response::new(CompactResponse { header: self.header() }))
    }

    async fn batch(&self, request: Request<BatchRequest>) -> Result<Response<BatchResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let key = request.conditions.first().map(|condition| condition.key.clone()).unwrap_or_default();
        let deleted = self
            .write("batch", &metadata, key, |store| {
                check(store, &request.conditions, b"")?;
                let apply = |op: BatchOp| match op.op {
                    Some(batch_op::Op::Put(put)) => {
                        store.put(&put.key, &put.value);
                        0
                    }
                    Some(batch_op::Op::Delete(range)) => store.delete(&range).len() as u64,
                    None => 0,
                };
                Ok(request.ops.into_iter().map(apply).collect())
            })
            .await?;
        Ok(Response::new(BatchResponse { header: self.header(), deleted }))
    }

    type WatchStream = Answers<WatchResponse>;

    /// One event a response, as a fragment until its revision is complete.
    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        let cut = match self.act("watch", &metadata)? {
            Act::Cut(events) => events,
            _ => usize::MAX,
        };
        let compacted = self.store(|store| store.compacted);
        if request.from_revision != 0 && request.from_revision < compacted {
            return Err(reason("COMPACTED", &[("compacted", &compacted.to_string())]));
        }
        let header = self.header().unwrap();
        let from = if request.from_revision == 0 { header.revision + 1 } else { request.from_revision };
        let mark = Header { revision: header.revision.min(from - 1), ..header };
        let first = WatchResponse { header: Some(mark), events: Vec::new(), fragment: false };
        let state = (self.clone(), request.range.unwrap_or_default(), from, 0, cut);
        let events = stream::unfold(state, |(service, range, from, sent, cut)| async move {
            if sent == cut {
                // Once, since a stream ends with its status.
                let broken = Err(Status::unavailable("broken off"));
                return Some((broken, (service, range, from, sent, cut)));
            }
            let (event, last) = loop {
                let events = service.store(|store| store.events(&range, from));
                if let Some(event) = events.get(sent) {
                    let revision = |event: &Event| event.kv.as_ref().unwrap().mod_revision;
                    let last = events.get(sent + 1).is_none_or(|next| revision(next) != revision(event));
                    break (event.clone(), last);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            let revision = event.kv.as_ref().unwrap().mod_revision;
            let header = Header { revision, ..service.header().unwrap() };
            let response = WatchResponse { header: Some(header), events: vec![event], fragment: !last };
            Some((Ok(response), (service, range, from, sent + 1, cut)))
        });
        let responses = futures_util::StreamExt::chain(stream::iter([Ok(first)]), events);
        Ok(Response::new(Box::pin(responses)))
    }
}

#[tonic::async_trait]
impl Cluster for Pretended {
    async fn members(&self, request: Request<MembersRequest>) -> Result<Response<MembersResponse>, Status> {
        let header = self.header();
        let mut node = self.node.lock().unwrap();
        let timeout = request.metadata().get("grpc-timeout").map(|value| value.to_str().unwrap().to_owned());
        node.calls.push(("members", timeout));
        if let Act::Fail(code) = node.otherwise {
            return Err(Status::new(code, "made to fail"));
        }
        let member = |(node_id, address): &(u64, String)| Member {
            node_id: *node_id,
            peer_address: format!("{address}0"),
            client_address: address.clone(),
            role: if *node_id == node.leader_id { member::Role::Leader } else { member::Role::Follower }
                .into(),
            voter: true,
            reachable: true,
            version: "0.1.0".to_owned(),
            applied_index: 10,
            last_log_index: 12,
            revision: header.as_ref().map_or(0, |header| header.revision),
            store_bytes: 3 << 20,
            log_bytes: 64 << 20,
            ..Member::default()
        };
        let members = node.members.iter().map(member).map(node.describe).collect();
        let (leader_id, feature_level) = (node.leader_id, node.feature_level);
        Ok(Response::new(MembersResponse { header, leader_id, members, feature_level }))
    }
}
