//! What the calls that a port has open at a time take of memory, beside their messages: anybody may open calls whose
//! requests never come.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tonic::codegen::http::HeaderMap;

/// What a call takes, beside its headers: one whose request never comes about this, a watch that nothing happens to
/// a little more.
const CALL_BYTES: usize = 8 * 1024;

/// What the open calls of a port take, in bytes: 16,000 of them, watches and scans among them, are more than any
/// cluster was seen to need, and fit into the least memory that a member is given beside all else.
pub const CALLS_BYTES_MAX: usize = 128 * 1024 * 1024;

/// The calls that are open on a port.
#[derive(Debug)]
pub struct OpenCalls {
    bytes: AtomicUsize,
    bytes_max: usize,
}

impl OpenCalls {
    /// None yet, and at most what takes so many bytes.
    pub fn new(bytes_max: usize) -> Arc<OpenCalls> {
        Arc::new(OpenCalls { bytes: AtomicUsize::new(0), bytes_max })
    }

    /// The part of a new connection.
    pub fn connection(self: &Arc<Self>) -> ConnectionCalls {
        ConnectionCalls(Arc::new(Part { port: self.clone(), bytes: AtomicUsize::new(0) }))
    }
}

/// What a call with these headers takes, in bytes.
fn call_bytes(headers: &HeaderMap) -> usize {
    let headers = headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    CALL_BYTES + headers.sum::<usize>()
}

/// The calls that are open on one connection.
#[derive(Clone, Debug)]
pub struct ConnectionCalls(Arc<Part>);

#[derive(Debug)]
struct Part {
    port: Arc<OpenCalls>,
    bytes: AtomicUsize,
}

impl ConnectionCalls {
    /// A place for a call with these headers. A connection that has some gets more while it has no more than is left
    /// for others. Calls that begin at once on several threads may be a few too many.
    pub fn open(&self, headers: &HeaderMap) -> Option<OpenCall> {
        self.open_of(call_bytes(headers))
    }

    fn open_of(&self, taken: usize) -> Option<OpenCall> {
        let Part { port, bytes } = &*self.0;
        let (all, own) = (port.bytes.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed));
        let free = port.bytes_max.saturating_sub(all);
        if taken > free || own > free {
            return None;
        }
        port.bytes.fetch_add(taken, Ordering::Relaxed);
        bytes.fetch_add(taken, Ordering::Relaxed);
        Some(OpenCall { part: self.0.clone(), bytes: taken })
    }
}

/// A call's place, until it is dropped.
#[derive(Debug)]
pub struct OpenCall {
    part: Arc<Part>,
    bytes: usize,
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.part.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.part.port.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: calls are bounded, and no connection takes what others need. Method: connections that open all they can.
    #[test]
    fn a_greedy_connection_leaves_places_to_others() {
        let port = OpenCalls::new(100);
        let all =
            |connection: &ConnectionCalls| std::iter::from_fn(|| connection.open_of(1)).collect::<Vec<_>>();
        let (one, other, last) = (port.connection(), port.connection(), port.connection());
        let held = all(&one);
        assert_eq!(held.len(), 51, "half, and one more");
        let of_other = all(&other);
        assert_eq!(of_other.len(), 25);
        assert!(last.open_of(1).is_some(), "who has none finds a place");
        assert!(last.open_of(25).is_none(), "so much is not left");
        drop(of_other);
        assert!(one.open_of(1).is_none(), "it has more than is left");
        drop(held);
        assert_eq!(port.bytes.load(Ordering::Relaxed), 0);
        assert_eq!(all(&last).len(), 51);
    }

    /// Goal: who sends much with each call gets fewer of them. Method: calls with large headers and without.
    #[test]
    fn headers_count() {
        let port = OpenCalls::new(10 * CALL_BYTES);
        let held = port.connection().open(&HeaderMap::new()).unwrap();
        assert_eq!((held.bytes, port.bytes.load(Ordering::Relaxed)), (CALL_BYTES, CALL_BYTES));
        let mut headers = HeaderMap::new();
        headers.append("x", "y".repeat(5 * CALL_BYTES).parse().unwrap());
        headers.append("x", "y".repeat(CALL_BYTES).parse().unwrap());
        let large = port.connection().open(&headers).unwrap();
        assert_eq!(large.bytes, 7 * CALL_BYTES + 2);
        assert!(port.connection().open(&headers).is_none());
    }
}
