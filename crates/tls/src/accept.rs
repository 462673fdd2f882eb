//! The side that is connected to: which protocol a connection speaks, and its handshake.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::Acceptor;
use rustls::{CertificateError, Error};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};
use tokio_rustls::LazyConfigAcceptor;

use crate::certificate::{Facts, Identity};
use crate::explain::{Fault, Reason, explained};
use crate::member::{Loaded, MemberTls};
use crate::provider::ALPN_HTTP1;
use crate::slots::Slots;
use crate::stream::{Begun, Bytes};
use crate::trust::Port;

/// A connection says what it wants within this; and then has as long again for the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a handshake may wait for its turn, when very many come at once.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long whoever speaks without TLS is listened to after he was told.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);
/// Bytes of his that are read then, so that what he is told is not lost with them.
const FAREWELL_BYTES_MAX: usize = 64 * 1024;

/// The first byte of TLS: a record of a handshake. HTTP/2 begins with a `P`.
const HANDSHAKE_RECORD: u8 = 0x16;
/// The first byte of HTTP/2's preface.
const PREFACE: u8 = b'P';
/// What is said to HTTP/2 without TLS: settings, as must come first, and GOAWAY with the reason.
const FAREWELL: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x1c\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0cthis port speaks TLS";

/// How a port takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// With TLS or without, as the first byte says.
    Optional,
    /// With TLS only.
    Required,
}

/// A port that speaks TLS. Clones are the same port.
#[derive(Clone, Debug)]
pub struct TlsPort {
    tls: MemberTls,
    port: Port,
    mode: Mode,
    slots: Slots,
}

/// A connection whose protocol is known.
#[derive(Debug)]
pub enum Accepted<S> {
    /// Without TLS.
    Plain(Begun<S>),
    /// With it, and with the certificate of the other side, if it has one.
    Tls(Box<TlsStream<S>>, Option<Peer>, Duration),
}

/// A stream inside of TLS.
pub type TlsStream<S> = tokio_rustls::server::TlsStream<Begun<S>>;

/// Whether HTTP/1.1 was agreed on; else it is HTTP/2, which who says nothing speaks too.
pub fn is_http1<S>(stream: &TlsStream<S>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP1)
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Whom his certificate names.
    pub identity: Identity,
    /// The certificate and those behind it.
    chain: Arc<[CertificateDer<'static>]>,
    /// What the certificate says.
    facts: Facts,
}

impl Peer {
    /// Somebody without a certificate, for whom the network vouches.
    pub fn vouched(identity: Identity) -> Peer {
        Peer { identity, chain: Arc::default(), facts: Facts::default() }
    }

    /// The certificate and those behind it.
    pub(crate) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// What the certificate says.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// How long the certificate still holds, by this machine's clock.
    pub fn time_left(&self) -> Duration {
        let left = u64::try_from(self.facts.not_after).unwrap_or(0).saturating_sub(UnixTime::now().as_secs());
        // It holds through its last second.
        Duration::from_secs(left.saturating_add(1))
    }

    pub(crate) fn of(identity: Identity, chain: &[CertificateDer<'static>]) -> Result<Peer, Error> {
        let unreadable = Error::InvalidCertificate(CertificateError::BadEncoding);
        let facts = chain.first().and_then(|leaf| Facts::read(leaf).ok()).ok_or(unreadable)?;
        Ok(Peer { identity, chain: chain.into(), facts })
    }
}

impl TlsPort {
    /// A port.
    pub fn new(tls: MemberTls, port: Port, mode: Mode) -> TlsPort {
        TlsPort { tls, port, mode, slots: Slots::new() }
    }

    /// What is loaded, and changes.
    pub fn tls(&self) -> &MemberTls {
        &self.tls
    }

    /// Which port it is.
    pub fn port(&self) -> Port {
        self.port
    }

