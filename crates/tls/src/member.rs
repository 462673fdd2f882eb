//! What a member is known by, and whom it believes: read from files that may be replaced at any time.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{ClientConfig, Error, ServerConfig};
use tokio::sync::watch;

use crate::accept::Peer;
use crate::beside::{Beside, Seen, Told};
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
    /// The same of what others give, and what is to be told of it.
    beside: Arc<Mutex<(Seen, Told)>>,
    loaded: watch::Sender<Arc<Loaded>>,
}

/// Files that were taken. A handshake has those of one moment, so that certificate, key and CAs fit.
#[derive(Debug)]
pub struct Loaded {
    own: Own,
    trust: Arc<Trust>,
    beside: Beside,
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
        let (mut beside, seen_beside) = (Beside::default(), Seen::read(&paths));
        let told = beside.take(&Seen::default(), &seen_beside);
        let loaded = Loaded::of(&raw, &paths, beside)?;
        let (seen, loaded) = (Arc::new(Mutex::new(raw)), watch::Sender::new(Arc::new(loaded)));
        let beside = Arc::new(Mutex::new((seen_beside, told)));
        Ok(MemberTls { paths: Arc::new(paths), seen, beside, loaded })
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
        match Loaded::of(&raw, &self.paths, self.current().beside.clone()) {
            Ok(loaded) => {
                self.loaded.send_replace(Arc::new(loaded));
                Reload::Taken
            }
            Err(error) => Reload::Refused(error),
        }
    }

    /// Looks at what others give again, and tells of each that is new whether it was taken; each content is told of once.
    /// It may wait for the disk.
    pub fn reload_beside(&self) -> Told {
        let now = Seen::read(&self.paths);
        let mut held = self.beside.lock().unwrap_or_else(PoisonError::into_inner);
        let (seen, told) = &mut *held;
        let mut told = std::mem::take(told);
        // As for its own files, those that are being replaced are looked at once they stay as they are.
        if *seen == now || Seen::read(&self.paths) != now {
            return told;
        }
        let before = std::mem::replace(seen, now.clone());
        let current = self.current();
        let mut beside = current.beside.clone();
        let of_now = beside.take(&before, &now);
        if of_now.iter().any(Result::is_ok) {
            self.loaded.send_replace(Arc::new(current.with(beside)));
        }
        told.extend(of_now);
        told
    }
}

impl Loaded {
    fn of(raw: &Raw, paths: &Paths, beside: Beside) -> Result<Loaded, MaterialError> {
        let Material { trust, own } = Material::of(raw)?.for_member()?;
        let own = own.ok_or_else(|| MaterialError::Unreadable { path: paths.ca.clone() })?;
        Ok(Loaded::new(own, trust, beside))
    }

    fn new(own: Own, trust: Arc<Trust>, beside: Beside) -> Loaded {
        let keeper = |port| Arc::new(Doorkeeper::new(port, trust.clone(), beside.client_trust.clone()));
        let (peer_keeper, client_keeper) = (keeper(Port::Peer), keeper(Port::Client));
        Loaded {
            peer_port: config::server(config::own(&own), peer_keeper.clone(), Port::Peer),
            client_port: config::server(config::by_name(&own, &beside), client_keeper.clone(), Port::Client),
            dialing: config::client(Some(&own), Caller::new(trust.clone(), Wanted::Member)),
            bundle: trust.fingerprint(),
            bundle_not_after: trust.not_after(),
            own,
            trust,
            beside,
            peer_keeper,
            client_keeper,
        }
    }

    fn with(&self, beside: Beside) -> Loaded {
        Loaded::new(self.own.clone(), self.trust.clone(), beside)
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

    /// When the first of the CAs of clients from outside ends, in seconds since 1970, if there are any.
    pub fn client_ca_not_after(&self) -> Option<i64> {
        self.beside.client_trust.as_ref().map(|trust| trust.not_after())
    }

    /// What the certificate for names of outside says, if there is one.
    pub fn outside_facts(&self) -> Option<&Facts> {
        self.beside.outside.as_ref().map(|outside| &outside.facts)
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
