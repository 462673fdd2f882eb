//! Who a caller is, by what he brings: a token, or else a certificate.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use kvorum_auth::{JwtError, LEEWAY_SECONDS, Session, SessionError, SessionKey, TokenVerifier, is_jwt};
use kvorum_store::Auth;
use kvorum_tls::Identity;
use tokio::time::{Duration, Instant};

use super::caller::{Caller, Proof, Proven, Token};
use crate::error::AuthError;

/// That a token of an unknown key came is told for so long: whoever looks at a member now and then sees it.
const UNKNOWN_KEY_TOLD: Duration = Duration::from_secs(60);

/// What tokens are verified by. It is made of the auth state, once for each auth revision.
#[derive(Default)]
pub(super) struct Proofs(Mutex<Option<Arc<Keys>>>);

/// The keys as of one auth revision.
struct Keys {
    auth_revision: u64,
    session: Option<SessionKey>,
    issuer: Option<TokenVerifier>,
    /// When a token came last whose key is not among the issuer's.
    unknown_key: Mutex<Option<Instant>>,
}

/// What time it is: for sessions by the cluster, which no member's clock moves, and for others' tokens by this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) cluster_ms: u64,
    pub(super) wall_ms: u64,
}

impl Now {
    #[expect(clippy::disallowed_methods, reason = "Kubernetes' tokens say by the wall clock when they end")]
    pub(super) fn new(cluster_ms: u64) -> Now {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { cluster_ms, wall_ms: since.as_millis() as u64 }
    }
}

impl Proofs {
    /// Who a caller is. A token goes before a certificate, as in etcd.
    pub(super) fn prove(&self, caller: &Caller, auth: &Auth, now: Now) -> Result<Proven, AuthError> {
        if let Some(token) = &caller.token {
            if !caller.secured {
                return Err(AuthError::InvalidToken("tokens are taken over TLS only"));
            }
            return self.prove_token(caller, token, auth, now);
        }
        match caller.peer.as_ref().map(|peer| &peer.identity) {
            Some(Identity::User(name) | Identity::Outside(name)) => {
                Ok(Proven { user: name.as_str().into(), by: Proof::Certificate })
            }
            Some(Identity::Member | Identity::Operator | Identity::Nobody) | None => {
                Err(AuthError::UserEmpty)
            }
        }
    }

    /// The last token of a connection is only compared, and looked at whether it has ended.
    fn prove_token(
        &self,
        caller: &Caller,
        token: &Token,
        auth: &Auth,
        now: Now,
    ) -> Result<Proven, AuthError> {
        if let Some(proven) = caller.last.proven(token, auth.revision()) {
            return if proven.by.has_ended(now) { Err(expired()) } else { Ok(proven) };
        }
        let text = token.text().ok_or(AuthError::InvalidToken("it is no text"))?;
        let keys = self.keys(auth);
        let proven = if is_jwt(text) { keys.open_jwt(text, now) } else { keys.open_session(text, now) }?;
        caller.last.remember(token.clone(), proven.clone(), auth.revision());
        Ok(proven)
    }

    /// Makes a token for somebody who has said his password.
    pub(super) fn issue(&self, auth: &Auth, session: &Session) -> Result<String, AuthError> {
        let keys = self.keys(auth);
        let key = keys.session.as_ref().ok_or(AuthError::NotEnabled)?;
        // A user's name is as long as one may be.
        key.issue(session).map_err(|_| AuthError::Failed)
    }

    /// Whether a token of an unknown key came lately, under the keys of this auth revision. Anybody can send one, which
    /// is why it is no more than a flag.
    pub(super) fn saw_unknown_key(&self, auth_revision: u64) -> bool {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        keys.filter(|keys| keys.auth_revision == auth_revision).is_some_and(|keys| {
            let last = *keys.unknown_key.lock().unwrap_or_else(PoisonError::into_inner);
            last.is_some_and(|last| last.elapsed() < UNKNOWN_KEY_TOLD)
        })
    }

    fn keys(&self, auth: &Auth) -> Arc<Keys> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*keys {
            Some(keys) if keys.auth_revision == auth.revision() => keys.clone(),
            _ => keys.insert(Arc::new(Keys::of(auth))).clone(),
        }
    }
}

impl Keys {
    fn of(auth: &Auth) -> Keys {
        let issuer = auth.issuer().and_then(|it| {
            let verifier = TokenVerifier::new(&it.issuer, &it.audience, &it.jwks);
            // Whoever declared it was told so.
            verifier.inspect_err(|error| tracing::error!(%error, "no ServiceAccount's token is taken")).ok()
        });
        let session = SessionKey::from_bytes(auth.session_key()).ok();
        Keys { auth_revision: auth.revision(), session, issuer, unknown_key: Mutex::default() }
    }

    fn open_session(&self, token: &str, now: Now) -> Result<Proven, AuthError> {
        let key = self.session.as_ref().ok_or(AuthError::InvalidToken("there are no sessions"))?;
        let session = key.open(token, now.cluster_ms).map_err(|error| match error {
            SessionError::Malformed => AuthError::InvalidToken("it is no token of this release"),
            SessionError::Forged => AuthError::InvalidToken("it was not issued under this cluster's key"),
            SessionError::Expired => expired(),
        })?;
        let by =
            Proof::Session { password_revision: session.password_generation, expires_ms: session.expires_ms };
        Ok(Proven { user: session.user.into(), by })
    }

    fn open_jwt(&self, token: &str, now: Now) -> Result<Proven, AuthError> {
        let none = AuthError::InvalidToken("no ServiceAccounts are declared");
        let account = self.issuer.as_ref().ok_or(none)?.verify(token, now.wall_ms);
        let account = account.map_err(|error| {
            if matches!(error, JwtError::UnknownKey { .. }) {
                *self.unknown_key.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
            AuthError::InvalidServiceAccount(error.to_string())
        })?;
        Ok(Proven { user: account.user.into(), by: Proof::ServiceAccount { expires_ms: account.expires_ms } })
    }
}

impl Proof {
    /// Whether it proves nothing any more.
    fn has_ended(self, now: Now) -> bool {
        match self {
            Proof::Certificate => false,
            Proof::Session { expires_ms, .. } => expires_ms <= now.cluster_ms,
            Proof::ServiceAccount { expires_ms } => {
                expires_ms.saturating_add(LEEWAY_SECONDS * 1000) <= now.wall_ms
            }
        }
    }

    /// Whether a stream ends that was opened with it, a minute after the token's end: by then its client has a fresh
    /// one. A stream of a session goes on.
    pub(super) fn ends_stream(self, now: impl FnOnce() -> Now) -> bool {
        matches!(self, Proof::ServiceAccount { .. }) && self.has_ended(now())
    }
}

fn expired() -> AuthError {
    AuthError::InvalidToken("it has expired")
}
