//! Session tokens: what somebody gets for his password. They are opaque to him, and nobody remembers them: every
//! member that has the key can open them, also after a restart.
//!
//! A token is base64url, without padding, of: version (1 byte), generation of the password (8 bytes, big-endian),
//! end in cluster time (milliseconds, 8 bytes, big-endian), the user's name, and HMAC-SHA256 of all that (32 bytes).
//! Members of several releases open each other's, so what version 1 is must stay.

use std::fmt;

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng as _;
use zeroize::Zeroizing;

/// Bytes of a [`SessionKey`].
pub const SESSION_KEY_BYTES: usize = 32;
/// The longest name of a user, in bytes. That of a ServiceAccount has at most 339.
pub const USER_BYTES_MAX: usize = 512;

/// The first byte of a token. It makes the first letter an `A`, which tells it from a JWT.
const VERSION: u8 = 1;
const TAG_BYTES: usize = 32;
/// Version, generation and end.
const HEAD_BYTES: usize = 1 + 8 + 8;
/// The longest token, in base64url.
const TOKEN_BYTES_MAX: usize = (HEAD_BYTES + USER_BYTES_MAX + TAG_BYTES).div_ceil(3) * 4;

/// The key of all tokens of a cluster. It prints as `***`.
#[derive(Clone)]
pub struct SessionKey {
    bytes: Zeroizing<[u8; SESSION_KEY_BYTES]>,
    key: hmac::Key,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Whose it is, 1 to [`USER_BYTES_MAX`] bytes.
    pub user: String,
    /// Which of his passwords he said: a later one ends the sessions of those before.
    pub password_generation: u64,
    /// When it ends, in milliseconds of cluster time.
    pub expires_ms: u64,
}

/// Bytes that are no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a session key has {SESSION_KEY_BYTES} bytes, and this one {0}")]
pub struct KeyLength(usize);

/// A name that is no user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a user's name has 1 to {USER_BYTES_MAX} bytes, and this one {0}")]
pub struct BadUser(usize);

/// Why a token opens no session. In each case its holder says his password again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// It never was a token of this release.
    #[error("it is no session token of this release; authenticate again")]
    Malformed,
    /// It was changed, or is another cluster's, or the key has changed since.
    #[error("it was not issued under this cluster's key; authenticate again")]
    Forged,
    /// It has ended.
    #[error("the session has expired; authenticate again")]
    Expired,
}

impl SessionKey {
    /// A fresh one.
    pub fn generate() -> SessionKey {
        let mut bytes = Zeroizing::new([0; SESSION_KEY_BYTES]);
        rand::rng().fill_bytes(bytes.as_mut());
        SessionKey::of(bytes)
    }

    /// The one of these bytes.
    ///
    /// # Errors
    /// [`KeyLength`] where they are not [`SESSION_KEY_BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Result<SessionKey, KeyLength> {
        let bytes = bytes.try_into().map_err(|_| KeyLength(bytes.len()))?;
        Ok(SessionKey::of(Zeroizing::new(bytes)))
    }

    /// Its bytes, which must reach nobody but members.
    pub fn expose(&self) -> &[u8; SESSION_KEY_BYTES] {
        &self.bytes
    }

    /// Makes a token that opens this session.
    ///
    /// # Errors
    /// [`BadUser`] where the name is empty or too long.
    pub fn issue(&self, session: &Session) -> Result<String, BadUser> {
        let user = session.user.as_bytes();
        if !(1..=USER_BYTES_MAX).contains(&user.len()) {
            return Err(BadUser(user.len()));
        }
        let mut token = Vec::with_capacity(HEAD_BYTES + user.len() + TAG_BYTES);
        token.push(VERSION);
        token.extend(session.password_generation.to_be_bytes());
        token.extend(session.expires_ms.to_be_bytes());
        token.extend(user);
        let tag = hmac::sign(&self.key, &token);
        token.extend(tag.as_ref());
        Ok(URL_SAFE_NO_PAD.encode(token))
    }

    /// Opens a token at a moment of cluster time, in milliseconds. Whether the user exists still, and whether his
    /// password is of that generation, is the caller's to ask.
    ///
    /// # Errors
    /// [`SessionError`]: it is no token, not ours, or over.
    pub fn open(&self, token: &str, now_ms: u64) -> Result<Session, SessionError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(SessionError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| SessionError::Malformed)?;
        let (said, tag) = bytes.split_last_chunk::<TAG_BYTES>().ok_or(SessionError::Malformed)?;
        let session = parse(said).ok_or(SessionError::Malformed)?;
        hmac::verify(&self.key, said, tag).map_err(|_| SessionError::Forged)?;
        if session.expires_ms <= now_ms { Err(SessionError::Expired) } else { Ok(session) }
    }

    fn of(bytes: Zeroizing<[u8; SESSION_KEY_BYTES]>) -> SessionKey {
        let key = hmac::Key::new(HMAC_SHA256, bytes.as_ref());
        SessionKey { bytes, key }
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(***)")
    }
}

/// Reads all but the tag. Nothing of it is believed yet.
fn parse(said: &[u8]) -> Option<Session> {
    let (&[version], rest) = said.split_first_chunk()?;
    let (generation, rest) = rest.split_first_chunk()?;
    let (expires, user) = rest.split_first_chunk()?;
    let user = std::str::from_utf8(user).ok()?;
    let fits = version == VERSION && (1..=USER_BYTES_MAX).contains(&user.len());
    fits.then(|| Session {
        user: user.to_owned(),
        password_generation: u64::from_be_bytes(*generation),
        expires_ms: u64::from_be_bytes(*expires),
    })
}
