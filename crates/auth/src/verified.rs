//! Passwords that were verified before, so that a client that comes back does not cost a hash again.

use std::fmt;

use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key};
use quick_cache::sync::Cache;
use rand::Rng as _;

use crate::password::{Password, PasswordHash};

/// Passwords that are remembered. Those that are asked for least are forgotten first, and verified anew.
pub const VERIFIED_MAX: usize = 16_384;

/// The bytes of a [`Proof`].
const PROOF_BYTES: usize = 32;

/// User, hash and password in one number, which tells nobody without the key any of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Proof([u8; PROOF_BYTES]);

/// What was verified, under a key that is this process' own. Another password of the user has another hash, so what
/// is remembered of the one before is no good any more.
pub(crate) struct Verified {
    key: Key,
    proofs: Cache<Proof, ()>,
}

impl Verified {
    pub(crate) fn new() -> Verified {
        let mut key = [0; PROOF_BYTES];
        rand::rng().fill_bytes(&mut key);
        Verified { key: Key::new(HMAC_SHA256, &key), proofs: Cache::new(VERIFIED_MAX) }
    }

    /// What stands for this user with this password, under this hash.
    pub(crate) fn proof(&self, user: &str, hash: &PasswordHash, password: &Password) -> Proof {
        let mut context = Context::with_key(&self.key);
        for part in [user, hash.as_str(), password.expose()] {
            // With its length, so that no part can be taken for the end of the one before.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let tag = context.sign();
        Proof(tag.as_ref().try_into().expect("HMAC-SHA256 has 32 bytes"))
    }

    pub(crate) fn knows(&self, proof: &Proof) -> bool {
        self.proofs.get(proof).is_some()
    }

    pub(crate) fn remember(&self, proof: Proof) {
        self.proofs.insert(proof, ());
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verified({} passwords)", self.proofs.len())
    }
}

#[cfg(test)]
mod tests {
    //! Goal: only the very same user, hash and password is remembered, and only so many. Method: no password is
    //! ever hashed here.
    use super::*;

    fn hash(salt: &str) -> PasswordHash {
        let text =
            format!("$argon2id$v=19$m=19456,t=2,p=1${salt}$DE0Mz7BBz5c9T4DvUHcRPDDf4sDcBKNnyPbbuTfjBMg");
        PasswordHash::parse(&text).unwrap()
    }

    fn password(text: &str) -> Password {
        Password::new(text.into()).unwrap()
    }

    #[test]
    fn another_user_hash_or_password_is_not_known() {
        let verified = Verified::new();
        let [one, two] = ["c2FsdHNhbHQ", "c2FsdHNhbHU"].map(hash);
        verified.remember(verified.proof("ann", &one, &password("secret")));
        assert!(verified.knows(&verified.proof("ann", &one, &password("secret"))));
        for (user, hash, text) in [
            ("bob", &one, "secret"),
            ("ann", &two, "secret"),
            ("ann", &one, "Secret"),
            ("an", &one, "nsecret"),
        ] {
            assert!(!verified.knows(&verified.proof(user, hash, &password(text))), "{user} {text}");
        }
        let long = password(&format!("{}secret", two.as_str()));
        verified.remember(verified.proof("ann", &one, &long));
        let user = format!("ann{}", one.as_str());
        assert!(
            !verified.knows(&verified.proof(&user, &two, &password("secret"))),
            "one part is taken for another"
        );
        let other = Verified::new();
        other.remember(verified.proof("ann", &one, &password("secret")));
        assert!(
            !other.knows(&other.proof("ann", &one, &password("secret"))),
            "the key is not the process' own"
        );
    }

    #[test]
    fn so_many_are_remembered_and_no_more() {
        let (verified, hash) = (Verified::new(), hash("c2FsdHNhbHQ"));
        for number in 0..VERIFIED_MAX * 2 {
            verified.remember(verified.proof(&number.to_string(), &hash, &password("secret")));
        }
        assert!(verified.proofs.len() <= VERIFIED_MAX, "{verified:?}");
        assert!(verified.proofs.len() >= VERIFIED_MAX / 2, "{verified:?}");
    }
}
