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
    token: Mutex<Option<(HeaderValue, Instant)>>,
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
        Credentials::File(Arc::new(File { path, token: Mutex::default() }))
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

    /// Gets another token in the place of one that is not taken any more. Whether there is one.
    pub(crate) async fn renew(&self, channel: &Channel) -> Result<bool, Status> {
        match self {
            Credentials::None => Ok(false),
            Credentials::File(file) => Ok(file.read_again()),
            Credentials::Password(login) => login.log_in(channel).await.map(|()| true),
        }
    }
}

impl File {
    /// What stays as it is is not read again, nor is what cannot be read: the last token may do.
    fn token(&self) -> Option<HeaderValue> {
        let mut token = lock(&self.token);
        let fresh = token.as_ref().is_some_and(|(_, read)| read.elapsed() < READ_AGAIN);
        if !fresh && let Some(read) = read(&self.path).or_else(|| token.take().map(|(token, _)| token)) {
            *token = Some((read, Instant::now()));
        }
        token.as_ref().map(|(token, _)| token.clone())
    }

    /// Whether the file has another token by now.
    fn read_again(&self) -> bool {
        let Some(read) = read(&self.path) else { return false };
        let before = lock(&self.token).replace((read.clone(), Instant::now()));
        before.is_none_or(|(before, _)| before != read)
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
