//! The side that connects.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::accept::Peer;
use crate::config;
use crate::explain::{Fault, Reason, explained};
use crate::material::{Material, MaterialError, Paths, Raw};
use crate::member::{Loaded, MemberTls};
use crate::stream::{Begun, Bytes};
use crate::trust::{Caller, Wanted};

/// How long a handshake may take, once there is a connection.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// How often files are looked at again, at most.
pub const COMPARE_INTERVAL: Duration = Duration::from_secs(10);
/// Bytes of the other side's first words.
const FIRST_BYTES_MAX: usize = 1024;

/// A stream inside of TLS.
pub type DialedStream<S> = Begun<tokio_rustls::client::TlsStream<S>>;

/// Who has shown what on a connection.
#[derive(Debug)]
pub struct Dialed {
    /// What was shown and believed here.
    pub loaded: Arc<Loaded>,
    /// The other side.
    pub peer: Peer,
}

impl MemberTls {
    /// Speaks TLS on a connection to another member, which is known by the name that was dialled.
    pub async fn dial<S: Bytes>(&self, stream: S, host: &str) -> Result<(DialedStream<S>, Dialed), Fault> {
        let loaded = self.current();
        let stream = handshake(loaded.dialing(), stream, host).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = Loaded::server_peer(chain).map_err(|error| Fault::of(&io::Error::other(error), None))?;
        Ok((first_words(stream).await?, Dialed { loaded, peer }))
    }
}

/// What a client shows, and whom it believes. Clones share it.
#[derive(Clone, Debug)]
pub struct ClientTls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Where the files are that are looked at again; without it there are none.
    paths: Option<Paths>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    raw: Raw,
    config: Arc<ClientConfig>,
    /// When the files were looked at last.
    looked: Instant,
}

impl ClientTls {
    /// Reads the files.
    pub fn load(paths: Paths) -> Result<ClientTls, MaterialError> {
        let raw = Raw::read(&paths)?;
        ClientTls::of(raw, Some(paths))
    }

    /// With a CA and perhaps a certificate and its key that are in no files, in PEM.
    pub fn of_pem(ca: &[u8], own: Option<(&[u8], &[u8])>) -> Result<ClientTls, MaterialError> {
        ClientTls::of(Raw::of(ca, own), None)
    }

    fn of(raw: Raw, paths: Option<Paths>) -> Result<ClientTls, MaterialError> {
        let config = client_config(&raw)?;
        let state = Mutex::new(State { raw, config, looked: Instant::now() });
        Ok(ClientTls(Arc::new(Inner { paths, state })))
    }

    /// Speaks TLS on a connection, to whoever has a certificate for `host`.
    ///
    /// When it returns, the other side has taken the certificate that it was shown: in TLS 1.3 that is known only
    /// from what comes then, and a server of HTTP/2 speaks at once.
    pub async fn connect<S: Bytes>(&self, stream: S, host: &str) -> Result<DialedStream<S>, Fault> {
        first_words(handshake(self.config(), stream, host).await?).await
    }

    /// The same for HTTP/1.1, as who scrapes metrics speaks it: a server says nothing before it is asked.
    pub async fn connect_http1<S: Bytes>(
        &self,
        stream: S,
        host: &str,
    ) -> Result<tokio_rustls::client::TlsStream<S>, Fault> {
        handshake(config::with_http1(&self.config()), stream, host).await
    }

    /// The configuration of the moment. Where files have changed it is made anew; what does not fit is not taken.
    ///
    /// They are a few kilobytes in memory, read every ten seconds at most and only where a connection is made: that
    /// does not wait for another thread.
    fn config(&self) -> Arc<ClientConfig> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(paths) = &self.0.paths
            && state.looked.elapsed() >= COMPARE_INTERVAL
        {
            state.looked = Instant::now();
            if let Ok(raw) = Raw::read(paths)
                && raw != state.raw
                && let Ok(config) = client_config(&raw)
            {
                (state.raw, state.config) = (raw, config);
            }
        }
        state.config.clone()
    }
}

fn client_config(raw: &Raw) -> Result<Arc<ClientConfig>, MaterialError> {
    let Material { trust, own, .. } = Material::of(raw)?;
    Ok(config::client(own.as_ref(), Caller::new(trust, Wanted::Name)))
}

async fn handshake<S: Bytes>(
    config: Arc<ClientConfig>,
    stream: S,
    host: &str,
) -> Result<tokio_rustls::client::TlsStream<S>, Fault> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = ServerName::try_from(bare.to_owned()).map_err(|_| {
        Fault::new(Reason::BadCertificate, format!("{host:?} is no name that a certificate has"))
    })?;
    let handshake = explained(TlsConnector::from(config).connect(name, stream));
    let (connected, said) = timeout(DIAL_TIMEOUT, handshake).await.map_err(|_| slow())?;
    connected.map_err(|error| Fault::of(&error, said))
}

/// Waits for what the server says first, by which it is known that it goes on.
async fn first_words<S: Bytes>(
    mut stream: tokio_rustls::client::TlsStream<S>,
) -> Result<DialedStream<S>, Fault> {
    let mut words = vec![0; FIRST_BYTES_MAX];
    let read = timeout(DIAL_TIMEOUT, stream.read(&mut words)).await.map_err(|_| slow())?;
    let read = match read {
        Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        read => read,
    };
    words.truncate(read.map_err(|error| Fault::of(&error, None))?);
    words.shrink_to_fit();
    Ok(Begun::new(words, stream))
}

fn slow() -> Fault {
    Fault::new(Reason::Slow, format!("TLS was not agreed on within {DIAL_TIMEOUT:?}"))
}
