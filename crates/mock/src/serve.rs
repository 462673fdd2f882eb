//! The thread of a pretended node.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use kvorum_proto::kv::v1::cluster_server::ClusterServer;
use kvorum_proto::kv::v1::kv_server::{KvServer, SERVICE_NAME as KV};
use tokio::sync::oneshot;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};

use crate::kv::Pretended;
use crate::{Node, Stop};

/// Serves until it is stopped. Connections that are open go with the runtime.
pub(crate) fn serve(listener: TcpListener, node: Arc<Mutex<Node>>, stopped: oneshot::Receiver<Stop>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
        let pretended = Pretended { node };
        let services =
            Services { kv: KvServer::new(pretended.clone()), cluster: ClusterServer::new(pretended) };
        let (finish, finished) = oneshot::channel::<()>();
        let server = tonic::transport::Server::builder();
        let server = tokio::spawn(server.serve_with_incoming_shutdown(services, incoming, async {
            let _ = finished.await;
        }));
        if let Ok(Stop::Gracefully) = stopped.await {
            let _ = finish.send(());
            let _ = server.await;
        }
    });
    runtime.shutdown_background();
}

/// Both services of a client port. tonic's own router would switch a feature on for the whole workspace, and
/// the node's binary is not to depend on what tests need.
#[derive(Clone)]
struct Services {
    kv: KvServer<Pretended>,
    cluster: ClusterServer<Pretended>,
}

impl Service<Request<Body>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        if service == KV { self.kv.call(request) } else { self.cluster.call(request) }
    }
}
