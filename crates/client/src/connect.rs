//! How a connection is made: whatever every connection needs comes in here.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::credentials::Credentials;
use crate::tls::{Security, Tls};

/// How long a connection may take to be made, so that a machine that is gone costs a call little.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How connections are made: by a [`Client`](crate::Client) to client ports, by an
/// [`AdminClient`](crate::admin::AdminClient) to peer ports.
///
/// A group of its own, because more belongs here than callers of single calls should see.
///
/// ```
/// use std::time::Duration;
/// use kvorum_client::{Client, ConnectOptions};
///
/// # kvorum_mock::example(async |endpoint| {
/// let far_away = ConnectOptions::new().timeout(Duration::from_secs(3));
/// let client = Client::builder([endpoint]).connect_options(far_away).connect().await?;
/// assert_ne!(client.cluster_id(), 0);
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct ConnectOptions {
    pub(crate) timeout: Duration,
    pub(crate) connector: Arc<dyn Connector>,
    pub(crate) security: Security,
    pub(crate) credentials: Credentials,
}

impl ConnectOptions {
    /// The usual ones: TCP, 1 s to connect, and TLS where a CA is mounted, see [`Tls`]. A [`Client`](crate::Client)
    /// sends the token that is mounted beside it.
    pub fn new() -> ConnectOptions {
        ConnectOptions {
            timeout: CONNECT_TIMEOUT,
            connector: Arc::new(Tcp),
            security: Security::looked_for(),
            credentials: Credentials::None,
        }
    }

    /// Speaks TLS, with what is given here.
    pub fn tls(mut self, tls: Tls) -> ConnectOptions {
        self.security = Security::Told(tls);
        self
    }

    /// Sends the token in this file with every call, such as that of a ServiceAccount, and reads it again every ten
    /// seconds. A token goes over TLS only, and before a certificate.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> ConnectOptions {
        self.credentials = Credentials::file(path.into());
        self
    }

    /// Is this user, by a token that is asked for with his password, once for all connections, and again when it is
    /// not taken any more. Password and token go over TLS only.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> ConnectOptions {
        self.credentials = Credentials::password(name.into(), password.into());
        self
    }

    /// The token that is mounted beside the CA, where neither is told.
    pub(crate) fn with_mounted_token(mut self) -> ConnectOptions {
        if let (Credentials::None, Some(token)) = (&self.credentials, self.security.mounted_token()) {
            self.credentials = Credentials::file(token);
        }
        self
    }

    /// Speaks without TLS, whatever is mounted. An endpoint that begins with `https://` cannot be reached then.
    pub fn plain(mut self) -> ConnectOptions {
        self.security = Security::Plain;
        self
    }

    /// How long making a connection may take; 1 s without this, and TLS has as long again. The call that needs the connection goes on
    /// elsewhere then.
    pub fn timeout(mut self, timeout: Duration) -> ConnectOptions {
        self.timeout = timeout;
        self
    }

    /// What makes the stream of bytes to an address; [`Tcp`] without this. TLS is spoken inside of it, with whoever
    /// has a certificate for the host in that address.
    pub fn connector(mut self, connector: impl Connector) -> ConnectOptions {
        self.connector = Arc::new(connector);
        self
    }
}

impl Default for ConnectOptions {
    fn default() -> ConnectOptions {
        ConnectOptions::new()
    }
}

/// Makes the stream of bytes to an address, on which HTTP/2 is spoken then: through a proxy, over a socket of
/// another kind, or in a simulated network.
///
/// It is asked for each connection anew, and dropped when the time for a connection is over.
///
/// ```
/// use kvorum_client::{Client, ConnectOptions, Connecting, Connector, Tcp};
///
/// /// Reaches every node through a tunnel that begins on this machine.
/// #[derive(Debug)]
/// struct Tunnel(String);
///
/// impl Connector for Tunnel {
///     fn connect(&self, _address: &str) -> Connecting {
///         Tcp.connect(&self.0)
///     }
/// }
///
/// # kvorum_mock::example(async |endpoint| {
/// let through = ConnectOptions::new().connector(Tunnel(endpoint));
/// let client = Client::builder(["demo-0.demo-peers:2379"]).connect_options(through).connect_lazy()?;
/// client.set("greeting", "hello").await?;
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
pub trait Connector: fmt::Debug + Send + Sync + 'static {
    /// Connects to `address`, which is `host:port` as it was given or as the cluster names it.
    ///
    /// # Errors
    /// What keeps it from being connected. A call tells it as the problem of that endpoint, in the operating
    /// system's words where the error has a code, and goes on at another one.
    fn connect(&self, address: &str) -> Connecting;
}

/// What [`Connector::connect`] answers with. It owns all that it needs.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn ByteStream>>> + Send>>;

/// A stream of bytes in both directions; whatever tokio can read and write is one.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for T {}

/// The connector of the network as it is: a TCP connection for each, without delay for small writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tcp;

impl Connector for Tcp {
    fn connect(&self, address: &str) -> Connecting {
        let address = address.to_owned();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        })
    }
}
