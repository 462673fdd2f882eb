//! What a node has of the machine that it runs on, as values that are passed in where it is put together:
//! so the same node runs on another network, or with other threads, without knowing it.

use std::sync::Arc;

use kvorum_store as store;

use crate::audit::Audit;
use crate::blocking::{Blocking, ThreadPool};
use crate::net::network::Net;
use crate::net::tcp::Tcp;
use crate::observer::Observer;

/// A machine. Clones are the same one.
#[derive(Clone)]
pub struct Machine {
    /// How others are reached, and how they reach this node.
    pub net: Net,
    /// Does what may wait for the disk.
    pub blocking: Blocking,
    /// Its disk, and what works beside its callers.
    pub store: store::Machine,
    /// Who looks on at what the node does; in production nobody.
    pub observer: Option<Arc<dyn Observer>>,
    /// Who is told of each call, if anybody is.
    pub audit: Option<Audit>,
}

impl Machine {
    /// The one that the process runs on: its TCP, the threads of its runtimes and of its own, its disk.
    pub fn real() -> Machine {
        let (net, blocking) = (Arc::new(Tcp), Blocking::new(ThreadPool));
        Machine { net, blocking, store: store::Machine::system(), observer: None, audit: None }
    }
}
