//! Passwords: argon2id, one at a time, with a bound on those who wait.

use std::fmt;
use std::sync::Arc;

use argon2::password_hash::{Error as HashError, PasswordHasher as _, PasswordVerifier as _, phc};
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Params, Version};
use rand::Rng as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use zeroize::Zeroizing;

use crate::verified::Verified;

/// The longest password, in bytes. Hashing takes all of it, so there must be an end.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// How many may wait for the one that is hashed. At some 30 ms each that is two seconds; whoever comes then is refused.
pub const WAITING_MAX: usize = 64;

/// What a hash costs (OWASP's advice for argon2id): memory, passes and lanes.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// What a hash of another release may cost. It is read from the replicated state, and must not stop who reads it.
const MEMORY_KIB_MAX: u32 = 64 * 1024;
const PASSES_MAX: u32 = 8;
const LANES_MAX: u32 = 4;
/// No hash in the PHC format is longer with these parameters, a salt of 64 bytes and as long an output.
const HASH_BYTES_MAX: usize = 256;
const SALT_BYTES: usize = 16;

/// What is compared for a user who does not exist, so that he costs what others cost: the hash of `nobody`, which lets
/// nobody in.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$jK2zi0DjsK1es5ZBPtonCQ$lJmxgcc28ZNviNBzXfLTPfhqqI5EqMoTjBtjIMSQuDQ";

/// A piece of work that keeps a thread busy for a while.
pub type Work = Box<dyn FnOnce() + Send>;

/// A password, which prints as `***` and is wiped when it is dropped.
pub struct Password(Zeroizing<String>);

/// A password that cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPassword {
    /// There is none.
    #[error("the password is empty; a user without one proves himself by a certificate or a token")]
    Empty,
    /// It is too long.
    #[error("the password is longer than {PASSWORD_BYTES_MAX} bytes; choose a shorter one")]
    TooLong,
}

impl Password {
    /// Takes a password of 1 to [`PASSWORD_BYTES_MAX`] bytes.
    pub fn new(text: String) -> Result<Password, BadPassword> {
        let text = Zeroizing::new(text);
        match text.len() {
            0 => Err(BadPassword::Empty),
            1..=PASSWORD_BYTES_MAX => Ok(Password(text)),
            _ => Err(BadPassword::TooLong),
        }
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

/// The hash of a password, as it may be stored: argon2id in the PHC string format.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    text: String,
    parsed: phc::PasswordHash,
}

/// A text that is no hash of a password, or one that would cost too much to verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is no hash of a password that this release can verify: that is argon2id in the PHC format, with at most \
     {MEMORY_KIB_MAX} KiB, {PASSES_MAX} passes and {LANES_MAX} lanes; set the password again"
)]
pub struct BadHash;

impl PasswordHash {
    /// Reads a hash.
    pub fn parse(text: &str) -> Result<PasswordHash, BadHash> {
        if text.len() > HASH_BYTES_MAX {
            return Err(BadHash);
        }
        let parsed = phc::PasswordHash::new(text).map_err(|_| BadHash)?;
        let params = Params::try_from(&parsed).map_err(|_| BadHash)?;
        let is_ours = parsed.algorithm == ARGON2ID_IDENT
            && parsed.version == Some(u32::from(Version::V0x13))
            && parsed.salt.is_some()
            && parsed.hash.is_some();
        // Each once and in order, so that nobody reads another cost out of it.
        let plain = Params::new(params.m_cost(), params.t_cost(), params.p_cost(), None);
        let is_plain =
            plain.is_ok_and(|plain| phc::ParamsString::try_from(&plain) == Ok(parsed.params.clone()));
        let is_cheap = params.m_cost() <= MEMORY_KIB_MAX
            && params.t_cost() <= PASSES_MAX
            && params.p_cost() <= LANES_MAX;
        if is_ours && is_plain && is_cheap {
            Ok(PasswordHash { text: text.to_owned(), parsed })
        } else {
            Err(BadHash)
        }
    }

    /// The text to store.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Takes what keeps a thread busy for tens of milliseconds.
    fn of(password: &Password) -> Result<PasswordHash, NotDone> {
        let mut salt = [0; SALT_BYTES];
        rand::rng().fill_bytes(&mut salt);
        let hashed = argon2().hash_password_with_salt(password.expose().as_bytes(), &salt);
        let parsed = hashed.map_err(NotDone::failed)?;
        Ok(PasswordHash { text: parsed.to_string(), parsed })
    }

    /// Whether the password is this one's. It takes as long as [`PasswordHash::of`].
    fn fits(&self, password: &Password) -> Result<bool, NotDone> {
        match argon2().verify_password(password.expose().as_bytes(), &self.parsed) {
            Ok(()) => Ok(true),
            Err(HashError::PasswordInvalid) => Ok(false),
            Err(error) => Err(NotDone::failed(error)),
        }
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(***)")
    }
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("the parameters are in range");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// Why a password was neither hashed nor compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// As many as may wait do so.
    #[error("too many requests: {WAITING_MAX} passwords wait to be checked; try again in a second or two")]
    Busy,
    /// The thread for it is gone.
    #[error("the node stops, and the password was not checked; ask another member")]
    GivenUp,
    /// The memory for a hash is not there.
    #[error("hash a password: {0}; the node needs {MEMORY_KIB} KiB of memory for it")]
    Failed(String),
}

