//! Proofs of who somebody is.
//!
//! - [`Passwords`] hashes passwords, and verifies them at a bounded cost.
//! - [`SessionKey`] issues and opens the tokens that somebody gets for his password.
//! - [`TokenVerifier`] verifies the tokens of Kubernetes' ServiceAccounts, without Kubernetes.
//!
//! What somebody may do is not decided here.
//!
//! Architecture invariants: no clock is read, whoever asks says the time; no thread is made, whoever puts a node
//! together says where blocking work is done; random numbers are the system's, which a simulation replaces. No input
//! panics, and each has a bound. Passwords, keys and tokens are in no error and print as `***`.
#![forbid(unsafe_code)]

mod jwks;
mod jwt;
mod password;
mod session;
mod verified;

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};

pub use jwks::{IssuerError, JWKS_BYTES_MAX, KEYS_MAX};
pub use jwt::{
    JWT_BYTES_MAX, JwtError, LEEWAY_SECONDS, LIFE_SECONDS_MAX, ServiceAccount, TokenVerifier, is_jwt,
};
pub use password::{
    BadHash, BadPassword, NotDone, PASSWORD_BYTES_MAX, Password, PasswordHash, Passwords, VerifyError,
    WAITING_MAX, Work,
};
pub use session::{BadUser, KeyLength, SESSION_KEY_BYTES, Session, SessionError, SessionKey, USER_BYTES_MAX};
pub use verified::VERIFIED_MAX;

/// Bytes of a token's SHA-256 that are printed.
const FINGERPRINT_BYTES: usize = 6;

/// What a token may be called in a log: the first 12 hexadecimal digits of its SHA-256.
pub fn fingerprint(token: &str) -> String {
    let hash = digest(&SHA256, token.as_bytes());
    hash.as_ref().iter().take(FINGERPRINT_BYTES).fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all that is written");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_called_by_its_hash() {
        // SHA-256 of "abc", as FIPS 180 has it.
        assert_eq!(fingerprint("abc"), "ba7816bf8f01");
    }
}
