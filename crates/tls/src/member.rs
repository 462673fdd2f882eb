//! What a member is known by, and whom it believes: read from files that may be replaced at any time.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{ClientConfig, Error, ServerConfig};
use tokio::sync::watch;

use crate::accept::Peer;
use crate::certificate::{Facts, Identity};
use crate::config;
use crate::material::{Material, MaterialError, Own, Paths, Raw};
use crate::trust::{Caller, Doorkeeper, Port, Trust, Wanted};

/// A member's certificate and CAs, as they are at the moment. Clones share them.
#[derive(Clone, Debug)]
pub struct MemberTls {
    paths: Arc<Paths>,
    /// The bytes that were looked at last, whether they were taken or not.
    seen: Arc<Mutex<Raw>>,
    loaded: watch::Sender<Arc<Loaded>>,
}

/// Files that were taken. A handshake has those of one moment, so that certificate, key and CAs fit.
#[derive(Debug)]
pub struct Loaded {
    own: Own,
    trust: Arc<Trust>,
    peer_keeper: Arc<Doorkeeper>,
    client_keeper: Arc<Doorkeeper>,
    peer_port: Arc<ServerConfig>,
    client_port: Arc<ServerConfig>,
    dialing: Arc<ClientConfig>,
    bundle: [u8; 32],
    bundle_not_after: i64,
}

/// What became of a look at the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reload {
    /// They are as they were.
    Same,
    /// They are new, and taken.
    Taken,
    /// They are new, and cannot be used. What was there before goes on.
    Refused(MaterialError),
}

impl MemberTls {
    /// Reads the files for the first time. It may wait for the disk.
    pub fn load(paths: Paths) -> Result<MemberTls, MaterialError> {
        let raw = Raw::read(&paths)?;
        let loaded = Loaded::of(&raw, &paths)?;
        let (seen, loaded) = (Arc::new(Mutex::new(raw)), watch::Sender::new(Arc::new(loaded)));
        Ok(MemberTls { paths: Arc::new(paths), seen, loaded })
    }

    /// What holds at the moment.
    pub fn current(&self) -> Arc<Loaded> {
        self.loaded.borrow().clone()
    }

    /// Tells when something else holds.
    pub fn changes(&self) -> watch::Receiver<Arc<Loaded>> {
        self.loaded.subscribe()
    }

    /// Looks at the files again; each content is refused once. It may wait for the disk.
    pub fn reload(&self) -> Reload {
        let raw = match Raw::read(&self.paths) {
            Ok(raw) => raw,
            Err(error) => return Reload::Refused(error.into()),
        };
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if *seen == raw {
                return Reload::Same;
            }
            // Files that are being replaced one after the other are looked at once they stay as they are.
            if Raw::read(&self.paths).as_ref() != Ok(&raw) {
                return Reload::Same;
            }
            *seen = raw.clone();
        }
        match Loaded::of(&raw, &self.paths) {
            Ok(loaded) => {
                self.loaded.send_replace(Arc::new(loaded));
                Reload::Taken
            }
            Err(error) => Reload::Refused(error),
        }
    }
}

impl Loaded {
    fn of(raw: &Raw, paths: &Paths) -> Result<Loaded, MaterialError> {
        let Material { trust, own, client_trust } = Material::of(raw)?.for_member()?;
        let own = own.ok_or_else(|| MaterialError::Unreadable { path: paths.ca.clone() })?;
        let keeper = |port| Arc::new(Doorkeeper::new(port, trust.clone(), client_trust.clone()));
        let (peer_keeper, client_keeper) = (keeper(Port::Peer), keeper(Port::Client));
        Ok(Loaded {
            peer_port: config::server(&own, peer_keeper.clone(), Port::Peer),
            client_port: config::server(&own, client_keeper.clone(), Port::Client),
            dialing: config::client(Some(&own), Caller::new(trust.clone(), Wanted::Member)),
            bundle: trust.fingerprint(),
            bundle_not_after: trust.not_after(),
            own,
            trust,
            peer_keeper,
            client_keeper,
        })
    }

    /// The SHA-256 of the own certificate, see [`fingerprint`](crate::fingerprint).
    pub fn leaf_fingerprint(&self) -> [u8; 32] {
        self.own.fingerprint
    }

    /// The SHA-256 of the CAs, see [`bundle_fingerprint`](crate::bundle_fingerprint).
    pub fn bundle_fingerprint(&self) -> [u8; 32] {
        self.bundle
    }

    /// What the own certificate says.
    pub fn facts(&self) -> &Facts {
        &self.own.facts
    }

    /// Whether a connection may go on by the certificate that was shown when it began.
    pub fn still_takes(&self, port: Port, peer: &Peer) -> bool {
        let identity = self.keeper(port).identify(peer.chain(), UnixTime::now());
        identity.is_ok_and(|identity| identity == peer.identity)
    }

    /// Whether the CA that has signed somebody's certificate is the one of the own.
    pub fn by_current_ca(&self, peer: &Peer) -> bool {
        peer.facts().issuer == self.own.facts.issuer
    }

    /// When the first of the CAs ends, in seconds since 1970.
    pub fn bundle_not_after(&self) -> i64 {
        self.bundle_not_after
    }

    /// Whether a server that was dialled would be believed again.
    pub fn still_believes(&self, peer: &Peer) -> bool {
        self.trust.verify_server(peer.chain(), UnixTime::now()).is_ok()
    }

    pub(crate) fn server(&self, port: Port) -> Arc<ServerConfig> {
        match port {
            Port::Peer => self.peer_port.clone(),
            Port::Client => self.client_port.clone(),
        }
    }

    pub(crate) fn dialing(&self) -> Arc<ClientConfig> {
        self.dialing.clone()
    }

    /// Who has shown a chain that was verified a moment ago.
    pub(crate) fn peer(&self, port: Port, chain: &[CertificateDer<'static>]) -> Result<Peer, Error> {
        let identity = self.keeper(port).identify(chain, UnixTime::now())?;
        Peer::of(identity, chain)
    }

    /// A server that was dialled and verified a moment ago.
    pub(crate) fn server_peer(chain: &[CertificateDer<'static>]) -> Result<Peer, Error> {
        Peer::of(Identity::Member, chain)
    }

    fn keeper(&self, port: Port) -> &Doorkeeper {
        match port {
            Port::Peer => &self.peer_keeper,
            Port::Client => &self.client_keeper,
        }
    }
}
