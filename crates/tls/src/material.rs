//! Certificate, key and CAs as they are in files, checked together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::Error;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::sign::CertifiedKey;

use crate::certificate::{Facts, Identity, date, fingerprint};
use crate::explain::words;
use crate::pem::{FileError, Pem};
use crate::provider::provider;
use crate::trust::{Trust, is_unknown};

/// The files of a directory that is mounted for TLS, as Kubernetes names them.
const CERTIFICATE_FILE: &str = "tls.crt";
const KEY_FILE: &str = "tls.key";
const CA_FILE: &str = "ca.crt";

/// Where certificate, key and CAs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The CAs that are believed.
    pub ca: PathBuf,
    /// An own certificate, the ones behind it in the same file, and its key.
    pub own: Option<(PathBuf, PathBuf)>,
    /// The CAs of clients from outside; the file need not be there.
    pub client_ca: Option<PathBuf>,
    /// A certificate for names of outside, and its key; they need not be there.
    pub outside: Option<(PathBuf, PathBuf)>,
}

impl Paths {
    /// `tls.crt`, `tls.key` and `ca.crt` in a directory.
    pub fn in_directory(directory: &Path) -> Paths {
        let own = Some((directory.join(CERTIFICATE_FILE), directory.join(KEY_FILE)));
        Paths { ca: directory.join(CA_FILE), own, client_ca: None, outside: None }
    }

    /// The same with a certificate for names of outside, `tls.crt` and `tls.key` in another directory.
    pub fn with_outside(self, directory: &Path) -> Paths {
        let outside = Some((directory.join(CERTIFICATE_FILE), directory.join(KEY_FILE)));
        Paths { outside, ..self }
    }

    /// What a client finds in a directory: a CA is enough, and a certificate with its key may be there.
    pub fn for_client(directory: &Path) -> Paths {
        let mut paths = Paths::in_directory(directory);
        paths.own = paths.own.filter(|(certificate, _)| certificate.exists());
        paths
    }
}

