//! The connection that a request came over.

use std::net::IpAddr;

use super::budget::Account;

/// The connection that a request came over: an extension of each.
#[derive(Clone)]
pub struct Remote {
    /// Where it comes from.
    pub address: IpAddr,
    /// What it may have waiting to be sent.
    pub account: Account,
}
