//! The CAs that are believed, and who may come in by their word.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};

use crate::certificate::{Facts, Identity, bundle_fingerprint};
use crate::explain::explain;
use crate::material::MaterialError;
use crate::pem::Pem;
use crate::provider::{algorithms, provider};

/// CAs that are believed.
pub(crate) struct Trust {
    /// Where they came from, for whoever has to mount another file there.
    source: String,
    /// Their names, as errors tell them.
    names: Vec<String>,
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    fingerprint: [u8; 32],
    /// When the first of them ends.
    not_after: i64,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust({} in {})", self.names(), self.source)
    }
}

impl Trust {
    /// The CAs of a bundle, each of which must be one.
    pub(crate) fn read(pem: &Pem) -> Result<Trust, MaterialError> {
        let certificates = pem.certificates()?;
        let (mut roots, mut names, mut not_after) = (RootCertStore::empty(), Vec::new(), i64::MAX);
        for certificate in &certificates {
            let refuse = || MaterialError::NoCa { path: pem.path.clone() };
            let facts = Facts::read(certificate).map_err(|_| refuse())?;
            not_after = not_after.min(facts.not_after);
            names.push(facts.subject);
            roots.add(certificate.clone()).map_err(|_| refuse())?;
        }
        let roots = Arc::new(roots);
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider());
        let clients = clients.build().map_err(|_| MaterialError::NoCa { path: pem.path.clone() })?;
        let fingerprint = bundle_fingerprint(certificates.iter().map(|certificate| certificate.as_ref()));
        Ok(Trust { source: pem.path.display().to_string(), names, roots, clients, fingerprint, not_after })
    }

    /// The names of the CAs, for an error.
    pub(crate) fn names(&self) -> String {
        self.names.join(", ")
    }

    /// Where the CAs came from.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// The fingerprint of all of them.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// When the first of them ends, in seconds since 1970.
    pub(crate) fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Whether these CAs vouch for a client's certificate.
    pub(crate) fn verify_client(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let Some((leaf, others)) = chain.split_first() else { return Err(Error::NoCertificatesPresented) };
        self.clients.verify_client_cert(leaf, others, now).map(drop)
    }

    /// Whether these CAs vouch for a server's certificate, whatever its name.
    pub(crate) fn verify_server(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let Some((leaf, others)) = chain.split_first() else { return Err(Error::NoCertificatesPresented) };
        let parsed = rustls::server::ParsedCertificate::try_from(leaf)?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            others,
            now,
            algorithms().all,
        )
    }
}

/// The ports that speak TLS, by whom they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Members, the operator and root, by certificates of the cluster's own CA.
    Peer,
    /// Whoever wants in; a certificate that is shown must be a valid one.
    Client,
}

impl Port {
    /// Whether a handshake with this certificate's holder is finished.
    fn takes(self, identity: &Identity) -> bool {
        match (self, identity) {
            (Port::Client, _) | (Port::Peer, Identity::Member | Identity::Operator) => true,
            (Port::Peer, Identity::User(name)) => name == ROOT,
            (Port::Peer, Identity::Outside(_) | Identity::Nobody) => false,
        }
    }
}

/// The user who may do everything.
pub const ROOT: &str = "root";

/// Looks at the certificates of those who come in on a port.
#[derive(Debug)]
pub(crate) struct Doorkeeper {
    port: Port,
    own: Arc<Trust>,
    /// The CA for clients, on the client port only.
    outside: Option<Arc<Trust>>,
    hints: Vec<DistinguishedName>,
}

impl Doorkeeper {
    /// For a port, with the cluster's own CAs and, on the client port, those for clients.
    pub(crate) fn new(port: Port, own: Arc<Trust>, outside: Option<Arc<Trust>>) -> Doorkeeper {
        let outside = outside.filter(|_| port == Port::Client);
        let hints = std::iter::once(&own).chain(&outside).flat_map(|trust| trust.roots.subjects()).collect();
        Doorkeeper { port, own, outside, hints }
    }

