//! Connections to members: TLS, their time-outs, keep-alive and sizes.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use kvorum_proto::peer::v1::peer_client;
use kvorum_tls::{Bytes, COMPARE_INTERVAL, Fault, Mode, Reason};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::Endpoint;

use super::network::Net;
use super::resolve::Names;
use super::sizes::{CONNECTION_WINDOW_BYTES, PEER_MESSAGE_BYTES_MAX, STREAM_WINDOW_BYTES};
use super::tls::{LOG_PERIOD, NodeTls};
use super::way::{KnownWay, Shown, Way};

/// A client of another member's peer port.
pub type PeerClient = peer_client::PeerClient<Way>;

/// A connection to a member that was silent for so long is asked whether it lives: sooner than a client's,
/// since a request that waits for a dead leader waits for all of it.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// One that does not answer within this is closed.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a connection to a member may take to be made. Where a pod was replaced a moment ago, the DNS
/// still names an address where nobody answers; a packet that was lost is repeated after a second at the
/// earliest, so that a little more patience would not help.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(400);

/// An address that cannot be one.
#[derive(Clone, Debug, thiserror::Error)]
#[error("'{0}' is no host:port")]
pub struct AddressError(String);

/// Members of whom a line about TLS was written; beyond that all may be written about anew.
const SAID_MAX: usize = 64;

/// Reaches other members, and knows where they are. Clones share what is known.
#[derive(Clone)]
pub struct Dialer(Arc<Inner>);

struct Inner {
    names: Names,
    /// Without it connections are plain.
    tls: Option<NodeTls>,
    /// When a line was last written about a member that TLS is not agreed on with.
    said: Mutex<HashMap<String, Instant>>,
    /// The ways that may have to be replaced, by address: a few for each member.
    ways: Mutex<Vec<(Arc<str>, KnownWay)>>,
}

impl Dialer {
    /// Reaches others over this network, with TLS or without.
    pub fn new(net: Net, tls: Option<NodeTls>) -> Dialer {
        let (said, ways) = (Mutex::default(), Mutex::default());
        Dialer(Arc::new(Inner { names: Names::new(net), tls, said, ways }))
    }

    /// How this node speaks TLS, if it does.
    pub fn tls(&self) -> Option<&NodeTls> {
        self.0.tls.as_ref()
    }

    /// A lazily made connection to a member's peer port, which makes itself anew when it breaks.
    pub fn channel(&self, address: &str) -> Result<Way, AddressError> {
        let (shown, name): (Shown, Arc<str>) = (Shown::default(), address.into());
        let endpoint = self.endpoint(address)?;
        let channel = endpoint.connect_with_connector_lazy(self.connector(&name, &shown));
        if self.tls().is_none() {
            return Ok(Way::fixed(channel));
        }
        let way = Way::replaceable(channel, shown);
        let mut ways = self.0.ways.lock().unwrap_or_else(PoisonError::into_inner);
        ways.retain(|(_, way)| way.get().is_some());
        ways.push((name, way.known()));
        Ok(way)
    }

    fn endpoint(&self, address: &str) -> Result<Endpoint, AddressError> {
        let refuse = |_| AddressError(address.to_owned());
        // The endpoint's own TLS stays off: it would keep its first certificate for ever. So its scheme is that
        // of a connector which needs nothing, and requests say what the other end sees.
        let mut endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(refuse)?;
        if self.tls().is_some() {
            let origin: Result<Uri, _> = format!("https://{address}").parse();
            endpoint = endpoint.origin(origin.map_err(|_| AddressError(address.to_owned()))?);
        }
        Ok(endpoint
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true))
    }

    fn connector(
        &self,
        name: &Arc<str>,
        shown: &Shown,
    ) -> impl Service<Uri, Response = TokioIo<Box<dyn Bytes>>, Error = io::Error, Future: Send>
    + Send
    + 'static
    + use<> {
        let (inner, name, shown) = (self.0.clone(), name.clone(), shown.clone());
        tower::service_fn(move |_: Uri| {
            let (inner, name, shown) = (inner.clone(), name.clone(), shown.clone());
            async move { inner.connect(&name, &shown).await.map(TokioIo::new) }
        })
    }

    /// Replaces connections that could be better ones, until `stop`: one after the other, each new one before the
    /// old one goes.
    pub async fn keep_fresh(self, mut stop: watch::Receiver<bool>) {
        let Some(NodeTls { member, .. }) = self.tls().cloned() else { return };
        let mut changes = member.changes();
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = sleep(COMPARE_INTERVAL) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let loaded = changes.borrow_and_update().clone();
            let ways = std::mem::take(&mut *self.0.ways.lock().unwrap_or_else(PoisonError::into_inner));
            for (name, known) in &ways {
                if let Some(way) = known.get()
                    && way.shown().is_outdated(&loaded)
                {
                    self.renew(name, &way).await;
                }
            }
            self.0.ways.lock().unwrap_or_else(PoisonError::into_inner).extend(ways);
        }
    }

    /// Makes a new connection, and has it take the place of the old one if that succeeds.
    async fn renew(&self, name: &Arc<str>, way: &Way) {
        let Ok(endpoint) = self.endpoint(name) else { return };
        match endpoint.connect_with_connector(self.connector(name, way.shown())).await {
            Ok(channel) => way.replace(channel),
            Err(error) => {
                tracing::debug!(%name, %error, "the connection to a member could not be renewed yet")
            }
        }
    }

    /// A client of a member's peer service, over a connection of its own.
    pub fn peer_client(&self, address: &str) -> Result<PeerClient, AddressError> {
        self.channel(address).map(peer_client)
    }

    /// Looks a member's name up and remembers what is found.
    pub fn remember(&self, name: &str) {
        self.0.names.remember(name);
    }

    /// Remembers that the member with this name has just connected from there.
    pub fn learn(&self, name: &str, from: IpAddr) {
        self.0.names.learn(name, from);
    }

    /// Forgets where the member with this name said that it is: somebody else is there now.
    pub fn forget(&self, name: &str) {
        self.0.names.forget(name);
    }
}

