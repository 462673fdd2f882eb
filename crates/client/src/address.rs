//! The address of an endpoint: `host:port`, an optional `http://` in front of it.

use std::fmt;
use std::str::FromStr;

use tonic::codegen::http::uri::{Authority, Uri};

use crate::Error;

/// An endpoint's `host:port`, known to make a valid URI.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address(String);

impl Address {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// What requests are addressed to.
    pub(crate) fn authority(&self) -> Authority {
        self.0.parse().expect("an address was parsed as an authority when it was made")
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Address, Error> {
        let refuse = |problem: &'static str| Error::InvalidEndpoint { endpoint: text.to_owned(), problem };
        let trimmed = text.trim();
        if trimmed.starts_with("https://") {
            return Err(refuse("TLS is not supported; write host:port"));
        }
        let authority = trimmed.strip_prefix("http://").unwrap_or(trimmed).trim_end_matches('/');
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
        Ok(Address(authority.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    //! Goal: what people write as an endpoint is taken, and anything else is refused at once rather
    //! than at the first call. Method: tables.
    use super::*;

    #[test]
    fn takes_host_and_port_with_or_without_a_scheme() {
        for (text, address) in [
            ("127.0.0.1:2379", "127.0.0.1:2379"),
            ("http://node-0.kv:2379/", "node-0.kv:2379"),
            ("[::1]:2379", "[::1]:2379"),
            (" localhost:1 ", "localhost:1"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().as_str(), address);
        }
    }

    #[test]
    fn refuses_what_cannot_be_an_endpoint() {
        for text in
            ["", "localhost", ":2379", "localhost:0", "localhost:99999", "https://a:1", "a:1/path", "a b:1"]
        {
            assert!(text.parse::<Address>().is_err(), "{text:?} was taken");
        }
    }
}
