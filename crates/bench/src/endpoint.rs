//! Where a server listens.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::{Authority, Scheme};
use thiserror::Error;

/// The host and port of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Authority);

/// Why a text is not an endpoint.
#[derive(Debug, Error)]
#[error("{text:?} is not HOST:PORT or http://HOST:PORT")]
pub struct BadEndpoint {
    text: String,
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        match bare.parse::<Authority>() {
            Ok(authority) if authority.port_u16().is_some() => Ok(Endpoint(authority)),
            _ => Err(BadEndpoint { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Endpoint {
    /// What a socket connects to.
    pub fn address(&self) -> &str {
        self.0.as_str()
    }

    /// What its certificate is for.
    pub fn host(&self) -> &str {
        self.0.host()
    }

    /// What a generated client puts in front of its paths.
    pub fn origin(&self) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.0.clone());
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        Uri::from_parts(parts).expect("scheme, authority and path make a URI")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: an endpoint is a host with a port. Method: a table of texts.
    #[test]
    fn an_endpoint_has_a_host_and_a_port() {
        for good in
            ["127.0.0.1:2379", "http://127.0.0.1:2379", "http://127.0.0.1:2379/", "[::1]:2379", "node-0:1"]
        {
            assert!(good.parse::<Endpoint>().is_ok(), "{good}");
        }
        for bad in
            ["", "127.0.0.1", "https://127.0.0.1:2379", "http://host:2379/path", "host:port", "host:99999"]
        {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
        let endpoint: Endpoint = "http://h:1".parse().unwrap();
        assert_eq!((endpoint.address(), endpoint.origin().to_string().as_str()), ("h:1", "http://h:1/"));
    }
}
