//! Serves the HTTP port, where probes and Prometheus ask: short answers to few, whom nobody else may hold up.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use kvorum_tls::Bytes;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::listen::{Connection, Port, accept, room};
use super::network::Listener;

/// Connections of one address at a time; further ones are closed. Prometheus and the kubelet have one or two each, and
/// must find a place whatever others do.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 32;

/// A connection says within this what it wants, and is closed when it wants nothing for so long.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// And takes its answer within this.
const CONNECTION_MAX: Duration = Duration::from_secs(600);

/// What the head of a request takes at most, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Serves the port until `stop`. Then, or dropped, it cuts off whoever is still there.
pub async fn serve(mut listener: Box<dyn Listener>, router: Router, stop: impl Future<Output = ()>) {
    let (mut stop, room) = (pin!(stop), room(Port::Http));
    let mut served = JoinSet::new();
    let mut of_address: HashMap<IpAddr, usize> = HashMap::new();
    loop {
        tokio::select! {
            () = &mut stop => return,
            accepted = accept(&mut *listener, &room) => {
                let connection = accepted.serve_here();
                let count = of_address.entry(connection.from).or_default();
                if *count < CONNECTIONS_PER_ADDRESS_MAX {
                    *count += 1;
                    served.spawn(serve_connection(connection, router.clone()));
                }
            }
            Some(ended) = served.join_next() => if let Ok(from) = ended
                && let Some(count) = of_address.get_mut(&from)
            {
                *count -= 1;
                if *count == 0 {
                    of_address.remove(&from);
                }
            }
        }
    }
}

/// Serves one connection to its end, and answers whose it was.
async fn serve_connection(connection: Connection, router: Router) -> IpAddr {
    let Connection { stream, from, permit: _permit } = connection;
    serve_on(TokioIo::new(stream), router).await;
    from
}

/// Serves a connection of another port that speaks HTTP/1.1, to its end or until `over`.
pub async fn serve_pages(io: Box<dyn Bytes>, pages: Router, over: impl Future<Output = ()>) {
    tokio::select! {
        () = serve_on(TokioIo::new(io), pages) => {}
        () = over => {}
    }
}

async fn serve_on(io: impl Read + Write + Unpin + 'static, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(io, TowerToHyperService::new(router));
    match timeout(CONNECTION_MAX, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection that speaks HTTP/1.1 ended"),
        Err(_) => tracing::debug!("a connection that speaks HTTP/1.1 was open for too long, and is closed"),
    }
}
