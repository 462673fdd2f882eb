//! Ports, and the connections that come in on them.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::memory;
use super::network::{Listener, Net, Stream};

/// Connections that the ports of clients and members take at a time; the next ones wait to be accepted. A client needs
/// one.
const CONNECTIONS_MAX: usize = 10_000;

/// What a connection takes at rest, with TLS; without it is two thirds of that.
const CONNECTION_BYTES: usize = 50 * 1024;

/// The port of clients takes no more connections than fit into this part of the memory that the process may have, and
/// that of members into half as much: anybody can open connections.
const MEMORY_PART: usize = 4;

/// Memory with which every port takes all the connections that it may, in bytes.
pub const MEMORY_WANTED: u64 = (2 * MEMORY_PART * CONNECTION_BYTES * CONNECTIONS_MAX) as u64;

/// Connections of the HTTP port at a time.
const HTTP_CONNECTIONS_MAX: usize = 256;

/// Descriptors that are not for connections: those of the store's tables, of the log, and some to spare. A node that
/// could open no file any more would have to stop.
const FILES_RESERVED: usize = 1024;

/// Descriptors with which every port takes all the connections that it may.
pub const FILES_WANTED: u64 = 32_768;

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

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Clients.
    Client,
    /// Members, and who administers them.
    Peer,
    /// Probes and metrics.
    Http,
}

/// The room of a port, for so many connections at a time as it may have, and as the process has descriptors and memory
/// for.
pub fn room(port: Port) -> Arc<Semaphore> {
    let files = getrlimit(Resource::Nofile).current;
    Arc::new(Semaphore::new(connections_max(port, files, memory::limit())))
}

/// How many connections a port may have in a process that may open so many files and have so much memory; none: any
/// number.
fn connections_max(port: Port, files: Option<u64>, memory: Option<u64>) -> usize {
    let number = |limit: Option<u64>| limit.and_then(|it| usize::try_from(it).ok()).unwrap_or(usize::MAX);
    let (files, memory) = (number(files), number(memory));
    let free = files - FILES_RESERVED.min(files / 2);
    let fit = memory / MEMORY_PART / CONNECTION_BYTES;
    let most = match port {
        Port::Client => CONNECTIONS_MAX.min(free / 2).min(fit),
        Port::Peer => CONNECTIONS_MAX.min(free / 3).min(fit / 2),
        Port::Http => HTTP_CONNECTIONS_MAX.min(free / 12),
    };
    most.max(1)
}

/// Waits for room, and accepts the next connection.
pub async fn accept(listener: &mut dyn Listener, room: &Arc<Semaphore>) -> Accepted {
    let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, from)) => return Accepted { stream, from: from.ip(), permit },
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

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: [Port; 3] = [Port::Client, Port::Peer, Port::Http];

    /// Goal: connections leave memory to all else. Method: a table of limits.
    #[test]
    fn connections_leave_memory_to_the_store() {
        let all = |memory| PORTS.map(|port| connections_max(port, None, memory));
        assert_eq!(all(None), [10_000, 10_000, 256]);
        assert_eq!(all(Some(MEMORY_WANTED)), [10_000, 10_000, 256]);
        assert_eq!(all(Some(704 << 20)), [3604, 1802, 256]);
        assert_eq!(all(Some(0)), [1, 1, 256]);
    }

    /// Goal: connections leave the disk its descriptors. Method: a table of limits.
    #[test]
    fn connections_leave_files_to_the_disk() {
        let all = |files| PORTS.map(|port| connections_max(port, files, None));
        assert_eq!(all(None), [10_000, 10_000, 256]);
        assert_eq!(all(Some(1 << 20)), [10_000, 10_000, 256]);
        assert_eq!(all(Some(FILES_WANTED)), [10_000, 10_000, 256]);
        assert_eq!(all(Some(4096)), [1536, 1024, 256]);
        assert_eq!(all(Some(1024)), [256, 170, 42]);
        for files in [0, 1, 10, 1000, 5000, 50_000] {
            let left = files as i64 - all(Some(files)).iter().sum::<usize>() as i64;
            assert!(left >= (files as i64 / 2).min(FILES_RESERVED as i64) - 3, "{left} of {files}");
        }
    }
}
