//! Who calls: what a call brings to say so, and whom that proves.

use std::sync::{Arc, Mutex, PoisonError};

use kvorum_tls::Peer;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::{Request, Status};

use crate::audit::Trail;
use crate::net::remote::Remote;

/// etcd's name for the token of a call. HTTP/2 keeps it in its table, other than `authorization`, so that a long one
/// crosses the wire once.
const TOKEN: &str = "token";
const AUTHORIZATION: &str = "authorization";
const BEARER: &str = "Bearer ";

/// Who calls, as he says. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Whether the connection is one with TLS.
    pub secured: bool,
    /// The certificate that was shown.
    pub peer: Option<Arc<Peer>>,
    /// The token of the call.
    pub token: Option<Token>,
    /// The last token of the connection.
    pub last: LastToken,
    /// What is known of the call, for the audit.
    pub trail: Trail,
}

impl Caller {
    /// Who makes a call, by its metadata and its connection.
    pub fn of<T>(request: &Request<T>) -> Result<Caller, Status> {
        let remote = Remote::of(request.extensions())?;
        Ok(Caller {
            secured: remote.secured,
            peer: remote.peer.clone(),
            token: Token::of(request.metadata()),
            last: remote.last_token.clone(),
            trail: remote.trail.clone(),
        })
    }
}

/// A token, which nothing prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(MetadataValue<Ascii>);

impl Token {
    fn of(metadata: &MetadataMap) -> Option<Token> {
        metadata.get(TOKEN).or_else(|| metadata.get(AUTHORIZATION)).cloned().map(Token)
    }

    /// Its text; nothing where it is no text.
    pub fn text(&self) -> Option<&str> {
        let text = self.0.to_str().ok()?;
        Some(text.strip_prefix(BEARER).unwrap_or(text))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// The last token of a connection, and whom it proved: with the next call it is a comparison.
#[derive(Clone, Debug, Default)]
pub struct LastToken(Arc<Mutex<Option<Remembered>>>);

/// A token that was verified.
#[derive(Clone, Debug)]
struct Remembered {
    token: Token,
    proven: Proven,
    /// As of which auth revision: with other keys to verify it by, it may prove nothing.
    auth_revision: u64,
}

impl LastToken {
    /// Whom this token proved as of this auth revision, if it is the last one.
    pub fn proven(&self, token: &Token, auth_revision: u64) -> Option<Proven> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |last: &&Remembered| last.token == *token && last.auth_revision == auth_revision;
        last.as_ref().filter(same).map(|last| last.proven.clone())
    }

    /// This is the last one from now on.
    pub fn remember(&self, token: Token, proven: Proven, auth_revision: u64) {
        let remembered = Remembered { token, proven, auth_revision };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(remembered);
    }
}

/// A user who has proven that he is it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// His name.
    pub user: Arc<str>,
    /// How.
    pub by: Proof,
}

/// How somebody has proven who he is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By the name in a certificate.
    Certificate,
    /// By a token that he got for his password.
    Session {
        /// The auth revision that the password is of.
        password_revision: u64,
        /// When it ends, in cluster time.
        expires_ms: u64,
    },
    /// By the token of a ServiceAccount.
    ServiceAccount {
        /// When it ends, in milliseconds since 1970.
        expires_ms: u64,
    },
}

impl Proof {
    /// For a label of metrics.
    pub fn label(self) -> &'static str {
        match self {
            Proof::Certificate => "certificate",
            Proof::Session { .. } => "session",
            Proof::ServiceAccount { .. } => "service_account",
        }
    }
}
