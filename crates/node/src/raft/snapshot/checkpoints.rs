//! Checkpoints for members that need the whole store, and what happens where none can be made.
//!
//! That concerns the member that waits, not this node, which serves on: the attempt is repeated, less and
//! less often, and an alarm stands meanwhile.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The pause after the first attempt that failed. It doubles with each one.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// The longest pause: whoever has mended what was wrong does not wait longer than this.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// An alarm goes once no member has asked for so long: it was removed, or another node leads.
const ALARM_MAX: Duration = Duration::from_secs(30);

/// What became of the last attempts.
#[derive(Debug, Default)]
pub struct Checkpoints {
    failure: Mutex<Option<Failure>>,
}

#[derive(Debug)]
struct Failure {
    reason: String,
    /// The pause after the last attempt.
    pause: Duration,
    next_attempt: Instant,
    last_asked: Instant,
}

impl Checkpoints {
    /// Whether one may be tried now, else why the last attempt failed.
    pub fn may_try(&self, now: Instant) -> Result<(), String> {
        match &mut *self.failure() {
            Some(failure) => {
                failure.last_asked = now;
                if now < failure.next_attempt { Err(failure.reason.clone()) } else { Ok(()) }
            }
            None => Ok(()),
        }
    }

    /// One was made.
    pub fn made(&self) {
        if self.failure().take().is_some() {
            tracing::info!("a checkpoint for a member that is far behind was made after all");
        }
    }

    /// None could be made. Answers the reason in words.
    pub fn failed(&self, error: &io::Error, now: Instant) -> String {
        let mut failure = self.failure();
        let before = failure.as_ref().map(|failure| failure.pause);
        let pause = before.map_or(BACKOFF_MIN, |pause| (pause * 2).min(BACKOFF_MAX));
        let reason = error.to_string();
        tracing::error!(
            %error, ?pause,
            "no checkpoint could be made for a member that is far behind, which waits for it; trying again"
        );
        *failure =
            Some(Failure { reason: reason.clone(), pause, next_attempt: now + pause, last_asked: now });
        reason
    }

    /// Whether members wait for one in vain.
    pub fn failing(&self, now: Instant) -> bool {
        self.failure().as_ref().is_some_and(|failure| now < failure.last_asked + ALARM_MAX)
    }

    fn failure(&self) -> MutexGuard<'_, Option<Failure>> {
        // A panic while the lock was held has left one of two sound values.
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use kvorum_store::StoreError;

    use super::*;

    fn error() -> io::Error {
        let source = std::io::Error::from(std::io::ErrorKind::NotADirectory);
        io::Error::other(StoreError::Io {
            context: "create directory",
            path: "/data/checkpoints".into(),
            source,
        })
    }

    /// Goal: attempts become rare, never rarer than the longest pause, and the alarm stands as long as
    /// somebody waits. Method: a member that asks ten times a second, by a clock that is made up.
    #[test]
    fn attempts_become_rare_and_the_alarm_goes() {
        let checkpoints = Checkpoints::default();
        let begun = Instant::now();
        assert!(checkpoints.may_try(begun).is_ok() && !checkpoints.failing(begun));
        let mut attempts = Vec::new();
        for tenths in 0..300 {
            let now = begun + Duration::from_millis(100 * tenths);
            match checkpoints.may_try(now) {
                Ok(()) => {
                    attempts.push(100 * tenths);
                    assert!(checkpoints.failed(&error(), now).contains("/data/checkpoints"));
                }
                Err(reason) => assert!(reason.contains("/data/checkpoints"), "{reason}"),
            }
            assert!(checkpoints.failing(now));
        }
        assert_eq!(attempts, [0, 200, 600, 1400, 3000, 6200, 11_200, 16_200, 21_200, 26_200]);

        let now = begun + Duration::from_secs(30);
        checkpoints.made();
        assert!(checkpoints.may_try(now).is_ok() && !checkpoints.failing(now));
        checkpoints.failed(&error(), now);
        assert!(!checkpoints.failing(now + ALARM_MAX), "nobody asks any more");
    }
}
