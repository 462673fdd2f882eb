//! Ports, and the connections that come in on them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::network::{Listener, Net, Stream};

/// Connections a port takes at a time; the next ones wait to be accepted. Each costs tens of
/// kilobytes, and a client needs one.
const CONNECTIONS_MAX: usize = 10_000;

/// After an error of `accept`, the next attempt waits so long: out of file descriptors, it would
/// fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a port cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{flag} {address} cannot be listened on: {source}; {}", hint(.source))]
pub struct BindError {
    flag: &'static str,
    address: String,
    source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "stop the process that uses the port, or choose another one",
        io::ErrorKind::PermissionDenied => "choose a port above 1023",
        _ => "choose an address of this machine",
    }
}

/// Listens on the address of a flag.
pub async fn bind(net: &Net, flag: &'static str, address: &str) -> Result<Box<dyn Listener>, BindError> {
    let bound = net.listen(address).await;
    bound.map_err(|source| BindError { flag, address: address.to_owned(), source })
}

/// The room of a port, for [`CONNECTIONS_MAX`] connections at a time.
pub fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(CONNECTIONS_MAX))
}

/// Waits for room, and accepts the next connection.
pub async fn accept(listener: &mut dyn Listener, room: &Arc<Semaphore>) -> Accepted {
    let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
    let (stream, from) = accept_any(listener).await;
    Accepted { stream, from: from.ip(), permit }
}

/// Accepts the next connection, however many there are.
pub async fn accept_any(listener: &mut dyn Listener) -> (Stream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                let port = listener.address().map_or_else(|error| error.to_string(), |at| at.to_string());
                tracing::warn!(%error, port, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection that no runtime serves yet, with its place among those that a port takes.
pub struct Accepted {
    stream: Stream,
    from: IpAddr,
    permit: OwnedSemaphorePermit,
}

/// A connection that is served.
pub struct Connection {
    /// Its bytes.
    pub(super) stream: Stream,
    /// Where it comes from.
    pub(super) from: IpAddr,
    /// Its place among those that the port takes.
    pub(super) permit: OwnedSemaphorePermit,
}

impl Accepted {
    /// The runtime that accepted the connection serves it too.
    pub fn serve_here(self) -> Connection {
        let Accepted { stream, from, permit } = self;
        Connection { stream, from, permit }
    }

    /// The runtime of the caller serves the connection, which another one accepted.
    pub fn take_over(self) -> io::Result<Connection> {
        let Accepted { stream, from, permit } = self;
        Ok(Connection { stream: stream.take_over()?, from, permit })
    }
}