impl Inner {
    /// Connects, by TLS if this node speaks it. Where it speaks without too, whoever does not agree on TLS is
    /// spoken to without: he may not have been restarted with it yet. Who is slow has not said that, and would be spoken
    /// to without TLS for no reason.
    async fn connect(&self, name: &str, shown: &Shown) -> io::Result<Box<dyn Bytes>> {
        // The limit is here and not the endpoint's own, whose error does not tell that nothing was sent.
        let reach = async || timeout(CONNECT_TIMEOUT, self.names.connect(name)).await?;
        let stream = reach().await?;
        let Some(NodeTls { member, mode }) = &self.tls else { return Ok(stream) };
        let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
        match (member.dial(stream, host).await, mode) {
            (Ok((stream, dialed)), _) => {
                shown.set(dialed);
                Ok(Box::new(stream))
            }
            (Err(fault), Mode::Optional) if fault.reason != Reason::Slow => {
                shown.set_plain();
                Ok(reach().await?)
            }
            (Err(fault), _) => {
                self.tell(name, &fault);
                Err(fault.into())
            }
        }
    }

    /// One line a minute for each member: what openraft says of one that it does not reach has no room for it.
    fn tell(&self, address: &str, fault: &Fault) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.get(address).is_some_and(|last| last.elapsed() < LOG_PERIOD) {
            return;
        }
        if said.len() >= SAID_MAX {
            said.clear();
        }
        said.insert(address.to_owned(), Instant::now());
        tracing::warn!(address, %fault, "TLS was not agreed on with a member");
    }
}

/// A client of the peer service with its limits.
pub fn peer_client(channel: Way) -> PeerClient {
    PeerClient::new(channel)
        .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use kvorum_tls::make::{self, CA_LIFE, LEAF_LIFE, Subject};
    use kvorum_tls::{MemberTls, Paths};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// An end of HTTP/2 says this first: settings.
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

    #[expect(clippy::disallowed_methods, reason = "TLS reads the machine's files itself")]
    fn speaks(mode: Mode) -> (tempfile::TempDir, NodeTls) {
        let directory = tempfile::tempdir().unwrap();
        let ca = make::ca("test", CA_LIFE).unwrap();
        let own = make::leaf(&ca, &Subject::Member(vec!["127.0.0.1".into()]), LEAF_LIFE).unwrap();
        for (name, text) in
            [("ca.crt", &ca.certificate), ("tls.crt", &own.certificate), ("tls.key", &own.key)]
        {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let member = MemberTls::load(Paths::in_directory(directory.path())).unwrap();
        (directory, NodeTls { member, mode })
    }

    /// Goal: where both are spoken, a member that does not speak TLS is spoken to without it, and one that is slow is not:
    /// it may well speak TLS. Method: an end that says what HTTP/2 says, and one that says nothing; and how often it was
    /// connected to.
    #[tokio::test]
    async fn only_who_does_not_speak_tls_is_spoken_to_without() {
        for (mode, words, connected, connections) in [
            (Mode::Optional, Some(SETTINGS), true, 2),
            (Mode::Optional, None, false, 1),
            (Mode::Required, Some(SETTINGS), false, 1),
            (Mode::Required, None, false, 1),
        ] {
            let (_files, tls) = speaks(mode);
            let dialer = Dialer::new(Arc::new(super::super::tcp::Tcp), Some(tls));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let (seen, mut count) = watch::channel(0);
            let serving = tokio::spawn(async move {
                let mut held = Vec::new();
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    seen.send_modify(|seen| *seen += 1);
                    if let Some(words) = words {
                        stream.write_all(words).await.unwrap();
                        let mut first = [0];
                        stream.read_exact(&mut first).await.unwrap();
                    }
                    held.push(stream);
                }
            });
            let made = dialer.0.connect(&address, &Shown::default()).await;
            assert_eq!(made.is_ok(), connected, "{mode:?}, {words:?}: {:?}", made.err());
            // The other end takes note of it a moment later.
            let noted = timeout(Duration::from_secs(10), count.wait_for(|count| *count >= connections)).await;
            assert!(noted.is_ok_and(|count| *count.unwrap() == connections), "{mode:?}, {words:?}");
            serving.abort();
        }
    }
}
