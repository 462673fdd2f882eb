//! The connection that a request came over.

use std::net::IpAddr;
use std::sync::Arc;

use kvorum_tls::Peer;
use tonic::{Extensions, Status};

use super::budget::Account;
use super::open_calls::ConnectionCalls;

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
    /// Who it is, where a certificate says it.
    pub peer: Option<Arc<Peer>>,
}

impl Remote {
    /// The connection of a request, by its extensions.
    pub fn of(extensions: &Extensions) -> Result<Remote, Status> {
        let remote: Option<&Remote> = extensions.get();
        remote.cloned().ok_or_else(|| Status::internal("the request came over no connection"))
    }
}