    /// Finds out what a connection speaks, and takes part in its handshake. It is bounded in time; the caller gives
    /// it a task of its own, so that nobody waits for anybody.
    pub async fn accept<S: Bytes>(&self, stream: S, from: IpAddr) -> Result<Accepted<S>, Fault> {
        let said = timeout(HANDSHAKE_TIMEOUT, self.listen(stream)).await;
        let slow = || Fault::new(Reason::Slow, format!("it said too little within {HANDSHAKE_TIMEOUT:?}"));
        let mut started = match said.map_err(|_| slow())?? {
            Said::Plain(stream) => return Ok(Accepted::Plain(stream)),
            Said::Hello(started) => started,
        };
        // A connection that says nothing has no place: only what costs work has.
        let busy = || Fault::new(Reason::Busy, format!("its handshake had no turn within {TURN_TIMEOUT:?}"));
        // Who gives up meanwhile, and comes again perhaps, is not worked for: else many who come at once would all be
        // served when it is too late.
        let slot = tokio::select! {
            biased;
            slot = timeout(TURN_TIMEOUT, self.slots.take(from)) => slot.map_err(|_| busy())?,
            () = started.io.gone() => {
                return Err(Fault::new(Reason::Left, "it went before its handshake had a turn"));
            }
        };
        let begun = Instant::now();
        let loaded = self.tls.current();
        let handshake = explained(started.into_stream(loaded.server(self.port)));
        let (stream, said) = timeout(HANDSHAKE_TIMEOUT, handshake).await.map_err(|_| slow())?;
        let stream = stream.map_err(|error| Fault::of(&error, said))?;
        drop(slot);
        let peer = self.peer(&loaded, stream.get_ref().1.peer_certificates())?;
        Ok(Accepted::Tls(Box::new(stream), peer, begun.elapsed()))
    }

    /// Waits for the first byte, and for all that a client says before it is answered.
    async fn listen<S: Bytes>(&self, mut stream: S) -> Result<Said<S>, Fault> {
        let mut first = [0];
        match stream.read(&mut first).await {
            Ok(0) => return Err(Fault::new(Reason::Left, "it went without a word")),
            Ok(_) => {}
            Err(error) => return Err(Fault::new(Reason::Left, format!("it went without a word: {error}"))),
        }
        let [first] = first;
        if first != HANDSHAKE_RECORD {
            return match self.mode {
                Mode::Optional => Ok(Said::Plain(Begun::new(vec![first], stream))),
                Mode::Required => Err(refuse_plain(stream, first).await),
            };
        }
        let hello = LazyConfigAcceptor::new(Acceptor::default(), Begun::new(vec![first], stream));
        Ok(Said::Hello(Box::new(hello.await.map_err(|error| Fault::of(&error, None))?)))
    }

    fn peer(
        &self,
        loaded: &Loaded,
        chain: Option<&[CertificateDer<'static>]>,
    ) -> Result<Option<Peer>, Fault> {
        let Some(chain) = chain else { return Ok(None) };
        loaded.peer(self.port, chain).map(Some).map_err(|error| Fault::of(&io::Error::other(error), None))
    }
}

enum Said<S> {
    Plain(Begun<S>),
    Hello(Box<tokio_rustls::StartHandshake<Begun<S>>>),
}

/// Tells whoever speaks HTTP/2 without TLS what is wrong; others could not read it.
async fn refuse_plain<S: Bytes>(mut stream: S, first: u8) -> Fault {
    if first == PREFACE {
        let farewell = async {
            stream.write_all(FAREWELL).await?;
            stream.shutdown().await?;
            // What is not read when the connection is closed would take the farewell along.
            let (mut left, mut buffer) = (FAREWELL_BYTES_MAX, [0; 1024]);
            while left > 0 {
                let read = stream.read(&mut buffer).await?;
                left = if read == 0 { 0 } else { left.saturating_sub(read) };
            }
            io::Result::Ok(())
        };
        let _ = timeout(FAREWELL_TIMEOUT, farewell).await;
    }
    Fault::new(Reason::Plain, "it speaks without TLS, which this port does not take")
}