    /// Whom a chain of certificates proves.
    pub(crate) fn identify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<Identity, Error> {
        let refused = match self.own.verify_client(chain, now) {
            Ok(()) => return Ok(facts(chain)?.identity()),
            Err(error) => error,
        };
        let Some(outside) = &self.outside else { return Err(refused) };
        match outside.verify_client(chain, now) {
            Ok(()) => Ok(facts(chain)?.outside_identity()),
            // What our own CA says of it counts, unless it is not our own CA's.
            Err(error) if is_unknown(&refused) => Err(error),
            Err(_) => Err(refused),
        }
    }

    fn explain(&self, leaf: &CertificateDer<'_>, error: &Error) {
        let Ok(facts) = Facts::read(leaf) else { return };
        let trusted = std::iter::once(&self.own).chain(&self.outside).map(|trust| trust.names());
        let trusted = trusted.collect::<Vec<_>>().join(", ");
        explain(match error {
            error if is_unknown(error) => format!(
                "the certificate of {} is signed by {}, and this port takes those of {trusted}",
                facts.subject, facts.issuer
            ),
            error => format!("the certificate of {}: {}", facts.subject, crate::explain::words(error)),
        });
    }
}

impl ClientCertVerifier for Doorkeeper {
    fn client_auth_mandatory(&self) -> bool {
        self.port == Port::Peer
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain: Vec<_> = std::iter::once(leaf).chain(others).cloned().collect();
        match self.identify(&chain, now) {
            Ok(identity) if self.port.takes(&identity) => Ok(ClientCertVerified::assertion()),
            Ok(identity) => {
                explain(format!(
                    "the certificate of {identity} is valid, and this port takes members, the operator and root only"
                ));
                Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
            Err(error) => {
                self.explain(leaf, &error);
                Err(error)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Whom a connection that is made here must lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Whoever has a certificate for the name that was dialled.
    Name,
    /// A member too, by its certificate.
    Member,
}

/// Looks at the certificates of those who are dialled.
#[derive(Debug)]
pub(crate) struct Caller {
    trust: Arc<Trust>,
    wanted: Wanted,
}

impl Caller {
    pub(crate) fn new(trust: Arc<Trust>, wanted: Wanted) -> Caller {
        Caller { trust, wanted }
    }

    fn check(&self, chain: &[CertificateDer<'_>], name: &ServerName<'_>, now: UnixTime) -> Result<(), Error> {
        self.trust.verify_server(chain, now)?;
        let leaf = chain.first().ok_or(Error::NoCertificatesPresented)?;
        rustls::client::verify_server_name(&rustls::server::ParsedCertificate::try_from(leaf)?, name)?;
        match self.wanted {
            Wanted::Member if facts(chain)?.identity() != Identity::Member => {
                explain("its certificate is not that of a member".to_owned());
                Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
            _ => Ok(()),
        }
    }
}

impl ServerCertVerifier for Caller {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain: Vec<_> = std::iter::once(leaf).chain(others).cloned().collect();
        let checked = self.check(&chain, name, now);
        if let Err(error) = &checked
            && is_unknown(error)
            && let Ok(facts) = Facts::read(leaf)
        {
            explain(format!(
                "its certificate is signed by {}, and {} holds {}: mount the CA of this cluster there (in Kubernetes \
                 the ConfigMap NAME-ca)",
                facts.issuer,
                self.trust.source(),
                self.trust.names()
            ));
        }
        checked.map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

fn facts(chain: &[CertificateDer<'_>]) -> Result<Facts, Error> {
    let leaf = chain.first().ok_or(Error::NoCertificatesPresented)?;
    Facts::read(leaf).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))
}

/// A wrong key under the right name looks like a bad signature: it is another CA all the same.
pub(crate) fn is_unknown(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)
    )
}

fn no_tls12() -> Error {
    Error::General("only TLS 1.3 is spoken here".into())
}
