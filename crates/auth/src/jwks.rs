//! The keys that an issuer signs with, as it publishes them (RFC 7517).

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// The largest set, in bytes. A key of 4,096 bits has 800.
pub const JWKS_BYTES_MAX: usize = 64 * 1024;
/// Keys in a set. An API server has one to four, more only while it changes them.
pub const KEYS_MAX: usize = 64;
/// The longest name of a key, in bytes; Kubernetes' have 43.
pub(crate) const KEY_ID_BYTES_MAX: usize = 256;

/// RSA moduli of 2,048 to 8,192 bits, in base64url.
const MODULUS_CHARS: std::ops::RangeInclusive<usize> = 342..=1366;
const RSA: &[Algorithm] = &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];

/// Why no token of an issuer can be verified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// It has no name.
    #[error("the issuer of tokens has no name; it is what the API server has as --service-account-issuer")]
    NoName,
    /// The audience is not a cluster's of Kvorum. That of the API server never is: whoever gets a token for it could
    /// use it there.
    #[error("the audience {0:?} is no cluster's; it must be kvorum.io/NAMESPACE/NAME")]
    Audience(String),
    /// There is too much of it.
    #[error("the key set of the issuer has more than {JWKS_BYTES_MAX} bytes or {KEYS_MAX} keys")]
    TooLarge,
    /// It is something else.
    #[error("the key set of the issuer is no JWKS: {0}")]
    Malformed(String),
    /// All keys are of other kinds.
    #[error(
        "the key set of the issuer holds no key that can be used: RSA with 2,048 to 8,192 bits, P-256 or P-384, with a kid"
    )]
    NoKey,
}

/// The keys that can be used.
#[derive(Clone, Debug)]
pub(crate) struct Keys(Vec<Key>);

/// A public key.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    id: String,
    /// What it may have signed with. This is the key's to say, never the token's.
    algorithms: Vec<Algorithm>,
    pub(crate) decoding: DecodingKey,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Value>,
}

impl Keys {
    /// Reads a set. Keys of other kinds are left out: an issuer may have them for others.
    pub(crate) fn parse(jwks: &str) -> Result<Keys, IssuerError> {
        if jwks.len() > JWKS_BYTES_MAX {
            return Err(IssuerError::TooLarge);
        }
        let set: Jwks =
            serde_json::from_str(jwks).map_err(|error| IssuerError::Malformed(error.to_string()))?;
        if set.keys.len() > KEYS_MAX {
            return Err(IssuerError::TooLarge);
        }
        let keys: Vec<Key> = set.keys.into_iter().filter_map(usable).collect();
        if keys.is_empty() { Err(IssuerError::NoKey) } else { Ok(Keys(keys)) }
    }

    /// Whether there is a key of that name.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id == id)
    }

    /// The keys of that name which may have signed with this algorithm: one, or a few where names are not unique.
    pub(crate) fn of(&self, id: &str, algorithm: Algorithm) -> impl Iterator<Item = &Key> {
        self.0.iter().filter(move |key| key.id == id && key.algorithms.contains(&algorithm))
    }
}

/// The key, if tokens may be signed with one of its kind.
fn usable(value: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let kind = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) if MODULUS_CHARS.contains(&rsa.n.len()) => RSA,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => &[Algorithm::ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => &[Algorithm::ES384],
        _ => return None,
    };
    let algorithms = match jwk.common.key_algorithm {
        None => kind.to_vec(),
        Some(only) => vec![Algorithm::try_from(only).ok().filter(|only| kind.contains(only))?],
    };
    let id = jwk.common.key_id.clone().filter(|id| !id.is_empty() && id.len() <= KEY_ID_BYTES_MAX)?;
    Some(Key { id, algorithms, decoding: DecodingKey::from_jwk(&jwk).ok()? })
}
