//! The two APIs behind one face. Wire types stop here.

use bytes::Bytes;
use futures_util::StreamExt as _;
use kvorum_proto::kv::v1 as kv;
use thiserror::Error;
use tonic::{Status, Streaming};

use crate::args::{Api, LoadArgs};
use crate::caller::{Caller, CallerError};
use crate::endpoint::Endpoint;
use crate::transport::{ConnectError, Transport};
use crate::workload::Consistency;

/// etcd's wire types, generated from `proto/etcd/`.
#[allow(missing_docs, clippy::all)]
mod etcd {
    pub mod mvccpb {
        tonic::include_proto!("mvccpb");
    }
    pub mod etcdserverpb {
        tonic::include_proto!("etcdserverpb");
    }
    pub use etcdserverpb::*;
}

/// A response may hold many large values; the request decides how many.
const RESPONSE_BYTES_MAX: usize = 256 << 20;

/// The keys from `start` up to, and without, `end`.
#[derive(Clone, Debug)]
pub struct Range {
    /// The first key.
    pub start: Bytes,
    /// The first key after the range.
    pub end: Bytes,
}

/// Why there is nothing to put load on.
#[derive(Debug, Error)]
pub enum TargetError {
    /// An endpoint is not there.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// We are nobody.
    #[error(transparent)]
    Caller(#[from] CallerError),
    /// An endpoint could not say who leads.
    #[error("ask {endpoint} for the leader: {message} (is --api right?)")]
    Status {
        /// Whom we asked.
        endpoint: Endpoint,
        /// What it answered.
        message: String,
    },
    /// None of them leads.
    #[error("none of the endpoints is the leader: name all members' endpoints, or drop --target-leader")]
    NoLeader,
}

/// A client of one server.
#[derive(Clone)]
pub enum Target {
    /// It speaks `kv.v1`.
    Kv(kv::kv_client::KvClient<Transport>),
    /// It speaks etcd v3.
    Etcd(etcd::kv_client::KvClient<Transport>, etcd::watch_client::WatchClient<Transport>),
}

/// Opens the connections of a load, spread over the endpoints.
pub async fn connect(args: &LoadArgs) -> Result<Vec<Target>, TargetError> {
    let caller = Caller::of(args).await?;
    let endpoints =
        if args.target_leader { vec![leader(args, &caller).await?] } else { args.endpoints.clone() };
    let mut targets = Vec::new();
    for endpoint in endpoints.iter().cycle().take(args.connections()) {
        targets.push(Target::new(args.api, Transport::connect(endpoint, &caller).await?, endpoint));
    }
    Ok(targets)
}

async fn leader(args: &LoadArgs, caller: &Caller) -> Result<Endpoint, TargetError> {
    for endpoint in &args.endpoints {
        let transport = Transport::connect(endpoint, caller).await?;
        let leads = match args.api {
            Api::Kv => kv_leads(transport, endpoint).await,
            Api::Etcd => etcd_leads(transport, endpoint).await,
        };
        let leads = leads.map_err(|status| TargetError::Status {
            endpoint: endpoint.clone(),
            message: describe(&status),
        })?;
        if leads {
            return Ok(endpoint.clone());
        }
    }
    Err(TargetError::NoLeader)
}

async fn kv_leads(transport: Transport, endpoint: &Endpoint) -> Result<bool, Status> {
    let mut client = kv::cluster_client::ClusterClient::with_origin(transport, endpoint.origin());
    let response = client.members(kv::MembersRequest {}).await?.into_inner();
    Ok(response.leader_id != 0 && response.header.is_some_and(|header| header.node_id == response.leader_id))
}

async fn etcd_leads(transport: Transport, endpoint: &Endpoint) -> Result<bool, Status> {
    let mut client = etcd::maintenance_client::MaintenanceClient::with_origin(transport, endpoint.origin());
    let response = client.status(etcd::StatusRequest {}).await?.into_inner();
    Ok(response.leader != 0 && response.header.is_some_and(|header| header.member_id == response.leader))
}

/// A status as the report names it; its details are left out, as they may differ each time.
pub fn describe(status: &Status) -> String {
    match status.message() {
        "" => status.code().description().to_owned(),
        message => format!("{:?}: {message}", status.code()),
    }
}

impl Target {
    fn new(api: Api, transport: Transport, endpoint: &Endpoint) -> Target {
        let origin = endpoint.origin();
        match api {
            Api::Kv => Target::Kv(
                kv::kv_client::KvClient::with_origin(transport, origin)
                    .max_decoding_message_size(RESPONSE_BYTES_MAX),
            ),
            Api::Etcd => Target::Etcd(
                etcd::kv_client::KvClient::with_origin(transport.clone(), origin.clone())
                    .max_decoding_message_size(RESPONSE_BYTES_MAX),
                etcd::watch_client::WatchClient::with_origin(transport, origin)
                    .max_decoding_message_size(RESPONSE_BYTES_MAX),
            ),
        }
    }

