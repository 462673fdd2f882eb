//! A server that does nothing: what gRPC itself costs, and so the most that any server built on it can reach.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use kvorum_proto::kv::v1::kv_server::{Kv, KvServer};
use kvorum_proto::kv::v1::{
    BatchRequest, BatchResponse, CompactRequest, CompactResponse, DeleteRequest, DeleteResponse,
    ExpireRequest, ExpireResponse, GetRequest, GetResponse, Header, KeyValue, PersistRequest,
    PersistResponse, ScanRequest, ScanResponse, SetRequest, SetResponse, TtlRequest, TtlResponse,
    WatchRequest, WatchResponse,
};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_stream::Empty;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// Every read is answered with a value of this size, the one that is measured everywhere else.
const VALUE_BYTES: usize = 256;

/// Listens, and serves until it is killed.
pub async fn run(listen: SocketAddr) -> Result<(), EchoError> {
    let listener = TcpListener::bind(listen).await.map_err(|source| EchoError::Bind { listen, source })?;
    eprintln!("kvorum-bench: echo server, process {}, on {listen}", std::process::id());
    Ok(serve(listener).await?)
}

/// Why the server ended.
#[derive(Debug, Error)]
pub enum EchoError {
    /// The address is not to be had.
    #[error("listen on {listen}: choose a free port with --listen")]
    Bind {
        /// The address.
        listen: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// It broke.
    #[error("serve the echo")]
    Serve(#[from] tonic::transport::Error),
}

/// Serves whoever connects.
pub async fn serve(listener: TcpListener) -> Result<(), tonic::transport::Error> {
    let echo = Echo { value: Bytes::from_static(&[b'v'; VALUE_BYTES]) };
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tonic::transport::Server::builder().serve_with_incoming(KvServer::new(echo), incoming).await
}

struct Echo {
    value: Bytes,
}

impl Echo {
    /// Numbers as large as a cluster's in use, since small ones are shorter on the wire.
    fn header() -> Option<Header> {
        Some(Header { cluster_id: 1, node_id: 1, term: 3, revision: 1_000_000, incarnation: 1 })
    }
}

/// The stream of an answer that is never given.
type Never<T> = Empty<Result<T, Status>>;

fn unimplemented<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the echo server answers Get and Set only"))
}

#[tonic::async_trait]
impl Kv for Echo {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let kv = KeyValue {
            key: request.into_inner().key,
            value: self.value.clone(),
            create_revision: 500_000,
            mod_revision: 900_000,
            version: 3,
            deadline_ms: 0,
        };
        Ok(Response::new(GetResponse { header: Echo::header(), found: true, kv: Some(kv) }))
    }

    async fn set(&self, _: Request<SetRequest>) -> Result<Response<SetResponse>, Status> {
        Ok(Response::new(SetResponse { header: Echo::header(), previous: None }))
    }

    async fn delete(&self, _: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        unimplemented()
    }

    async fn ttl(&self, _: Request<TtlRequest>) -> Result<Response<TtlResponse>, Status> {
        unimplemented()
    }

    async fn expire(&self, _: Request<ExpireRequest>) -> Result<Response<ExpireResponse>, Status> {
        unimplemented()
    }

    async fn persist(&self, _: Request<PersistRequest>) -> Result<Response<PersistResponse>, Status> {
        unimplemented()
    }

    type ScanStream = Never<ScanResponse>;

    async fn scan(&self, _: Request<ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        unimplemented()
    }

    async fn compact(&self, _: Request<CompactRequest>) -> Result<Response<CompactResponse>, Status> {
        unimplemented()
    }

    async fn batch(&self, _: Request<BatchRequest>) -> Result<Response<BatchResponse>, Status> {
        unimplemented()
    }

    type WatchStream = Never<WatchResponse>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        unimplemented()
    }
}
