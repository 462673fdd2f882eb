//! What the API server is asked: a path, a verb and a body of HTTP as plain data.

use http::Method;
use http::request::Parts;
use serde_json::Value;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Replace,
    Apply,
    Merge,
    Delete,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is to be done.
    pub verb: Verb,
    /// To which kind, in the plural.
    pub kind: String,
    /// To which object; empty where it is to all, or to one that has no name yet.
    pub name: String,
    /// To which part of it; empty: to the whole.
    pub part: String,
    /// The labels that those who are meant have.
    pub labels: Vec<(String, String)>,
    /// The version after which a watch begins.
    pub after: u64,
    /// What was sent.
    pub body: Value,
}

impl Request {
    /// From the wire; nothing where this is none that is known here.
    pub fn read(parts: &Parts, body: &[u8]) -> Option<Request> {
        let path: Vec<&str> = parts.uri.path().split('/').filter(|part| !part.is_empty()).collect();
        // api/VERSION or apis/GROUP/VERSION, then namespaces/NAME where something of it is meant.
        let rest = path.get(if *path.first()? == "api" { 2 } else { 3 }..)?;
        let rest = if rest.len() > 2 && rest[0] == "namespaces" { &rest[2..] } else { rest };
        let mut rest = rest.iter().map(|part| (*part).to_owned());
        let (kind, name, part) = (rest.next()?, rest.next(), rest.next());
        let (mut labels, mut after, mut watches) = (Vec::new(), 0, false);
        for pair in parts.uri.query().unwrap_or_default().split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value);
            match key {
                "labelSelector" => labels = read_labels(&value),
                "resourceVersion" => after = value.parse().unwrap_or_default(),
                "watch" => watches = value == "true",
                _ => {}
            }
        }
        let is_apply = || {
            let sent = parts.headers.get(http::header::CONTENT_TYPE);
            sent.is_some_and(|sent| sent.as_bytes().starts_with(b"application/apply-patch"))
        };
        let verb = match (&parts.method, &name) {
            (&Method::GET, None) if watches => Verb::Watch,
            (&Method::GET, None) => Verb::List,
            (&Method::GET, Some(_)) => Verb::Get,
            (&Method::POST, _) => Verb::Create,
            (&Method::PUT, _) => Verb::Replace,
            (&Method::PATCH, _) if is_apply() => Verb::Apply,
            (&Method::PATCH, _) => Verb::Merge,
            (&Method::DELETE, _) => Verb::Delete,
            _ => return None,
        };
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(body).ok()? };
        let (name, part) = (name.unwrap_or_default(), part.unwrap_or_default());
        Some(Request { verb, kind, name, part, labels, after, body })
    }
}

fn read_labels(selector: &str) -> Vec<(String, String)> {
    let pairs = selector.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(label, value)| (label.to_owned(), value.to_owned())).collect()
}

/// A value of a query as it was meant.
fn decoded(value: &str) -> String {
    let (mut bytes, mut decoded) = (value.bytes(), Vec::new());
    while let Some(byte) = bytes.next() {
        let digit =
            |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).unwrap_or_default() as u8;
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => (digit(bytes.next()) << 4) | digit(bytes.next()),
            other => other,
        });
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what kube asks is understood. Method: requests as it makes them.
    #[test]
    fn requests_are_read() {
        let read = |method: Method, uri: &str| {
            let (parts, ()) = http::Request::builder().method(method).uri(uri).body(()).unwrap().into_parts();
            Request::read(&parts, b"").unwrap()
        };
        let list = read(
            Method::GET,
            "/api/v1/namespaces/sim/pods?&labelSelector=app.kubernetes.io%2Fname%3Dkvorum%2Ca%3Db&limit=100",
        );
        assert_eq!((list.verb, list.kind.as_str(), list.name.as_str()), (Verb::List, "pods", ""));
        let labels =
            [("app.kubernetes.io/name", "kvorum"), ("a", "b")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(list.labels, labels);
        let watch = read(Method::GET, "/api/v1/nodes?&watch=true&timeoutSeconds=290&resourceVersion=17");
        assert_eq!((watch.verb, watch.kind.as_str(), watch.after), (Verb::Watch, "nodes", 17));
        let evict = read(Method::POST, "/api/v1/namespaces/sim/pods/demo-0/eviction?");
        assert_eq!(
            (evict.verb, evict.name.as_str(), evict.part.as_str()),
            (Verb::Create, "demo-0", "eviction")
        );
        let namespace = read(Method::GET, "/api/v1/namespaces/sim");
        assert_eq!((namespace.kind.as_str(), namespace.name.as_str()), ("namespaces", "sim"));
        let status = read(Method::PUT, "/apis/kvorum.io/v1alpha1/namespaces/sim/kvclusters/demo/status?");
        assert_eq!((status.verb, status.part.as_str()), (Verb::Replace, "status"));
    }
}
