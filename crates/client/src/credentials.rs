//! Who a client says it is, beside its certificate: a token in the metadata of each call.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvorum_proto::auth::v1::AuthenticateRequest;
use kvorum_proto::auth::v1::auth_client::AuthClient;
use tokio::time::{Instant, timeout};
use tonic::Status;
use tonic::codegen::http::header::HeaderValue;

use crate::channel::Channel;

/// The name of the metadata. It is etcd's, and goes into HTTP/2's table of headers, so that a long token crosses the
/// wire once for each connection.
pub(crate) const TOKEN: &str = "token";
/// A token's file is read again when so long has gone by: kubelet renews it hours before its end.
const READ_AGAIN: Duration = Duration::from_secs(10);
/// The longest file that is taken for a token's.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Who got no token, since rights did not count, asks for one again when so long has gone by: by then they may be looked
/// at, and he would be taken for nobody.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// How long a log-in may take: one hash of a password on a machine that has others to do.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Who a client says it is. Clones share the token.
#[derive(Clone, Default)]
pub(crate) enum Credentials {
    /// What its certificate says, if it has one.
    #[default]
    None,
    /// The token in a file.
    File(Arc<File>),
    /// The token that is given for a password.
    Password(Arc<Login>),
}

pub(crate) struct File {
    path: PathBuf,
    tokens: Mutex<Tokens>,
}

/// What the file had, and which of it goes with calls.
#[derive(Default)]
struct Tokens {
    newest: Option<Newest>,
    /// The last one before the newest that was not refused. Members learn of a new signing key within a minute, and until
    /// then refuse who comes with a token that it has signed, while this one still holds.
    before: Option<HeaderValue>,
    /// Until then `before` goes with calls.
    back_until: Option<Instant>,
}

struct Newest {
    token: HeaderValue,
    read: Instant,
    /// When it was refused last.
    refused: Option<Instant>,
}

pub(crate) struct Login {
    user: String,
    password: String,
    token: Mutex<Option<HeaderValue>>,
    /// When he was last told that there is none to be had.
    none: Mutex<Option<Instant>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::None => f.write_str("None"),
            Credentials::File(file) => f.debug_tuple("File").field(&file.path).finish(),
            Credentials::Password(login) => write!(f, "Password({}, ***)", login.user),
        }
    }
}

impl Credentials {
    pub(crate) fn file(path: PathBuf) -> Credentials {
        Credentials::File(Arc::new(File { path, tokens: Mutex::default() }))
    }

    pub(crate) fn password(user: String, password: String) -> Credentials {
        Credentials::Password(Arc::new(Login {
            user,
            password,
            token: Mutex::default(),
            none: Mutex::default(),
        }))
    }

    /// The token that goes with a call.
    pub(crate) fn token(&self) -> Option<HeaderValue> {
        match self {
            Credentials::None => None,
            Credentials::File(file) => file.token(),
            Credentials::Password(login) => lock(&login.token).clone(),
        }
    }

    /// Gets a first token by this channel, which calls can use then. Where rights do not count there is none to be had,
    /// and none is needed.
    pub(crate) async fn begin(&self, channel: &Channel) -> Result<(), Status> {
        match self {
            Credentials::Password(login) if lock(&login.token).is_none() => login.log_in(channel).await,
            _ => Ok(()),
        }
    }

    /// Whether a token is due to be asked for once more on a connection that goes on without one.
    pub(crate) fn are_due(&self) -> bool {
        let Credentials::Password(login) = self else { return false };
        let none = *lock(&login.none);
        none.is_some_and(|none| none.elapsed() >= ASK_AGAIN)
    }

    /// Gets another token in the place of the one that a call came with and that was not taken. Whether there is one.
    pub(crate) async fn renew(
        &self,
        channel: &Channel,
        refused: Option<&HeaderValue>,
    ) -> Result<bool, Status> {
        match self {
            Credentials::None => Ok(false),
            Credentials::File(file) => Ok(file.other_than(refused)),
            Credentials::Password(login) => login.log_in(channel).await.map(|()| true),
        }
    }
}

impl File {
    /// What cannot be read is not taken: the last token may do.
    fn token(&self) -> Option<HeaderValue> {
        let (mut tokens, now) = (lock(&self.tokens), Instant::now());
        if tokens.are_old(now) {
            tokens.take(read(&self.path), now);
        }
        tokens.shown(now)
    }

    /// Whether calls go with another token by now than the one that was refused.
    fn other_than(&self, refused: Option<&HeaderValue>) -> bool {
        let (mut tokens, now) = (lock(&self.tokens), Instant::now());
        tokens.take(read(&self.path), now);
        if let Some(refused) = refused {
            tokens.refuse(refused, now);
        }
        tokens.shown(now).is_some_and(|shown| Some(&shown) != refused)
    }
}

impl Tokens {
    fn are_old(&self, now: Instant) -> bool {
        self.newest.as_ref().is_none_or(|newest| now >= newest.read + READ_AGAIN)
    }

    /// Takes note of what was read.
    fn take(&mut self, read: Option<HeaderValue>, now: Instant) {
        match (&mut self.newest, read) {
            (Some(newest), Some(read)) if newest.token != read => {
                if newest.refused.is_none_or(|refused| now >= refused + READ_AGAIN) {
                    self.before = Some(newest.token.clone());
                }
                self.newest = Some(Newest { token: read, read: now, refused: None });
                self.back_until = None;
            }
            (Some(newest), _) => newest.read = now,
            (None, read) => {
                self.newest = read.map(|token| Newest { token, read: now, refused: None });
            }
        }
    }

