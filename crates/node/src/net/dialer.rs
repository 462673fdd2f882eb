//! Connections to members: their time-outs, keep-alive and sizes. TLS has its door here,
//! `Endpoint::tls_config` in [`Dialer::channel`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use kvorum_proto::peer::v1::peer_client;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use super::network::Net;
use super::resolve::Names;
use super::sizes::{CONNECTION_WINDOW_BYTES, PEER_MESSAGE_BYTES_MAX, STREAM_WINDOW_BYTES};

/// A client of another member's peer port.
pub type PeerClient = peer_client::PeerClient<Channel>;

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

/// Reaches other members, and knows where they are. Clones share what is known.
#[derive(Clone)]
pub struct Dialer(Arc<Names>);

impl Dialer {
    /// Reaches others over this network.
    pub fn new(net: Net) -> Dialer {
        Dialer(Arc::new(Names::new(net)))
    }

    /// A lazily made connection to a member's peer port, which makes itself anew when it breaks.
    pub fn channel(&self, address: &str) -> Result<Channel, AddressError> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| AddressError(address.to_owned()))?;
        let (names, name): (Arc<Names>, Arc<str>) = (self.0.clone(), address.into());
        let connector = tower::service_fn(move |_| {
            let (names, name) = (names.clone(), name.clone());
            // The limit is here and not the endpoint's own, whose error does not tell that nothing was sent.
            async move { timeout(CONNECT_TIMEOUT, names.connect(&name)).await?.map(TokioIo::new) }
        });
        Ok(endpoint
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connector))
    }

    /// A client of a member's peer service, over a connection of its own.
    pub fn peer_client(&self, address: &str) -> Result<PeerClient, AddressError> {
        self.channel(address).map(peer_client)
    }

    /// Looks a member's name up and remembers what is found.
    pub fn remember(&self, name: &str) {
        self.0.remember(name);
    }

    /// Remembers that the member with this name has just connected from there.
    pub fn learn(&self, name: &str, from: IpAddr) {
        self.0.learn(name, from);
    }

    /// Forgets where the member with this name said that it is: somebody else is there now.
    pub fn forget(&self, name: &str) {
        self.0.forget(name);
    }
}

/// A client of the peer service with its limits.
pub fn peer_client(channel: Channel) -> PeerClient {
    PeerClient::new(channel)
        .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
}
