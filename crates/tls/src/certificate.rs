//! What a certificate says: whom it names, who signed it, and when it holds.

use std::fmt;
use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::UnixTime;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

use crate::pem::{FileError, Pem};

/// The URI by which the certificate of a member is known.
pub(crate) const MEMBER_URI: &str = "kvorum:member";
/// The URI by which the certificate of the operator is known.
pub(crate) const OPERATOR_URI: &str = "kvorum:operator";
/// What all of Kvorum's own URIs begin with.
const URI_SCHEME: &str = "kvorum:";
/// The longest name that is taken for a user's. X.509 itself allows 64 characters.
const NAME_BYTES_MAX: usize = 256;
/// Bytes of a key's identifier that are printed.
const KEY_ID_BYTES: usize = 4;

/// Whom a certificate proves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A member of the cluster, by the cluster's own CA and a URI.
    Member,
    /// The operator, by the cluster's own CA and a URI.
    Operator,
    /// A user, by the cluster's own CA and a common name.
    User(String),
    /// A user, by the common name in a certificate of the CA for clients. It is never `root`.
    Outside(String),
    /// Nobody: the certificate is valid, and names no one that may be anything here.
    Nobody,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Member => f.write_str("a member"),
            Identity::Operator => f.write_str("the operator"),
            Identity::User(name) => write!(f, "user {name:?}"),
            Identity::Outside(name) => write!(f, "user {name:?} of the CA for clients"),
            Identity::Nobody => f.write_str("nobody"),
        }
    }
}

/// What is read out of a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its subject's common name, or the whole subject where there is none; with its key's identifier, if it has one.
    pub subject: String,
    /// Who signed it, written the same way.
    pub issuer: String,
    /// The only common name, if it is one that can be a user's.
    pub(crate) common_name: Option<String>,
    /// The URIs of Kvorum's own.
    uris: Vec<String>,
    /// The DNS names and addresses that it is for, in their own order.
    pub names: Vec<String>,
    /// From when it holds, in seconds since 1970.
    pub not_before: i64,
    /// Until when it holds, in seconds since 1970.
    pub not_after: i64,
}

/// Bytes that are no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no X.509 certificate")]
pub struct Unreadable;

impl Facts {
    /// Reads a certificate in DER. It proves nothing: whoever asks has verified it, or wants to say what is wrong.
    pub fn read(der: &[u8]) -> Result<Facts, Unreadable> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| Unreadable)?;
        if !rest.is_empty() {
            return Err(Unreadable);
        }
        let (mut uris, mut names, mut own_key, mut issuer_key) = (Vec::new(), Vec::new(), None, None);
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(alternatives) => {
                    uris.extend(alternatives.general_names.iter().filter_map(own_uri));
                    names.extend(alternatives.general_names.iter().filter_map(host));
                }
                ParsedExtension::SubjectKeyIdentifier(id) => own_key = Some(key_id(id.0)),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    issuer_key = id.key_identifier.as_ref().map(|id| key_id(id.0));
                }
                _ => {}
            }
        }
        let validity = certificate.validity();
        names.sort_unstable();
        Ok(Facts {
            subject: describe(certificate.subject(), own_key),
            issuer: describe(certificate.issuer(), issuer_key),
            common_name: only_common_name(certificate.subject()),
            uris,
            names,
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    /// The first certificate of a PEM text, see [`Facts::read`].
    pub fn of_pem(text: &str) -> Result<Facts, Unreadable> {
        Facts::all_of_pem(text)?.into_iter().next().ok_or(Unreadable)
    }

    /// All certificates of a PEM text, one at least.
    pub fn all_of_pem(text: &str) -> Result<Vec<Facts>, Unreadable> {
        let certificates = Pem::of("the certificates", text.as_bytes()).certificates();
        let certificates = certificates.map_err(|_| Unreadable)?;
        certificates.iter().map(|certificate| Facts::read(certificate)).collect()
    }

    /// Whom it names, given that the cluster's own CA has signed it. One that claims two things is nobody's.
    pub fn identity(&self) -> Identity {
        match (self.uris.as_slice(), &self.common_name) {
            ([uri], _) if uri == MEMBER_URI => Identity::Member,
            ([uri], _) if uri == OPERATOR_URI => Identity::Operator,
            ([], Some(name)) => Identity::User(name.clone()),
            _ => Identity::Nobody,
        }
    }

    /// Whom it names, given that the CA for clients has signed it: never root, nobody with the name of a
    /// ServiceAccount, and nobody who claims to be a member or the operator.
    pub fn outside_identity(&self) -> Identity {
        match (self.uris.as_slice(), &self.common_name) {
            ([], Some(name)) if name != "root" && !name.contains(':') => Identity::Outside(name.clone()),
            _ => Identity::Nobody,
        }
    }

    /// Whether it holds at a time.
    pub fn holds_at(&self, now: UnixTime) -> bool {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        (self.not_before..=self.not_after).contains(&now)
    }
}

/// Whether a certificate for these names is for this one, in lower case as rustls tells it: a `*` stands for one label, the
/// first.
pub(crate) fn covers(names: &[String], name: &str) -> bool {
    let rest = name.split_once('.').map(|(_, rest)| rest);
    names.iter().any(|own| match own.strip_prefix("*.") {
        Some(own) => rest.is_some_and(|rest| rest.eq_ignore_ascii_case(own)),
        None => own.eq_ignore_ascii_case(name),
    })
}

fn own_uri(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::URI(uri) if uri.starts_with(URI_SCHEME) => Some((*uri).to_owned()),
        _ => None,
    }
}

