//! The network of the machine: TCP, and the system's resolver.

use std::io;
use std::net::SocketAddr;

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::net::{TcpListener, TcpStream, lookup_host};

use super::network::{Duplex, Listener, Network, Stream};

/// Listens and connects by TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Network for Tcp {
    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        async move { Ok(Box::new(TcpListener::bind(address).await?) as Box<dyn Listener>) }.boxed()
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<Stream>> {
        async move {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Stream)
        }
        .boxed()
    }

    fn look_up<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        async move { Ok(lookup_host(name).await?.collect()) }.boxed()
    }
}

impl Listener for TcpListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, SocketAddr)>> {
        async move {
            let (stream, from) = TcpListener::accept(self).await?;
            // Without it a small response would wait for the acknowledgement of the last one.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY was refused");
            }
            Ok((Box::new(stream) as Stream, from))
        }
        .boxed()
    }

    fn address(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}

impl Duplex for TcpStream {
    fn take_over(self: Box<Self>) -> io::Result<Stream> {
        Ok(Box::new(TcpStream::from_std(self.into_std()?)?))
    }
}
