//! The address of an endpoint: `host:port`, an optional `http://` or `https://` in front of it.

use std::fmt;
use std::str::FromStr;

use tonic::codegen::http::uri::{Authority, Uri};

use crate::Error;

/// An endpoint's `host:port`, known to make a valid URI.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    authority: String,
    is_secure: Option<bool>,
}

/// One endpoint is one, however its address was written.
impl PartialEq for Address {
    fn eq(&self, other: &Address) -> bool {
        self.authority == other.authority
    }
}

impl Address {
    /// `host:port`.
    pub(crate) fn as_str(&self) -> &str {
        &self.authority
    }

    /// The host, an IPv6 address in brackets.
    pub(crate) fn host(&self) -> &str {
        self.authority.rsplit_once(':').map_or(&self.authority, |(host, _)| host)
    }

    /// Whether it is spoken to by TLS, where the address says it.
    pub(crate) fn is_secure(&self) -> Option<bool> {
        self.is_secure
    }

    /// What requests are addressed to.
    pub(crate) fn authority(&self) -> Authority {
        self.authority.parse().expect("an address was parsed as an authority when it was made")
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Address, Error> {
        let refuse = |problem: &'static str| Error::InvalidEndpoint { endpoint: text.to_owned(), problem };
        let trimmed = text.trim();
        let (is_secure, authority) = match (trimmed.strip_prefix("https://"), trimmed.strip_prefix("http://"))
        {
            (Some(rest), _) => (Some(true), rest),
            (None, Some(rest)) => (Some(false), rest),
            (None, None) => (None, trimmed),
        };
        let authority = authority.trim_end_matches('/');
        if authority.is_empty() {
            return Err(refuse("it is empty; write host:port"));
        }
        if authority.contains(['/', '@', '?', '#', ' ']) {
            return Err(refuse("only host:port is allowed"));
        }
        let uri: Uri =
            format!("http://{authority}").parse().map_err(|_| refuse("it is no address; write host:port"))?;
        if uri.host().is_none_or(str::is_empty) {
            return Err(refuse("the host is missing; write host:port"));
        }
        if uri.port_u16().is_none_or(|port| port == 0) {
            return Err(refuse("the port is missing; write host:port"));
        }
        Ok(Address { authority: authority.to_owned(), is_secure })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority)
    }
}

#[cfg(test)]
mod tests {
    //! Goal: what people write as an endpoint is taken, and anything else is refused at once rather
    //! than at the first call. Method: tables.
    use super::*;

    #[test]
    fn takes_host_and_port_with_or_without_a_scheme() {
        for (text, address, host, is_secure) in [
            ("127.0.0.1:2379", "127.0.0.1:2379", "127.0.0.1", None),
            ("http://node-0.kv:2379/", "node-0.kv:2379", "node-0.kv", Some(false)),
            ("https://node-0.kv:2379/", "node-0.kv:2379", "node-0.kv", Some(true)),
            ("[::1]:2379", "[::1]:2379", "[::1]", None),
            (" localhost:1 ", "localhost:1", "localhost", None),
        ] {
            let parsed: Address = text.parse().unwrap();
            assert_eq!((parsed.as_str(), parsed.host(), parsed.is_secure()), (address, host, is_secure));
        }
    }

    #[test]
    fn refuses_what_cannot_be_an_endpoint() {
        for text in
            ["", "localhost", ":2379", "localhost:0", "localhost:99999", "ftp://a:1", "a:1/path", "a b:1"]
        {
            assert!(text.parse::<Address>().is_err(), "{text:?} was taken");
        }
    }
}
