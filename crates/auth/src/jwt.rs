//! The tokens of Kubernetes' ServiceAccounts: JWTs that its API server signs, verified with its public keys and
//! without asking it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, crypto};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::jwks::{IssuerError, KEY_ID_BYTES_MAX, Keys};

/// The longest token, in bytes. One of Kubernetes has 1,300.
pub const JWT_BYTES_MAX: usize = 16 * 1024;
/// How far clocks may differ.
pub const LEEWAY_SECONDS: u64 = 60;
/// The longest life of a token: one that was stolen must end.
pub const LIFE_SECONDS_MAX: u64 = 24 * 60 * 60;

/// What the audience of every cluster begins with.
const AUDIENCE_PREFIX: &str = "kvorum.io/";
/// What the API server is called as an audience, where it is not called by its issuer's name.
const API_SERVER: &str = "https://kubernetes.default.svc";
const SUBJECT_PREFIX: &str = "system:serviceaccount:";
/// The longest names of a namespace (a label) and of a ServiceAccount (a subdomain), by RFC 1123.
const NAMESPACE_BYTES_MAX: usize = 63;
const ACCOUNT_BYTES_MAX: usize = 253;

/// Verifies the tokens of one issuer for one cluster.
#[derive(Clone, Debug)]
pub struct TokenVerifier {
    issuer: String,
    audience: String,
    keys: Keys,
}

/// Whom a token proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub user: String,
    /// The token's `exp`, in milliseconds since 1970, without any leeway.
    pub expires_ms: u64,
}

/// Why a token proves nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// It is too long.
    #[error("the token is longer than {JWT_BYTES_MAX} bytes; it is no token of a ServiceAccount")]
    TooLarge,
    /// It cannot be read.
    #[error("it is no JWT that can be read; send the whole token of a ServiceAccount")]
    Malformed,
    /// It is signed in a way that is not taken, or that its key does not sign in.
    #[error("the token's algorithm is not one of RS256, RS384, RS512, ES256 and ES384, or not its key's")]
    Algorithm,
    /// Its key is not among the issuer's. The issuer may have a new one: whoever can should read its key set again, but
    /// not at the pace of these, which anybody can send.
    #[error(
        "the token's key {kid:?} is not known here; if the cluster has a new signing key, try again in a minute"
    )]
    UnknownKey {
        /// The key's name, at most 256 bytes that somebody has made up perhaps.
        kid: String,
    },
    /// It was changed, or another key of that name has signed it.
    #[error("the token's signature is wrong; get a new token")]
    Signature,
    /// It is another issuer's.
    #[error("the token's issuer is not {wanted:?}; use a token of the Kubernetes that the cluster runs on")]
    Issuer {
        /// Whose tokens are taken.
        wanted: String,
    },
    /// It is meant for somebody else.
    #[error(
        "the token is not meant for this cluster; request one with the audience {wanted:?}, as in a projected volume"
    )]
    Audience {
        /// Whom a token must be meant for.
        wanted: String,
    },
    /// It is meant for the API server, too: it must be shown to nobody else.
    #[error("the token is meant for the API server, too; request one whose only audience is {wanted:?}")]
    ApiServer {
        /// Whom a token must be meant for.
        wanted: String,
    },
    /// It is over.
    #[error("the token expired at {expires} s since 1970; read its file again")]
    Expired {
        /// Its `exp`.
        expires: u64,
    },
    /// It has not begun.
    #[error(
        "the token is not valid before {begins} s since 1970; compare the clocks of its issuer and the cluster"
    )]
    TooEarly {
        /// Its `nbf` or `iat`, the later of the two.
        begins: u64,
    },
    /// It lives too long, or says not how long.
    #[error("the token lives longer than {LIFE_SECONDS_MAX} s, or for ever; request one with a shorter life")]
    Life,
    /// It is not a ServiceAccount's.
    #[error("the token's subject is not {SUBJECT_PREFIX}NAMESPACE:NAME; use a token of a ServiceAccount")]
    Subject,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    aud: Option<Audience>,
    sub: Option<String>,
    exp: Option<u64>,
    iat: Option<u64>,
    nbf: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Whether a token is a JWT rather than a session token, by its first letters: those of `{"` in base64.
pub fn is_jwt(token: &str) -> bool {
    token.starts_with("eyJ")
}

impl TokenVerifier {
    /// For the tokens of `issuer`, which signs with one of the keys of `jwks`, and that are meant for `audience`,
    /// `kvorum.io/NAMESPACE/NAME`.
    ///
    /// # Errors
    /// [`IssuerError`] where no token could ever be verified.
    pub fn new(issuer: &str, audience: &str, jwks: &str) -> Result<TokenVerifier, IssuerError> {
        if issuer.is_empty() {
            return Err(IssuerError::NoName);
        }
        if !is_cluster(audience) || audience == issuer {
            return Err(IssuerError::Audience(audience.into()));
        }
        Ok(TokenVerifier {
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            keys: Keys::parse(jwks)?,
        })
    }

