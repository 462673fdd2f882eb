//! How many calls a port has open at a time. A watch that nothing happens to takes ten to twenty kilobytes, and so
//! does a call whose request never comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls of a port at a time, watches and scans among them: more than any cluster was seen to need, and less than a
/// gigabyte of memory.
pub const CALLS_MAX: usize = 65_536;

/// The calls that are open on a port.
#[derive(Debug)]
pub struct OpenCalls {
    count: AtomicUsize,
    max: usize,
}

impl OpenCalls {
    /// None yet, and so many at most.
    pub fn new(max: usize) -> Arc<OpenCalls> {
        Arc::new(OpenCalls { count: AtomicUsize::new(0), max })
    }

    /// The part of a new connection.
    pub fn connection(self: &Arc<Self>) -> ConnectionCalls {
        ConnectionCalls(Arc::new(Part { port: self.clone(), count: AtomicUsize::new(0) }))
    }
}

/// The calls that are open on one connection.
#[derive(Clone, Debug)]
pub struct ConnectionCalls(Arc<Part>);

#[derive(Debug)]
struct Part {
    port: Arc<OpenCalls>,
    count: AtomicUsize,
}

impl ConnectionCalls {
    /// A place for a call. A connection that has some gets more while it has no more than is left for others. Calls
    /// that begin at once on several threads may be a few too many.
    pub fn open(&self) -> Option<OpenCall> {
        let Part { port, count } = &*self.0;
        let (all, own) = (port.count.load(Ordering::Relaxed), count.load(Ordering::Relaxed));
        let free = port.max.saturating_sub(all);
        if free == 0 || own > free {
            return None;
        }
        port.count.fetch_add(1, Ordering::Relaxed);
        count.fetch_add(1, Ordering::Relaxed);
        Some(OpenCall(self.0.clone()))
    }
}

/// A call's place, until it is dropped.
#[derive(Debug)]
pub struct OpenCall(Arc<Part>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        self.0.port.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: calls are bounded, and no connection takes what others need. Method: connections that open all they can.
    #[test]
    fn a_greedy_connection_leaves_places_to_others() {
        let port = OpenCalls::new(100);
        let all = |connection: &ConnectionCalls| std::iter::from_fn(|| connection.open()).collect::<Vec<_>>();
        let (one, other, last) = (port.connection(), port.connection(), port.connection());
        let held = all(&one);
        assert_eq!(held.len(), 51, "half, and one more");
        let of_other = all(&other);
        assert_eq!(of_other.len(), 25);
        assert!(last.open().is_some(), "who has none finds a place");
        drop(of_other);
        assert!(one.open().is_none(), "it has more than is left");
        drop(held);
        assert_eq!(port.count.load(Ordering::Relaxed), 0);
        assert_eq!(all(&last).len(), 51);
    }
}