    /// Takes note of a token that was not taken.
    fn refuse(&mut self, refused: &HeaderValue, now: Instant) {
        if self.before.as_ref() == Some(refused) {
            (self.before, self.back_until) = (None, None);
        } else if let Some(newest) = &mut self.newest
            && newest.token == *refused
        {
            newest.refused = Some(now);
            self.back_until = self.before.is_some().then(|| now + READ_AGAIN);
        }
    }

    /// What goes with calls.
    fn shown(&self, now: Instant) -> Option<HeaderValue> {
        let back = self.back_until.is_some_and(|until| now < until);
        let newest = self.newest.as_ref().map(|newest| &newest.token);
        self.before.as_ref().filter(|_| back).or(newest).cloned()
    }
}

impl Login {
    async fn log_in(&self, channel: &Channel) -> Result<(), Status> {
        // Whoever asks at the same time need not.
        *lock(&self.none) = None;
        let request = AuthenticateRequest { name: self.user.clone(), password: self.password.clone() };
        let mut client = AuthClient::new(channel.without_token());
        let answer = timeout(LOGIN_TIMEOUT, client.authenticate(request)).await;
        let token =
            match answer.map_err(|_| Status::deadline_exceeded("the log-in was not answered in time"))? {
                Ok(answer) => value(&answer.into_inner().token),
                // Everybody may do everything.
                Err(status) if status.message() == "authentication is not enabled" => None,
                Err(status) => return Err(status),
            };
        *lock(&self.none) = token.is_none().then(Instant::now);
        *lock(&self.token) = token;
        Ok(())
    }
}

fn read(path: &Path) -> Option<HeaderValue> {
    let text = std::fs::read_to_string(path).ok().filter(|text| text.len() <= TOKEN_BYTES_MAX)?;
    value(text.trim())
}

/// Not marked as sensitive, which would keep it out of HTTP/2's table; nothing here prints headers.
fn value(token: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(token).ok().filter(|token| !token.is_empty())
}

/// A panic while a lock was held has left nothing half done: what it guards is replaced whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &'static str) -> HeaderValue {
        HeaderValue::from_static(text)
    }

    /// Goal: a token whose key members do not know yet costs nobody a call, and is tried again; one that has ended is not
    /// gone back to. Method: what a file has as time goes by, and what calls go with.
    #[test]
    fn the_last_token_that_was_taken_does_until_the_next_one_is() {
        let (mut tokens, start) = (Tokens::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let shown = |tokens: &Tokens, seconds| tokens.shown(at(seconds));
        assert!(tokens.are_old(start) && shown(&tokens, 0).is_none());
        tokens.take(Some(token("one")), at(0));
        assert_eq!(shown(&tokens, 0), Some(token("one")));
        assert!(!tokens.are_old(at(9)) && tokens.are_old(at(10)));
        // A file that is gone for a moment.
        tokens.take(None, at(10));
        assert_eq!(shown(&tokens, 10), Some(token("one")));
        // Nothing to go back to.
        tokens.refuse(&token("one"), at(11));
        assert_eq!(shown(&tokens, 11), Some(token("one")));

        tokens.take(Some(token("two")), at(20));
        assert_eq!(shown(&tokens, 20), Some(token("two")), "what was refused is not gone back to");
        tokens.refuse(&token("two"), at(20));
        assert_eq!(shown(&tokens, 20), Some(token("two")));

        let mut tokens = Tokens::default();
        tokens.take(Some(token("one")), at(0));
        tokens.take(Some(token("two")), at(20));
        for round in [20, 30, 40] {
            assert_eq!(shown(&tokens, round), Some(token("two")), "it is tried every ten seconds");
            tokens.refuse(&token("two"), at(round));
            assert_eq!(shown(&tokens, round), Some(token("one")));
            // So is every other call that came with it.
            tokens.refuse(&token("two"), at(round));
            assert_eq!(shown(&tokens, round + 9), Some(token("one")));
        }
        assert_eq!(shown(&tokens, 50), Some(token("two")));
        tokens.refuse(&token("two"), at(50));
        tokens.refuse(&token("one"), at(51));
        assert_eq!(
            shown(&tokens, 51),
            Some(token("two")),
            "the old one has ended, so that the new one it is"
        );
        tokens.refuse(&token("two"), at(52));
        assert_eq!(shown(&tokens, 52), Some(token("two")));
    }

    /// Goal: whoever is refused is given another token, where there is one. Method: a file that changes.
    #[test]
    fn a_refused_token_is_looked_for_in_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let file = File { path: path.clone(), tokens: Mutex::default() };
        assert!(file.token().is_none() && !file.other_than(None));
        std::fs::write(&path, "one\n").unwrap();
        assert_eq!(file.token(), Some(token("one")));
        std::fs::write(&path, "two\n").unwrap();
        assert_eq!(file.token(), Some(token("one")), "it is read every ten seconds only");
        assert!(file.other_than(Some(&token("one"))), "but at once where the last one was refused");
        assert_eq!(file.token(), Some(token("two")));
        assert!(!file.other_than(Some(&token("two"))), "nothing is left");

        std::fs::write(&path, "three\n").unwrap();
        let file = File { path: path.clone(), tokens: Mutex::default() };
        assert_eq!(file.token(), Some(token("three")));
        std::fs::write(&path, "four\n").unwrap();
        assert!(file.other_than(None));
        assert_eq!(file.token(), Some(token("four")));
        assert!(file.other_than(Some(&token("four"))), "the one before may still be taken");
        assert_eq!(file.token(), Some(token("three")));
        assert!(file.other_than(Some(&token("three"))), "and if not, once more the new one");
        assert!(!file.other_than(Some(&token("four"))), "nothing is left");
    }
}