    /// Whom a token proves at a moment, in milliseconds since 1970.
    ///
    /// # Errors
    /// [`JwtError`] says what is wrong with it. Only what is said after [`JwtError::Signature`] is the issuer's word.
    pub fn verify(&self, token: &str, now_ms: u64) -> Result<ServiceAccount, JwtError> {
        if token.len() > JWT_BYTES_MAX {
            return Err(JwtError::TooLarge);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(JwtError::Malformed)?;
        self.check_signature(&decode(header)?, message, signature)?;
        self.check_claims(decode(claims)?, now_ms / 1000)
    }

    fn check_signature(&self, header: &Header, message: &str, signature: &str) -> Result<(), JwtError> {
        let algorithm = algorithm(&header.alg).ok_or(JwtError::Algorithm)?;
        // What is critical must be understood (RFC 7515), and nothing of the kind is.
        if header.crit.is_some() {
            return Err(JwtError::Malformed);
        }
        let kid = header.kid.as_deref().filter(|kid| kid.len() <= KEY_ID_BYTES_MAX);
        let kid = kid.ok_or(JwtError::Malformed)?;
        if !self.keys.has(kid) {
            return Err(JwtError::UnknownKey { kid: kid.to_owned() });
        }
        let mut keys = self.keys.of(kid, algorithm).peekable();
        if keys.peek().is_none() {
            return Err(JwtError::Algorithm);
        }
        let is_signed = keys.any(|key| {
            crypto::verify(signature, message.as_bytes(), &key.decoding, algorithm).unwrap_or(false)
        });
        if is_signed { Ok(()) } else { Err(JwtError::Signature) }
    }

    fn check_claims(&self, claims: Claims, now: u64) -> Result<ServiceAccount, JwtError> {
        if claims.iss.as_ref() != Some(&self.issuer) {
            return Err(JwtError::Issuer { wanted: self.issuer.clone() });
        }
        self.check_audience(claims.aud)?;
        let (Some(exp), Some(iat)) = (claims.exp, claims.iat) else { return Err(JwtError::Life) };
        let begins = claims.nbf.unwrap_or(iat).max(iat);
        if exp.saturating_add(LEEWAY_SECONDS) <= now {
            return Err(JwtError::Expired { expires: exp });
        }
        if begins > now.saturating_add(LEEWAY_SECONDS) {
            return Err(JwtError::TooEarly { begins });
        }
        if exp.saturating_sub(iat) > LIFE_SECONDS_MAX {
            return Err(JwtError::Life);
        }
        let user = claims.sub.filter(|sub| is_service_account(sub)).ok_or(JwtError::Subject)?;
        Ok(ServiceAccount { user, expires_ms: exp.saturating_mul(1000) })
    }

    fn check_audience(&self, audience: Option<Audience>) -> Result<(), JwtError> {
        let audiences = match audience {
            None => vec![],
            Some(Audience::One(one)) => vec![one],
            Some(Audience::Many(many)) => many,
        };
        let wanted = || self.audience.clone();
        // The API server is its issuer's name, unless it is told otherwise.
        if audiences.iter().any(|audience| *audience == self.issuer || audience.starts_with(API_SERVER)) {
            return Err(JwtError::ApiServer { wanted: wanted() });
        }
        if audiences.contains(&self.audience) {
            return Ok(());
        }
        Err(JwtError::Audience { wanted: wanted() })
    }
}

/// The algorithms that are taken: none that the holder of a public key could sign with.
fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "RS256" => Some(Algorithm::RS256),
        "RS384" => Some(Algorithm::RS384),
        "RS512" => Some(Algorithm::RS512),
        "ES256" => Some(Algorithm::ES256),
        "ES384" => Some(Algorithm::ES384),
        _ => None,
    }
}

fn decode<T: DeserializeOwned>(part: &str) -> Result<T, JwtError> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| JwtError::Malformed)
}

/// Whether it is `kvorum.io/NAMESPACE/NAME`.
fn is_cluster(audience: &str) -> bool {
    let names = audience.strip_prefix(AUDIENCE_PREFIX).and_then(|names| names.split_once('/'));
    names.is_some_and(|(namespace, name)| is_namespace(namespace) && is_subdomain(name))
}

/// Whether it is `system:serviceaccount:NAMESPACE:NAME`.
fn is_service_account(subject: &str) -> bool {
    let names = subject.strip_prefix(SUBJECT_PREFIX).and_then(|names| names.split_once(':'));
    names.is_some_and(|(namespace, name)| is_namespace(namespace) && is_subdomain(name))
}

fn is_namespace(name: &str) -> bool {
    name.len() <= NAMESPACE_BYTES_MAX && is_label(name)
}

fn is_subdomain(name: &str) -> bool {
    name.len() <= ACCOUNT_BYTES_MAX && name.split('.').all(is_label)
}

fn is_label(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.bytes().all(is_inner) && !name.is_empty() && !name.starts_with('-') && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_a_service_account_or_nobody() {
        let longest = format!("system:serviceaccount:{}:{}", "n".repeat(63), "a".repeat(253));
        assert!(longest.len() <= crate::USER_BYTES_MAX);
        for right in ["system:serviceaccount:default:app", "system:serviceaccount:a-1:b.c-d.0", &longest] {
            assert!(is_service_account(right), "{right}");
        }
        for wrong in [
            "",
            "root",
            "system:serviceaccount:",
            "system:serviceaccount:default",
            "system:serviceaccount:default:",
            "system:serviceaccount::app",
            "system:serviceaccount:default:app:root",
            "system:serviceaccount:default:App",
            "system:serviceaccount:default:-app",
            "system:serviceaccount:default:app-",
            "system:serviceaccount:default:a..b",
            "system:serviceaccount:de.fault:app",
            "system:serviceaccount:default:äpp",
            "system:serviceaccount:default:app\n",
            "system:serviceaccount:default:app\0",
            " system:serviceaccount:default:app",
            "SYSTEM:serviceaccount:default:app",
            "system:node:app",
            &format!("system:serviceaccount:{}:a", "n".repeat(64)),
            &format!("system:serviceaccount:n:{}", "a".repeat(254)),
        ] {
            assert!(!is_service_account(wrong), "{wrong}");
        }
    }
}
