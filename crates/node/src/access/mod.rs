//! Who may do what: the one place that says it, which the request door alone asks. `caller.rs` is who calls,
//! `proofs.rs` whom that proves, `let_pass.rs` who would be refused if rights counted, `rights.rs` what a request needs and what a user may do, `ranges.rs` sets of keys.

mod caller;
mod let_pass;
mod proofs;
mod ranges;
mod rights;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kvorum_auth::Session;
use kvorum_store::command::{AuthMode, KeyRange};
use kvorum_store::{Auth, Store};

pub use self::caller::{Caller, LastToken, Proof, Proven, Token};
pub use self::let_pass::LetPass;
pub use self::ranges::Ranges;
pub use self::rights::{Needs, Rights};
use crate::error::{AuthError, RequestError};
use crate::metrics::CheckResult;
use crate::raft::Raft;
use let_pass::LetPassBy;
use proofs::{Now, Proofs};

/// Ranges that may be remembered as users' rights: some hundred MiB where they are of long keys. With more, all are
/// worked out again.
const REMEMBERED_RANGES_MAX: usize = 1_000_000;
/// How long a session lasts, in milliseconds of cluster time.
const SESSION_MS: u64 = 24 * 3600 * 1000;

/// Says who may do what. Clones are the same one.
#[derive(Clone)]
pub struct Authorizer(Arc<Inner>);

struct Inner {
    raft: Raft,
    /// The rights of those who asked lately.
    remembered: Mutex<Remembered>,
    proofs: Proofs,
    let_pass: LetPassBy,
}

/// Users' rights as of one auth revision.
#[derive(Default)]
struct Remembered {
    auth_revision: u64,
    ranges: usize,
    rights: HashMap<Arc<str>, Arc<Rights>>,
}

/// What a check has allowed.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The auth revision of the check: what a command carries. 0: rights are not looked at.
    pub as_of: u64,
    /// Who it was; nobody where rights are not looked at, or he was let pass without having proven it.
    proven: Option<Proven>,
}

/// A look at whether somebody may do something.
pub struct Look {
    /// How he proved who he is; nothing where rights are not looked at.
    by: Option<&'static str>,
    checked: Result<Checked, AuthError>,
    /// Why he would be refused if rights counted.
    let_pass: Option<AuthError>,
}

impl Look {
    /// Whether it is refused.
    pub fn is_denied(&self) -> bool {
        self.checked.is_err()
    }
}

impl Authorizer {
    /// By users and roles as this member has them.
    pub fn new(raft: Raft) -> Authorizer {
        Authorizer(Arc::new(Inner {
            raft,
            remembered: Mutex::default(),
            proofs: Proofs::default(),
            let_pass: LetPassBy::default(),
        }))
    }

    fn store(&self) -> &Store {
        self.0.raft.store()
    }

    fn now(&self) -> Now {
        Now::new(self.0.raft.cluster_now_ms())
    }

    /// Whether a token came lately that its issuer may have signed with a new key.
    pub fn saw_unknown_key(&self) -> bool {
        self.0.proofs.saw_unknown_key(self.store().auth().revision())
    }

    /// A token for a user whose password is of this auth revision, and who has just said it.
    pub fn session(&self, auth: &Auth, user: String, password_revision: u64) -> Result<String, AuthError> {
        let expires_ms = self.now().cluster_ms.saturating_add(SESSION_MS);
        self.0.proofs.issue(auth, &Session { user, password_generation: password_revision, expires_ms })
    }

    /// Whether a caller may do something, by what this member knows.
    pub fn check(&self, caller: &Caller, needs: Needs<'_>) -> Result<Checked, AuthError> {
        self.count(self.look(caller, needs))
    }

    /// The same, to be [counted](Authorizer::count) where it is what he is told.
    pub fn look(&self, caller: &Caller, needs: Needs<'_>) -> Look {
        let off = Look { by: None, checked: Ok(Checked { as_of: 0, proven: None }), let_pass: None };
        if self.store().auth_as_of() == 0 {
            let closed = self.0.raft.is_closed();
            return if closed { Look { checked: Err(AuthError::Closed), ..off } } else { off };
        }
        let auth = self.store().auth();
        if auth.mode() == AuthMode::Disabled {
            return off;
        }
        let proven = self.0.proofs.prove(caller, &auth, self.now());
        let by = Some(proven.as_ref().map_or("none", |proven| proven.by.label()));
        caller.trail.proven(proven.as_ref().ok().map(|proven| (&*proven.user, proven.by.label())));
        let refused = match &proven {
            Ok(proven) => self.check_proven(&auth, proven, needs).err(),
            Err(error) => Some(error.clone()),
        };
        let checked = Checked { as_of: auth.as_of(), proven: proven.ok() };
        match refused {
            Some(error) if auth.mode() == AuthMode::Required => {
                Look { by, checked: Err(error), let_pass: None }
            }
            refused => Look { by, checked: Ok(checked), let_pass: refused.filter(|_| !needs.is_probe()) },
        }
    }

