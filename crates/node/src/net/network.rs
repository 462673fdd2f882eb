//! What a node has of the network: it listens, it connects, and it looks names up.
//!
//! That is a value which is passed in where a node is put together, so that nodes can live in another
//! network than the machine's.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use kvorum_tls::{Bytes, Identity};

/// A network, as all of a node's rooms share it.
pub type Net = Arc<dyn Network>;

/// A byte stream to another process.
pub type Stream = Box<dyn Duplex>;

/// Makes listeners and streams.
pub trait Network: Send + Sync + 'static {
    /// Listens on a `host:port` of this machine.
    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>>;

    /// Connects. The caller bounds the time.
    fn connect(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<Stream>>;

    /// The addresses of a `host:port`. The caller bounds the time.
    fn look_up<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// A port that is listened on until this is dropped.
pub trait Listener: Send + 'static {
    /// Waits for the next connection, and says where it comes from.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, SocketAddr)>>;

    /// What is listened on.
    fn address(&self) -> io::Result<SocketAddr>;
}

/// Both directions of a connection.
pub trait Duplex: Bytes {
    /// Whom the network itself vouches for, as TLS does by a certificate. No network of a real machine does: TCP says
    /// where somebody is, not who.
    fn vouched(&self) -> Option<Identity> {
        None
    }

    /// Moves the connection from the runtime that it was accepted on to the caller's.
    fn take_over(self: Box<Self>) -> io::Result<Stream>;
}