impl NotDone {
    fn failed(error: HashError) -> NotDone {
        NotDone::Failed(error.to_string())
    }
}

/// Why somebody is not the user that he says he is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The password is another one, or there is no such user, or he has no password: which, is not said.
    #[error("authentication failed, invalid user ID or password")]
    Wrong,
    /// It is not known.
    #[error(transparent)]
    NotDone(#[from] NotDone),
}

/// Hashes and verifies passwords. Clones are the same one.
#[derive(Clone)]
pub struct Passwords(Arc<Inner>);

struct Inner {
    /// Where blocking work is done.
    begin: Box<dyn Fn(Work) + Send + Sync>,
    /// For the one that is hashed, and those who wait.
    places: Arc<Semaphore>,
    /// For the one that is hashed. Who waits for it is served in turn.
    turn: Arc<Semaphore>,
    verified: Verified,
    nobody: PasswordHash,
}

/// The place of somebody whose turn it is, for as long as a thread works for him, whether he still waits or not.
struct Turn {
    _place: OwnedSemaphorePermit,
    _turn: OwnedSemaphorePermit,
}

impl Passwords {
    /// Hashes where `begin` has work done: on a thread that may be busy for tens of milliseconds, away from those
    /// that serve. There is one such piece of work at a time.
    pub fn new(begin: impl Fn(Work) + Send + Sync + 'static) -> Passwords {
        Passwords(Arc::new(Inner {
            begin: Box::new(begin),
            places: Arc::new(Semaphore::new(1 + WAITING_MAX)),
            turn: Arc::new(Semaphore::new(1)),
            verified: Verified::new(),
            nobody: PasswordHash::parse(NOBODY).expect("it is a hash"),
        }))
    }

    /// Hashes a password with a fresh salt, for it to be stored.
    ///
    /// # Errors
    /// [`NotDone`]: too many wait, or the node stops, or its memory is full.
    pub async fn hash(&self, password: Password) -> Result<PasswordHash, NotDone> {
        let turn = self.turn().await?;
        self.run(turn, move || PasswordHash::of(&password)).await
    }

    /// Whether somebody who says `password` is `user`, whose stored hash is `stored`: none where there is no such user,
    /// or where he has no password, which costs the same. What was verified before costs microseconds.
    ///
    /// # Errors
    /// [`VerifyError::Wrong`] if he is not, and what [`Passwords::hash`] answers.
    pub async fn verify(
        &self,
        user: &str,
        stored: Option<&PasswordHash>,
        password: Password,
    ) -> Result<(), VerifyError> {
        let hash = stored.unwrap_or(&self.0.nobody);
        let proof = self.0.verified.proof(user, hash, &password);
        if self.0.verified.knows(&proof) {
            return Ok(());
        }
        let turn = self.turn().await?;
        // Many clients of one user come at once; the first of them has been verified meanwhile.
        if self.0.verified.knows(&proof) {
            return Ok(());
        }
        let (inner, hash, exists) = (self.0.clone(), hash.clone(), stored.is_some());
        let is_right = self.run(turn, move || {
            let is_right = hash.fits(&password)? && exists;
            if is_right {
                // Before the next has his turn, who may say the same.
                inner.verified.remember(proof);
            }
            Ok(is_right)
        });
        if is_right.await? { Ok(()) } else { Err(VerifyError::Wrong) }
    }

    /// Waits for its turn, if there is a place.
    async fn turn(&self) -> Result<Turn, NotDone> {
        let place = self.0.places.clone().try_acquire_owned().map_err(|_| NotDone::Busy)?;
        let turn = self.0.turn.clone().acquire_owned().await.expect("the semaphore is never closed");
        Ok(Turn { _place: place, _turn: turn })
    }

    /// Has the work done, and answers what comes of it. It goes on when nobody waits for it any more.
    async fn run<T, W>(&self, turn: Turn, work: W) -> Result<T, NotDone>
    where
        T: Send + 'static,
        W: FnOnce() -> Result<T, NotDone> + Send + 'static,
    {
        let (done, result) = oneshot::channel();
        (self.0.begin)(Box::new(move || {
            let _until_the_end = turn;
            _ = done.send(work());
        }));
        result.await.map_err(|_| NotDone::GivenUp)?
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Passwords").field(&self.0.verified).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_is_let_in_by_the_hash_that_stands_for_him() {
        let passwords = Passwords::new(|work| work());
        let password = || Password::new("nobody".into()).unwrap();
        let fits = passwords.0.nobody.fits(&password());
        assert_eq!(fits, Ok(true), "{}", PasswordHash::of(&password()).unwrap().as_str());
        for _ in 0..2 {
            assert_eq!(passwords.verify("ann", None, password()).await, Err(VerifyError::Wrong));
        }
    }
}