/// Why files cannot be used. Each message is one line that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaterialError {
    /// One of the files by itself.
    #[error(transparent)]
    File(#[from] FileError),
    /// A bundle has something else in it.
    #[error("{} holds a certificate that cannot be a CA's; put the CA's there", path.display())]
    NoCa {
        /// The bundle.
        path: PathBuf,
    },
    /// A certificate is broken.
    #[error("{} holds a certificate that cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
    },
    /// The key is of a kind that is not supported.
    #[error("{} holds a key that cannot be used; make an ECDSA key, P-256", path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// Two files are of different times.
    #[error("{} is not the key of the certificate in {}; replace both together", key.display(), certificate.display())]
    OtherKey {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's.
        key: PathBuf,
    },
    /// It is over, or has not begun.
    #[error("the certificate in {} holds from {not_before} to {not_after}, and this machine's clock says {now}; \
             renew it, or set the clock", path.display())]
    Dates {
        /// The file.
        path: PathBuf,
        /// From when it holds.
        not_before: String,
        /// Until when.
        not_after: String,
        /// What time it is here.
        now: String,
    },
    /// Another CA has signed it.
    #[error("the certificate in {} is signed by {issuer}, and {trusted}; put its CA there, or take a certificate of \
             this cluster's CA", path.display())]
    OtherCa {
        /// The certificate's file.
        path: PathBuf,
        /// Who has signed it.
        issuer: String,
        /// The bundle, and whom it holds.
        trusted: String,
    },
    /// The own CA has signed it, and it cannot be a member's all the same.
    #[error("the certificate in {} cannot be a member's: {problem}; `kvorum cert member` makes one", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Nobody can ask for it.
    #[error("the certificate in {} is for no name; make one for the names by which clients come", path.display())]
    NoNames {
        /// The file.
        path: PathBuf,
    },
    /// It is somebody else's.
    #[error("the certificate in {} is that of {identity}, and a member's holds the URI kvorum:member; `kvorum cert \
             member` makes one", path.display())]
    NoMember {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        identity: Identity,
    },
}

/// Whether a bundle, a certificate and its key, in PEM, would be taken by a member now.
///
/// # Errors
/// What does not fit.
pub fn check_member(ca: &str, certificate: &str, key: &str) -> Result<(), MaterialError> {
    let raw = Raw::of(ca.as_bytes(), Some((certificate.as_bytes(), key.as_bytes())));
    Material::of(&raw)?.for_member().map(drop)
}

/// Whether a bundle, a certificate and its key, in PEM, fit together as far as whoever shows them can tell.
///
/// # Errors
/// What does not fit.
pub fn check_pair(ca: &str, certificate: &str, key: &str) -> Result<(), MaterialError> {
    Material::of(&Raw::of(ca.as_bytes(), Some((certificate.as_bytes(), key.as_bytes())))).map(drop)
}

/// The files' bytes. Equal bytes need not be looked at again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Raw {
    ca: Pem,
    own: Option<(Pem, Pem)>,
}

impl Raw {
    /// Reads the files. It may wait for the disk.
    pub(crate) fn read(paths: &Paths) -> Result<Raw, FileError> {
        let own = match &paths.own {
            Some((certificate, key)) => Some((Pem::read(certificate)?, Pem::read(key)?)),
            None => None,
        };
        Ok(Raw { ca: Pem::read(&paths.ca)?, own })
    }

    /// Bytes that are in no file.
    pub(crate) fn of(ca: &[u8], own: Option<(&[u8], &[u8])>) -> Raw {
        let own = own.map(|(certificate, key)| {
            (Pem::of("the certificate that was given", certificate), Pem::of("the key that was given", key))
        });
        Raw { ca: Pem::of("the CA that was given", ca), own }
    }
}

/// An own certificate.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    path: PathBuf,
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) facts: Facts,
    pub(crate) fingerprint: [u8; 32],
}

impl Own {
    fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }
}

/// Files that fit together.
#[derive(Clone, Debug)]
pub(crate) struct Material {
    pub(crate) trust: Arc<Trust>,
    pub(crate) own: Option<Own>,
}

impl Material {
    /// Checks what files hold: each by itself, key and certificate together, and the dates.
    pub(crate) fn of(raw: &Raw) -> Result<Material, MaterialError> {
        let trust = Arc::new(Trust::read(&raw.ca)?);
        let own = raw.own.as_ref().map(|(certificate, key)| own(certificate, key)).transpose()?;
        Ok(Material { trust, own })
    }

    /// Checks that it is a member's too: its own CA vouches for it as a server and as a client, and it says so.
    pub(crate) fn for_member(self) -> Result<Material, MaterialError> {
        let Some(own) = &self.own else { return Ok(self) };
        let now = UnixTime::now();
        let verified = self.trust.verify_server(own.chain(), now);
        let verified = verified.and_then(|()| self.trust.verify_client(own.chain(), now));
        verified.map_err(|error| self.refusal(own, &error))?;
        match own.facts.identity() {
            Identity::Member => Ok(self),
            identity => Err(MaterialError::NoMember { path: own.path.clone(), identity }),
        }
    }

    fn refusal(&self, own: &Own, error: &Error) -> MaterialError {
        let path = own.path.clone();
        if is_unknown(error) {
            let trusted = format!("{} holds {}", self.trust.source(), self.trust.names());
            return MaterialError::OtherCa { path, issuer: own.facts.issuer.clone(), trusted };
        }
        MaterialError::Unfit { path, problem: words(error) }
    }
}

/// A certificate and its key, which hold today.
pub(crate) fn own(certificate: &Pem, key: &Pem) -> Result<Own, MaterialError> {
    let chain = certificate.certificates()?;
    let unreadable = || MaterialError::Unreadable { path: certificate.path.clone() };
    let leaf = chain.first().ok_or_else(unreadable)?;
    let facts = Facts::read(leaf).map_err(|_| unreadable())?;
    let now = UnixTime::now();
    if !facts.holds_at(now) {
        return Err(MaterialError::Dates {
            path: certificate.path.clone(),
            not_before: date(facts.not_before),
            not_after: date(facts.not_after),
            now: date(i64::try_from(now.as_secs()).unwrap_or(i64::MAX)),
        });
    }
    let fingerprint = fingerprint(leaf);
    let signing = provider().key_provider.load_private_key(key.key()?);
    let signing = signing.map_err(|_| MaterialError::Key { path: key.path.clone() })?;
    let certified = CertifiedKey::new(chain, signing);
    let other = || MaterialError::OtherKey { certificate: certificate.path.clone(), key: key.path.clone() };
    certified.keys_match().map_err(|_| other())?;
    Ok(Own { path: certificate.path.clone(), key: Arc::new(certified), facts, fingerprint })
}
