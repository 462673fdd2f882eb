//! What the door does with users, roles and rights themselves.

use std::sync::Arc;

use bytes::Bytes;
use kvorum_auth::{NotDone, Password, PasswordHash, SessionKey, TokenVerifier, VerifyError};
use kvorum_store::Auth;
use kvorum_store::command::{AuthKind, AuthMode, Enable, Kind, ReplaceAccess, TokenIssuer, UserPassword};
use kvorum_store::feature;
use tokio::time::Instant;

use super::{Asker, Consistency, Requests};
use crate::access::{Caller, Needs};
use crate::error::{AuthError, MembershipError, RequestError};

impl Requests {
    /// Users, roles and rights as they are now, for who may see them.
    pub async fn auth(
        &self,
        caller: &Caller,
        needs: Needs<'_>,
        deadline: Instant,
    ) -> Result<Arc<Auth>, RequestError> {
        match needs {
            Needs::Oneself(name) => caller.trail.concerns(format_args!("user {name}")),
            Needs::OwnRole(name) => caller.trail.concerns(format_args!("role {name}")),
            _ => {}
        }
        self.is_current(Consistency::Linearizable, deadline).await?;
        self.0.authorizer.check(caller, needs)?;
        Ok(self.store().auth())
    }

    /// Changes users, roles or rights, for who may.
    pub async fn change_auth(
        &self,
        caller: &Caller,
        mut change: AuthKind,
        deadline: Instant,
    ) -> Result<(), RequestError> {
        self.knows_users()?;
        if let AuthKind::Enable(enable) | AuthKind::Observe(enable) = &mut change {
            // Over plain connections nobody could say who he is, nor take it back.
            need_tls(caller)?;
            *enable = Enable { session_key: session_key() };
        }
        self.write(caller, Kind::Auth(change.into()), deadline).await?;
        Ok(())
    }

    /// Whether it counts here who somebody is, and what he may do.
    pub fn rights_count(&self) -> bool {
        self.store().auth_fence() > 0
    }

    /// Replaces what the operator declares, for an administrator.
    pub async fn declare(&self, mut access: ReplaceAccess, deadline: Instant) -> Result<(), MembershipError> {
        self.knows_users().map_err(RequestError::from)?;
        if let Some(TokenIssuer { issuer, audience, jwks }) = &access.issuer {
            let verifier = TokenVerifier::new(issuer, audience, jwks);
            verifier.map_err(|error| RequestError::Invalid(error.to_string()))?;
        }
        access.enable = Some(Enable { session_key: session_key() });
        let change = Kind::Auth(AuthKind::ReplaceAccess(access).into());
        self.write_for(Asker::Administrator, change, deadline).await?;
        self.raft().open().await
    }

    fn knows_users(&self) -> Result<(), AuthError> {
        if self.store().feature_level() < feature::AUTH { Err(AuthError::OldMembers) } else { Ok(()) }
    }

    /// Makes a user, or gives one another password; without a password he shows a certificate.
    pub async fn set_password(
        &self,
        caller: &Caller,
        name: String,
        password: String,
        change: fn(UserPassword) -> AuthKind,
        deadline: Instant,
    ) -> Result<(), RequestError> {
        caller.trail.concerns(format_args!("user {name}"));
        let hash = self.hash(caller, password, deadline).await?;
        self.change_auth(caller, change(UserPassword { name, hash }), deadline).await
    }

    /// A password's hash, which takes a while: it is made only for who may set one.
    async fn hash(
        &self,
        caller: &Caller,
        password: String,
        deadline: Instant,
    ) -> Result<String, RequestError> {
        self.may(caller, Needs::Root, deadline).await?;
        if password.is_empty() {
            return Ok(password);
        }
        need_tls(caller)?;
        let hash = self.0.passwords.hash(new_password(password)?).await.map_err(not_done)?;
        Ok(hash.as_str().to_owned())
    }

    /// A token for who says his password. Why he does not get one, he is not told.
    pub async fn authenticate(
        &self,
        caller: &Caller,
        name: String,
        password: String,
        deadline: Instant,
    ) -> Result<String, RequestError> {
        caller.trail.concerns(format_args!("user {name}"));
        need_tls(caller)?;
        self.is_current(Consistency::Linearizable, deadline).await?;
        let auth = self.store().auth();
        if auth.mode() == AuthMode::Disabled {
            return Err(AuthError::NotEnabled.into());
        }
        let logged_in = self.log_in(caller, &auth, name, password).await;
        match logged_in {
            // He is told what he would be if nobody looked, and goes on without a token.
            Err(RequestError::Auth(error)) if auth.mode() == AuthMode::Observe => {
                self.0.authorizer.lets_pass("", "password", &error);
                Err(AuthError::NotEnabled.into())
            }
            logged_in => logged_in,
        }
    }

    async fn log_in(
        &self,
        caller: &Caller,
        auth: &Auth,
        name: String,
        password: String,
    ) -> Result<String, RequestError> {
        let user = auth.user(&name);
        let stored = user.and_then(|user| PasswordHash::parse(&user.password_hash).ok());
        let password = Password::new(password).map_err(|_| AuthError::Failed)?;
        let verified = self.0.passwords.verify(&name, stored.as_ref(), password).await;
        verified.map_err(|error| match error {
            VerifyError::Wrong => AuthError::Failed.into(),
            VerifyError::NotDone(error) => not_done(error),
        })?;
        // The token is of the password that was compared, whatever it is by now.
        let password_revision = user.ok_or(AuthError::Failed)?.password_revision;
        caller.trail.proven(Some((&name, "password")));
        Ok(self.0.authorizer.session(auth, name, password_revision)?)
    }
}

fn new_password(password: String) -> Result<Password, RequestError> {
    Password::new(password).map_err(|error| RequestError::Invalid(error.to_string()))
}

fn not_done(error: NotDone) -> RequestError {
    match error {
        error @ NotDone::Busy => RequestError::Occupied(error.to_string()),
        NotDone::GivenUp => RequestError::ShuttingDown,
        error @ NotDone::Failed(_) => RequestError::Occupied(error.to_string()),
    }
}

fn need_tls(caller: &Caller) -> Result<(), AuthError> {
    if caller.secured { Ok(()) } else { Err(AuthError::Plain) }
}

fn session_key() -> Bytes {
    Bytes::copy_from_slice(SessionKey::generate().expose())
}
