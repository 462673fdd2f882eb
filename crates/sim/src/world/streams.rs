//! The network as one host has it: what node and client are given in the place of TCP.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use kvorum_client::{ByteStream, Connecting, Connector};
use kvorum_node::net::network::{self as node, Duplex, Listener};
use kvorum_tls::Identity;
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use super::network::{ConnectionId, HostId, Network};

/// Where connections break off: the fewest bytes after which one does, and how often that may be doubled.
const LASTS_LEAST: usize = 1 << 10;
const LASTS_DOUBLINGS: u32 = 9;

/// The network, as all hosts share it.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Network>>);

impl Shared {
    pub(super) fn new(network: Network) -> Shared {
        Shared(Arc::new(Mutex::new(network)))
    }

    /// Does something with the network, and then wakes whom it concerns.
    pub fn with<T>(&self, work: impl FnOnce(&mut Network) -> T) -> T {
        let mut network = self.lock();
        let result = work(&mut network);
        let wakers = network.take_wakers();
        drop(network);
        wakers.into_iter().for_each(Waker::wake);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Network> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The network as one host has it.
#[derive(Clone)]
pub struct HostNetwork {
    pub(super) shared: Shared,
    pub(super) host: HostId,
    /// Who connects, where the network vouches for somebody.
    pub(super) user: Option<&'static str>,
    /// What draws after how many bytes its connections break off, where they do.
    pub(super) breaks: Option<Arc<Mutex<StdRng>>>,
}

impl fmt::Debug for HostNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostNetwork({})", self.host)
    }
}

impl HostNetwork {
    /// The same as this user has it, or nobody whom it knows.
    pub fn of_user(&self, user: Option<&'static str>) -> HostNetwork {
        HostNetwork { user, ..self.clone() }
    }

    /// The same with connections that break off, each after so many bytes: often in the midst of an answer.
    pub fn breaking_off(&self, random: StdRng) -> HostNetwork {
        HostNetwork { breaks: Some(Arc::new(Mutex::new(random))), ..self.clone() }
    }

    /// After how many bytes that are read the next connection breaks off: as often after few as after many.
    fn lasts(&self) -> usize {
        let Some(breaks) = &self.breaks else { return usize::MAX };
        let mut random = breaks.lock().unwrap_or_else(PoisonError::into_inner);
        let least = LASTS_LEAST << random.random_range(0..LASTS_DOUBLINGS);
        random.random_range(least..2 * least)
    }

    fn open(&self, to: SocketAddr) -> impl Future<Output = io::Result<Stream>> + Send + 'static {
        let lasts = self.lasts();
        let HostNetwork { shared, host, user, .. } = self.clone();
        async move {
            let id = shared.with(|network| network.connect(host, to, user));
            // Dropped before it is connected, it is closed.
            let stream = Stream { shared, id, side: 0, lasts };
            let connected =
                poll_fn(|cx| match stream.shared.with(|network| network.is_connected(id, cx.waker())) {
                    Some(connected) => Poll::Ready(connected),
                    None => Poll::Pending,
                });
            if connected.await { Ok(stream) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
        }
    }
}

fn parse(address: &str) -> io::Result<SocketAddr> {
    address.parse().map_err(|_| io::Error::other(format!("'{address}' is no address of this world")))
}

/// What `host:port` leads to, after as long as the answer takes.
async fn look_up(shared: Shared, name: String) -> io::Result<SocketAddr> {
    if let Ok(address) = name.parse() {
        return Ok(address);
    }
    let unknown = || io::Error::other(format!("'{name}' cannot be looked up"));
    let (host, port) = name.rsplit_once(':').ok_or_else(unknown)?;
    let port = port.parse().map_err(|_| unknown())?;
    let found = shared.with(|network| network.names.look_up(host, network.now));
    let (ip, takes) = found.ok_or_else(unknown)?;
    if takes > 0 {
        sleep(Duration::from_micros(takes)).await;
    }
    Ok(SocketAddr::new(ip, port))
}

impl node::Network for HostNetwork {
    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        async move {
            let address = parse(address)?;
            if !self.shared.with(|network| network.listen(address)) {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            Ok(Box::new(Port { shared: self.shared.clone(), address }) as Box<dyn Listener>)
        }
        .boxed()
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<node::Stream>> {
        let opening = self.open(to);
        async move { Ok(Box::new(opening.await?) as node::Stream) }.boxed()
    }

    fn look_up<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let found = look_up(self.shared.clone(), name.to_owned());
        async move { Ok(vec![found.await?]) }.boxed()
    }
}

impl Connector for HostNetwork {
    fn connect(&self, address: &str) -> Connecting {
        let (own, found) = (self.clone(), look_up(self.shared.clone(), address.to_owned()));
        Box::pin(async move { Ok(Box::new(own.open(found.await?).await?) as Box<dyn ByteStream>) })
    }
}

struct Port {
    shared: Shared,
    address: SocketAddr,
}

impl Listener for Port {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(node::Stream, SocketAddr)>> {
        poll_fn(|cx| match self.shared.with(|network| network.accept(self.address, cx.waker())) {
            Some((id, from)) => {
                let stream = Stream { shared: self.shared.clone(), id, side: 1, lasts: usize::MAX };
                Poll::Ready(Ok((Box::new(stream) as node::Stream, from)))
            }
            None => Poll::Pending,
        })
        .boxed()
    }

    fn address(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.shared.with(|network| network.stop_listening(self.address));
    }
}

/// One end of a connection.
struct Stream {
    shared: Shared,
    id: ConnectionId,
    side: usize,
    /// Bytes that may still be read before it breaks off.
    lasts: usize,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.with(|network| network.close(self.id, self.side));
    }
}

impl Duplex for Stream {
    fn vouched(&self) -> Option<Identity> {
        let user = self.shared.with(|network| network.user_of(self.id));
        user.map(|user| Identity::User(user.to_owned()))
    }

    fn take_over(self: Box<Self>) -> io::Result<node::Stream> {
        Ok(self)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.lasts == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let room = buffer.remaining().min(self.lasts);
        match self.shared.with(|network| network.read(self.id, self.side, room, cx.waker())) {
            None => Poll::Pending,
            Some(Err(())) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Some(Ok(bytes)) => {
                self.lasts -= bytes.len();
                buffer.put_slice(&bytes);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.shared.with(|network| network.write(self.id, self.side, bytes, cx.waker())) {
            None => Poll::Pending,
            Some(written) => Poll::Ready(written.map_err(|()| io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.with(|network| network.end(self.id, self.side));
        Poll::Ready(Ok(()))
    }
}