    /// Writes one key.
    pub async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), Status> {
        match self {
            Target::Kv(client) => {
                client.set(kv::SetRequest { key, value, ..Default::default() }).await?;
            }
            Target::Etcd(client, _) => {
                client.put(etcd::PutRequest { key, value, ..Default::default() }).await?;
            }
        }
        Ok(())
    }

    /// Writes many keys at once.
    pub async fn put_all(&mut self, records: impl Iterator<Item = (Bytes, Bytes)>) -> Result<(), Status> {
        match self {
            Target::Kv(client) => {
                let put = |(key, value)| kv::batch_op::Put { key, value, ttl_ms: 0 };
                let ops = records
                    .map(|record| kv::BatchOp { op: Some(kv::batch_op::Op::Put(put(record))) })
                    .collect();
                client.batch(kv::BatchRequest { conditions: Vec::new(), ops }).await?;
            }
            Target::Etcd(client, _) => {
                let put = |(key, value)| etcd::PutRequest { key, value, ..Default::default() };
                let success = records
                    .map(|record| etcd::RequestOp {
                        request: Some(etcd::request_op::Request::RequestPut(put(record))),
                    })
                    .collect();
                client.txn(etcd::TxnRequest { success }).await?;
            }
        }
        Ok(())
    }

    /// Reads one key, and says whether it is there.
    pub async fn get(&mut self, key: Bytes, consistency: Consistency) -> Result<bool, Status> {
        let serializable = consistency == Consistency::Serializable;
        Ok(match self {
            Target::Kv(client) => {
                client.get(kv::GetRequest { key, revision: 0, serializable }).await?.into_inner().found
            }
            Target::Etcd(client, _) => {
                let request = etcd::RangeRequest { key, serializable, ..Default::default() };
                !client.range(request).await?.into_inner().kvs.is_empty()
            }
        })
    }

    /// Reads so many keys of a range, and says how many there were.
    pub async fn scan(&mut self, range: Range, limit: u64, consistency: Consistency) -> Result<u64, Status> {
        let serializable = consistency == Consistency::Serializable;
        match self {
            Target::Kv(client) => {
                let request =
                    kv::ScanRequest { range: Some(range.into()), serializable, limit, ..Default::default() };
                let mut pages = client.scan(request).await?.into_inner();
                let mut keys = 0;
                while let Some(page) = pages.message().await? {
                    keys += page.kvs.len() as u64;
                }
                Ok(keys)
            }
            Target::Etcd(client, _) => {
                let request = etcd::RangeRequest {
                    key: range.start,
                    range_end: range.end,
                    limit: i64::try_from(limit).unwrap_or(i64::MAX),
                    serializable,
                    ..Default::default()
                };
                Ok(client.range(request).await?.into_inner().kvs.len() as u64)
            }
        }
    }

    /// Watches a range from now on; when it returns, no later write is missed.
    pub async fn watch(&mut self, range: Range) -> Result<Events, Status> {
        match self {
            Target::Kv(client) => {
                let request = kv::WatchRequest { range: Some(range.into()), ..Default::default() };
                let mut stream = client.watch(request).await?.into_inner();
                stream.message().await?.ok_or_else(closed)?;
                Ok(Events::Kv(stream))
            }
            Target::Etcd(_, client) => {
                let create =
                    etcd::WatchCreateRequest { key: range.start, range_end: range.end, ..Default::default() };
                let create = etcd::watch_request::RequestUnion::CreateRequest(create);
                // A server may take the end of the requests for the end of the watch.
                let requests = tokio_stream::once(etcd::WatchRequest { request_union: Some(create) })
                    .chain(futures_util::stream::pending());
                let mut stream = client.watch(requests).await?.into_inner();
                match stream.message().await?.ok_or_else(closed)? {
                    first if first.created && !first.canceled => Ok(Events::Etcd(stream)),
                    first => Err(Status::aborted(first.cancel_reason)),
                }
            }
        }
    }
}

impl From<Range> for kv::KeyRange {
    fn from(range: Range) -> kv::KeyRange {
        kv::KeyRange { start: range.start, end: range.end, unbounded: false }
    }
}

fn closed() -> Status {
    Status::unavailable("the server ended the watch")
}

/// What a watch delivers.
pub enum Events {
    /// From `kv.v1`.
    Kv(Streaming<kv::WatchResponse>),
    /// From etcd v3.
    Etcd(Streaming<etcd::WatchResponse>),
}

impl Events {
    /// Waits for the next response, and shows the value of each of its events.
    pub async fn next(&mut self, mut seen: impl FnMut(&Bytes)) -> Result<(), Status> {
        match self {
            Events::Kv(stream) => {
                let response = stream.message().await?.ok_or_else(closed)?;
                response.events.iter().filter_map(|event| event.kv.as_ref()).for_each(|kv| seen(&kv.value));
            }
            Events::Etcd(stream) => {
                let response = stream.message().await?.ok_or_else(closed)?;
                if response.canceled {
                    return Err(Status::aborted(response.cancel_reason));
                }
                response.events.iter().filter_map(|event| event.kv.as_ref()).for_each(|kv| seen(&kv.value));
            }
        }
        Ok(())
    }
}
