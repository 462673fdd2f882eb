//! Who the load generator is to the servers.

use std::path::PathBuf;
use std::{fs, io};

use http::HeaderValue;
use kvorum_proto::auth::v1::AuthenticateRequest;
use kvorum_proto::auth::v1::auth_client::AuthClient;
use kvorum_tls::{ClientTls, MaterialError};
use thiserror::Error;

use crate::api::describe;
use crate::args::{Api, LoadArgs, User};
use crate::endpoint::Endpoint;
use crate::transport::{ConnectError, Transport};

/// Why it is nobody.
#[derive(Debug, Error)]
pub enum CallerError {
    /// The files for TLS.
    #[error(transparent)]
    Tls(#[from] MaterialError),
    /// The token's file.
    #[error("read the token in {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{} holds no token", .0.display())]
    NoToken(PathBuf),
    /// No server is there to log in at.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The log-in failed.
    #[error("log in as {user} at {endpoint}: {message}")]
    LogIn {
        /// Who.
        user: String,
        /// Where.
        endpoint: Endpoint,
        /// What it answered.
        message: String,
    },
    /// etcd's log-in is another one.
    #[error("--user is for --api kv; name a certificate instead")]
    Api,
}

/// What a connection is made with. A token is sent with each of its requests.
#[derive(Clone, Default)]
pub struct Caller {
    /// The CAs that are believed, and an own certificate, perhaps; nothing: connections are plain.
    pub tls: Option<ClientTls>,
    /// Who we are beside that.
    pub token: Option<HeaderValue>,
}

impl Caller {
    /// As the command line says.
    pub async fn of(args: &LoadArgs) -> Result<Caller, CallerError> {
        let plain = Caller { tls: args.tls()?, token: None };
        let token = match (&args.token_file, &args.user) {
            (Some(path), _) => Some(read(path)?),
            (None, Some(_)) if args.api != Api::Kv => return Err(CallerError::Api),
            (None, Some(user)) => Some(log_in(&plain, user, &args.endpoints[0]).await?),
            (None, None) => None,
        };
        Ok(Caller { token, ..plain })
    }
}

fn read(path: &PathBuf) -> Result<HeaderValue, CallerError> {
    let text = fs::read_to_string(path).map_err(|source| CallerError::Read { path: path.clone(), source })?;
    value(&text).ok_or_else(|| CallerError::NoToken(path.clone()))
}

/// Not marked as sensitive, which would keep it out of HTTP/2's table of headers.
fn value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text.trim()).ok().filter(|token| !token.is_empty())
}

async fn log_in(caller: &Caller, user: &User, endpoint: &Endpoint) -> Result<HeaderValue, CallerError> {
    let transport = Transport::connect(endpoint, caller).await?;
    let request = AuthenticateRequest { name: user.name.clone(), password: user.password.clone() };
    let failed =
        |message: String| CallerError::LogIn { user: user.name.clone(), endpoint: endpoint.clone(), message };
    let answer = AuthClient::with_origin(transport, endpoint.origin()).authenticate(request).await;
    let answer = answer.map_err(|status| failed(describe(&status)))?;
    value(&answer.into_inner().token).ok_or_else(|| failed("it gave no token".into()))
}
