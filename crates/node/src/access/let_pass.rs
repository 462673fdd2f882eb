//! Who was let pass, and would be refused if rights counted: so that somebody knows it before they do.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::{Duration, Instant};

use crate::error::AuthError;

/// So many are known by name, those of late; the requests of all are in a metric. Users are those that have proven it, so that nobody
/// fills this with names of his own.
const KNOWN_MAX: usize = 16;
/// Somebody is told of for so long after his last request: who writes once a minute or so is not forgotten.
const TOLD: Duration = Duration::from_secs(3600);

/// Somebody who was let pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetPass {
    /// Who it was; empty: he has not proven to be anybody.
    pub user: Arc<str>,
    /// How he has proven it.
    pub proof: &'static str,
    /// What he would be told, as of last.
    pub why: String,
    /// How many of his requests it were.
    pub requests: u64,
    last: Instant,
}

/// Those of one auth revision: under other rights somebody else may be refused.
#[derive(Default)]
pub(super) struct LetPassBy(Mutex<Known>);

#[derive(Default)]
struct Known {
    auth_revision: u64,
    known: Vec<LetPass>,
}

impl LetPassBy {
    /// One more request of somebody was let pass.
    pub(super) fn add(&self, auth_revision: u64, user: &str, proof: &'static str, error: &AuthError) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.auth_revision < auth_revision {
            *known = Known { auth_revision, known: Vec::new() };
        }
        // It was looked at before the rights that are known here.
        if known.auth_revision > auth_revision {
            return;
        }
        let (known, last) = (&mut known.known, Instant::now());
        if let Some(it) = known.iter_mut().find(|it| &*it.user == user && it.proof == proof) {
            (it.requests, it.last) = (it.requests + 1, last);
            it.why = text(error);
            return;
        }
        let why = text(error);
        let is_full = known.len() == KNOWN_MAX;
        if is_full && let Some(oldest) = (0..known.len()).min_by_key(|at| known[*at].last) {
            known.swap_remove(oldest);
        }
        // With more than are known, each of their requests would be a line.
        if !is_full {
            tracing::warn!(user, proof, why, "somebody was let pass who is refused once rights count");
        }
        known.push(LetPass { user: user.into(), proof, why, requests: 1, last });
    }

    /// Those of late under the rights of now, by name.
    pub(super) fn told(&self, auth_revision: u64) -> Vec<LetPass> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_now = known.known.iter().filter(|_| known.auth_revision == auth_revision);
        let mut told: Vec<LetPass> = of_now.filter(|it| it.last.elapsed() < TOLD).cloned().collect();
        told.sort_by(|a, b| (&a.user, a.proof).cmp(&(&b.user, b.proof)));
        told
    }
}

/// With what only the caller is told otherwise: here nobody tells him.
fn text(error: &AuthError) -> String {
    match error {
        AuthError::InvalidToken(why) => format!("{error}: {why}"),
        AuthError::InvalidServiceAccount(why) => format!("{error}: {why}"),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(let_pass: &LetPassBy, auth_revision: u64) -> Vec<(String, &'static str, String, u64)> {
        let told = let_pass.told(auth_revision).into_iter();
        told.map(|it| (it.user.to_string(), it.proof, it.why, it.requests)).collect()
    }

    /// Goal: who it was is told once, for an hour, and of the rights of now alone.
    #[tokio::test(start_paused = true)]
    async fn each_is_told_once_and_for_a_while() {
        let let_pass = LetPassBy::default();
        let denied = AuthError::PermissionDenied;
        let_pass.add(7, "bob", "certificate", &denied);
        let_pass.add(7, "", "none", &AuthError::InvalidToken("it has expired"));
        let_pass.add(6, "of before", "certificate", &denied);
        tokio::time::advance(TOLD / 2).await;
        let_pass.add(7, "bob", "certificate", &denied);
        let bob = |requests| ("bob".to_owned(), "certificate", "permission denied".to_owned(), requests);
        let nobody = (String::new(), "none", "invalid auth token: it has expired".to_owned(), 1);
        assert_eq!(told(&let_pass, 7), [nobody, bob(2)]);
        tokio::time::advance(TOLD / 2).await;
        assert_eq!(told(&let_pass, 7), [bob(2)]);
        assert!(told(&let_pass, 8).is_empty(), "other rights");
        let_pass.add(8, "bob", "certificate", &denied);
        assert_eq!(told(&let_pass, 8), [bob(1)]);
    }

    /// Goal: it does not grow with those who ask, and those of late are the ones that are told.
    #[tokio::test(start_paused = true)]
    async fn those_of_late_are_known() {
        let let_pass = LetPassBy::default();
        for number in 0..2 * KNOWN_MAX {
            tokio::time::advance(Duration::from_secs(1)).await;
            let_pass.add(1, &format!("user-{number:02}"), "session", &AuthError::PermissionDenied);
        }
        let told = told(&let_pass, 1);
        assert_eq!((told.len(), told[0].0.as_str()), (KNOWN_MAX, "user-16"));
    }
}
