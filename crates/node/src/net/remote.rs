//! The connection that a request came over.

use std::net::IpAddr;
use std::sync::Arc;

use kvorum_tls::Peer;
use tonic::{Extensions, Status};

use super::budget::Account;
use super::open_calls::ConnectionCalls;
use crate::access::LastToken;
use crate::audit::Trail;

/// The connection that a request came over: an extension of each.
#[derive(Clone)]
pub struct Remote {
    /// Where it comes from.
    pub address: IpAddr,
    /// What it may have waiting to be sent.
    pub account: Account,
    /// What its calls may have received.
    pub received: Account,
    /// Its calls that are open.
    pub calls: ConnectionCalls,
    /// Whether it is one with TLS.
    pub secured: bool,
    /// Who it is, where a certificate says it.
    pub peer: Option<Arc<Peer>>,
    /// The last token that came over it.
    pub last_token: LastToken,
    /// What is known of the call, for the audit.
    pub trail: Trail,
}

impl Remote {
    /// The connection of a request, by its extensions.
    pub fn of(extensions: &Extensions) -> Result<&Remote, Status> {
        extensions.get().ok_or_else(|| Status::internal("the request came over no connection"))
    }
}