    /// Counts a look that was the last one.
    pub fn count(&self, look: Look) -> Result<Checked, AuthError> {
        let Some(by) = look.by else { return look.checked };
        match (&look.checked, &look.let_pass) {
            (Ok(checked), Some(error)) => {
                let user = checked.proven.as_ref().map_or("", |proven| &*proven.user);
                self.lets_pass(user, by, error);
            }
            (Ok(_), None) => self.0.raft.metrics().auth.checked(by, CheckResult::Allowed),
            (Err(_), _) => self.0.raft.metrics().auth.checked(by, CheckResult::Denied),
        }
        look.checked
    }

    /// Counts somebody who would be refused if rights counted.
    pub fn lets_pass(&self, user: &str, by: &'static str, error: &AuthError) {
        self.0.raft.metrics().auth.checked(by, CheckResult::WouldDeny);
        self.0.let_pass.add(self.store().auth_as_of(), user, by, error);
    }

    /// Who would have been refused lately if rights counted, under those of now.
    pub fn let_pass(&self) -> Vec<LetPass> {
        let auth = self.store().auth();
        if auth.mode() == AuthMode::Observe { self.0.let_pass.told(auth.as_of()) } else { Vec::new() }
    }

    fn check_proven(&self, auth: &Auth, proven: &Proven, needs: Needs<'_>) -> Result<(), AuthError> {
        let Some(user) = auth.user(&proven.user) else { return Err(AuthError::PermissionDenied) };
        if let Proof::Session { password_revision, .. } = proven.by
            && password_revision != user.password_revision
        {
            return Err(AuthError::InvalidToken("the password was changed since"));
        }
        let allowed = self.rights(auth, &proven.user).allow(&proven.user, needs);
        if allowed { Ok(()) } else { Err(AuthError::PermissionDenied) }
    }

    /// Whether somebody may still do what he could, under the rights of now.
    fn check_again(&self, proven: Proven, needs: Needs<'_>) -> Result<Checked, AuthError> {
        let auth = self.store().auth();
        match auth.mode() {
            AuthMode::Disabled => {}
            AuthMode::Required => self.check_proven(&auth, &proven, needs)?,
            AuthMode::Observe => {
                if let Err(error) = self.check_proven(&auth, &proven, needs) {
                    self.lets_pass(&proven.user, proven.by.label(), &error);
                }
            }
        }
        Ok(Checked { as_of: auth.as_of(), proven: Some(proven) })
    }

    /// A user's rights, worked out once for each auth revision.
    fn rights(&self, auth: &Auth, user: &Arc<str>) -> Arc<Rights> {
        let remembered = || self.0.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let remembered = remembered();
            if remembered.auth_revision == auth.revision()
                && let Some(rights) = remembered.rights.get(user)
            {
                return rights.clone();
            }
        }
        let rights = Arc::new(Rights::of(auth, user));
        let mut remembered = remembered();
        if remembered.auth_revision < auth.revision()
            || remembered.ranges + rights.ranges() > REMEMBERED_RANGES_MAX
        {
            *remembered = Remembered { auth_revision: auth.revision(), ..Remembered::default() };
        }
        // Else it was worked out as of before.
        if remembered.auth_revision == auth.revision() {
            remembered.ranges += rights.ranges();
            remembered.rights.insert(user.clone(), rights.clone());
        }
        rights
    }
}

/// That a range may be read, as of when that was checked. It is asked again once something was read, and before each
/// part of a stream.
#[derive(Clone)]
pub struct Grant {
    authorizer: Authorizer,
    caller: Caller,
    range: KeyRange,
    checked: Checked,
}

impl Grant {
    /// What a check has allowed.
    pub fn new(authorizer: Authorizer, caller: Caller, range: KeyRange, checked: Checked) -> Grant {
        Grant { authorizer, caller, range, checked }
    }

    /// Whether it still may. What was read before this is called was there under rights no newer than those that
    /// are looked at here.
    pub fn holds(&mut self) -> Result<(), RequestError> {
        let store = self.authorizer.store();
        let ended = |proven: &Proven| proven.by.ends_stream(|| self.authorizer.now());
        if store.auth_fence() != 0 && self.checked.proven.as_ref().is_some_and(ended) {
            return Err(AuthError::InvalidToken("it has expired").into());
        }
        if store.auth_as_of() == self.checked.as_of {
            return Ok(());
        }
        let needs = Needs::Read(&self.range);
        self.checked = match &self.checked.proven {
            None => self.authorizer.check(&self.caller, needs)?,
            // A stream goes on though the session ended that it was opened by.
            Some(proven) => self.authorizer.check_again(proven.clone(), needs)?,
        };
        Ok(())
    }
}
