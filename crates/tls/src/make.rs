//! Making CAs and certificates of them: for the operator, for clusters without one, and for tests.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use time::OffsetDateTime;

use crate::certificate::{Facts, MEMBER_URI};
use crate::pem::Pem;

/// A CA's life: five years.
pub const CA_LIFE: Duration = Duration::from_secs(5 * 365 * 24 * 3600);
/// A certificate's: ninety days.
pub const LEAF_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// Certificates begin so long ago, for machines whose clocks are late.
const BACKDATED: Duration = Duration::from_secs(3600);
/// Further CAs that a CA may sign: one, for the certificate that carries a new CA's name while it is rotated.
const PATH_LENGTH: u8 = 1;

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// A name cannot be in a certificate.
    #[error("{name:?} cannot be the name of a machine in a certificate; give a DNS name or an IP address")]
    Name {
        /// The name.
        name: String,
    },
    /// A user's name cannot be one.
    #[error("{name:?} cannot be the name of a user; give 1 to 64 characters")]
    User {
        /// The name.
        name: String,
    },
    /// The CA's certificate or key.
    #[error("the CA's certificate and key cannot be used: {0}")]
    Ca(String),
    /// The library.
    #[error("make a certificate: {0}")]
    Other(#[from] rcgen::Error),
}

/// A certificate and its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Made {
    /// The certificate.
    pub certificate: String,
    /// Its private key: PKCS #8.
    pub key: String,
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Made").field("certificate", &self.certificate).field("key", &"***").finish()
    }
}

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A member, which is reached by these DNS names and addresses.
    Member(Vec<String>),
    /// The operator.
    Operator,
    /// A user.
    User(String),
}

/// Makes a CA with this name.
pub fn ca(name: &str, life: Duration) -> Result<Made, MakeError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = dated(life);
    params.distinguished_name = common_name(name)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(PATH_LENGTH));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    Ok(Made { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Has a CA sign a certificate.
pub fn leaf(ca: &Made, subject: &Subject, life: Duration) -> Result<Made, MakeError> {
    let issuer = issuer(ca)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params(subject, life)?.signed_by(&key, &issuer)?;
    Ok(Made { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Has a CA sign the name and key of another, so that whoever believes the first only believes what the second signs.
///
/// It holds as long as both do.
pub fn cross(ca: &Made, other: &Made) -> Result<String, MakeError> {
    let refuse = |problem: &dyn std::fmt::Display| MakeError::Ca(problem.to_string());
    let facts = |made: &Made| Facts::of_pem(&made.certificate).map_err(|error| refuse(&error));
    let (first, second) = (facts(ca)?, facts(other)?);
    let name = second.common_name.clone().ok_or_else(|| refuse(&"the other CA has no common name"))?;
    let mut params = dated(Duration::ZERO);
    let end = OffsetDateTime::from_unix_timestamp(first.not_after.min(second.not_after));
    params.not_after = end.map_err(|error| refuse(&error))?;
    params.distinguished_name = common_name(&name)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(PATH_LENGTH - 1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::from_pem(&other.key).map_err(|error| refuse(&error))?;
    Ok(params.signed_by(&key, &issuer(ca)?)?.pem())
}

fn issuer(ca: &Made) -> Result<Issuer<'static, KeyPair>, MakeError> {
    let refuse = |problem: &dyn std::fmt::Display| MakeError::Ca(problem.to_string());
    let certificates = Pem::of("the CA's certificate", ca.certificate.as_bytes()).certificates();
    let certificates = certificates.map_err(|error| refuse(&error))?;
    let newest = certificates.first().ok_or_else(|| refuse(&"there is none"))?;
    let key = KeyPair::from_pem(&ca.key).map_err(|error| refuse(&error))?;
    Issuer::from_ca_cert_der(newest, key).map_err(|error| refuse(&error))
}

fn params(subject: &Subject, life: Duration) -> Result<CertificateParams, MakeError> {
    let mut params = dated(life);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    match subject {
        Subject::Member(names) => {
            params.distinguished_name = common_name("kvorum member")?;
            params.subject_alt_names = vec![SanType::URI(MEMBER_URI.try_into()?)];
            for name in names {
                params.subject_alt_names.push(alt_name(name)?);
            }
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        Subject::Operator => {
            params.distinguished_name = common_name("kvorum operator")?;
            params.subject_alt_names = vec![SanType::URI(crate::certificate::OPERATOR_URI.try_into()?)];
        }
        Subject::User(name) => params.distinguished_name = common_name(name)?,
    }
    Ok(params)
}

fn alt_name(name: &str) -> Result<SanType, MakeError> {
    let refuse = || MakeError::Name { name: name.to_owned() };
    if let Ok(address) = name.parse() {
        return Ok(SanType::IpAddress(address));
    }
    let label = |label: &str| {
        !label.is_empty() && label.len() <= 63 && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    // A name for many machines has its star in front.
    let fits = name.len() <= 253 && name.strip_prefix("*.").unwrap_or(name).split('.').all(label);
    if !fits {
        return Err(refuse());
    }
    Ok(SanType::DnsName(name.try_into().map_err(|_| refuse())?))
}

fn common_name(name: &str) -> Result<DistinguishedName, MakeError> {
    let count = name.chars().count();
    if count == 0 || count > 64 || name.chars().any(char::is_control) {
        return Err(MakeError::User { name: name.to_owned() });
    }
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    Ok(subject)
}

fn dated(life: Duration) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (now - BACKDATED, now + life);
    params
}