fn host(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string()),
            16 => Some(IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// Two common names could be read in two ways, and so count as none.
fn only_common_name(name: &X509Name<'_>) -> Option<String> {
    let mut names = name.iter_common_name();
    let (only, None) = (names.next()?, names.next()) else { return None };
    let text = only.as_str().ok()?;
    let fits = !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned())
}

fn describe(name: &X509Name<'_>, key: Option<String>) -> String {
    let name = only_common_name(name).unwrap_or_else(|| name.to_string());
    let name: String = name.chars().filter(|c| !c.is_control()).take(NAME_BYTES_MAX).collect();
    match key {
        Some(key) => format!("{name:?} (key {key})"),
        None => format!("{name:?}"),
    }
}

fn key_id(id: &[u8]) -> String {
    hex(&id[..id.len().min(KEY_ID_BYTES)])
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of a certificate in DER, by which members and operator speak of it.
pub fn fingerprint(der: &[u8]) -> [u8; 32] {
    digest(&SHA256, der).as_ref().try_into().expect("a SHA-256 has 32 bytes")
}

/// The SHA-256 of a bundle: of its certificates' fingerprints, in their own order, so that neither the order in
/// the file nor the space between certificates counts.
pub fn bundle_fingerprint<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut each: Vec<_> = certificates.into_iter().map(fingerprint).collect();
    each.sort_unstable();
    each.dedup();
    fingerprint(&each.concat())
}

/// The SHA-256 of a bundle in PEM, as a member that has loaded it reports it.
pub fn pem_fingerprint(bundle: &str) -> Result<[u8; 32], FileError> {
    let certificates = Pem::of("the bundle", bundle.as_bytes()).certificates()?;
    Ok(bundle_fingerprint(certificates.iter().map(|certificate| certificate.as_ref())))
}

/// The SHA-256 of the first certificate of a PEM text, as a member that shows it reports it.
pub fn pem_leaf_fingerprint(certificates: &str) -> Result<[u8; 32], FileError> {
    let certificates = Pem::of("the certificate", certificates.as_bytes()).certificates()?;
    Ok(fingerprint(&certificates[0]))
}

/// A time as people read it.
pub fn date(seconds: i64) -> String {
    let Ok(at) = OffsetDateTime::from_unix_timestamp(seconds) else { return format!("second {seconds}") };
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    format!("{year:04}-{:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC", u8::from(month))
}
