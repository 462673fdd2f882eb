//! What the operator remembers of one cluster between two looks. None of it is needed for safety: an
//! operator that was restarted learns it again.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use kvorum_client::ConnectOptions;
use kvorum_client::admin::AdminClient;

use crate::names::PEER_PORT;

/// How long a node may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What nobody has asked about in so many looks is over: pods and claims have a name of their own each time that
/// they are made. A few looks may fail half-way and ask about nothing.
const UNASKED_LOOKS_MAX: u64 = 10;

/// What Kubernetes has refused is not asked for again before.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct Memory {
    /// How nodes are connected to.
    connect: ConnectOptions,
    /// How long a node may take to answer.
    answer_max: Duration,
    /// For each object that was applied, its hash and the version it had then.
    applied: BTreeMap<&'static str, (String, String)>,
    /// Objects that Kubernetes has refused.
    refused: BTreeMap<&'static str, Refused>,
    /// Since when something has been so without a break.
    since: BTreeMap<String, Lasting>,
    /// Looks so far.
    looks: u64,
    /// Connections, by pod address.
    nodes: BTreeMap<String, AdminClient>,
    /// Events that were published, so that a wait is told once.
    pub(crate) told: Option<String>,
}

/// An object that was refused.
#[derive(Clone, Debug)]
struct Refused {
    /// The object's hash.
    hash: String,
    since: Instant,
    /// Why, and what to do: whole sentences.
    said: String,
}

/// Something that holds.
#[derive(Clone, Copy, Debug)]
struct Lasting {
    since: Instant,
    /// The last look that asked about it.
    asked: u64,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::reaching(ConnectOptions::new(), ANSWER_MAX)
    }
}

impl Memory {
    /// For whoever reaches pods by another way than their addresses, or has to be more patient.
    pub fn reaching(connect: ConnectOptions, answer_max: Duration) -> Memory {
        Memory {
            connect,
            answer_max,
            applied: BTreeMap::new(),
            refused: BTreeMap::new(),
            since: BTreeMap::new(),
            looks: 0,
            nodes: BTreeMap::new(),
            told: None,
        }
    }

    /// How nodes are connected to.
    pub fn connect_options(&self) -> ConnectOptions {
        self.connect.clone()
    }

    /// The object is as it was applied, and nobody has touched it since.
    pub fn is_applied(&self, object: &'static str, hash: &str, version: &str) -> bool {
        self.applied.get(object).is_some_and(|(h, v)| h == hash && v == version)
    }

    /// Remembers what was applied.
    pub fn applied(&mut self, object: &'static str, hash: String, version: String) {
        self.refused.remove(object);
        self.applied.insert(object, (hash, version));
    }

    /// Remembers that Kubernetes refuses an object as it should be.
    pub fn refused(&mut self, object: &'static str, hash: String, said: String) {
        self.refused.insert(object, Refused { hash, since: Instant::now(), said });
    }

    /// Why Kubernetes has refused this very object, and whether it is time to ask again.
    pub fn refusal(&self, object: &'static str, hash: &str) -> Option<(&str, bool)> {
        let refused = self.refused.get(object).filter(|refused| refused.hash == hash)?;
        Some((&refused.said, refused.since.elapsed() >= REFUSED_FOR))
    }

    /// For how long `what` has held; it is forgotten once it does not.
    pub fn lasts(&mut self, what: &str, holds: bool) -> Duration {
        if !holds {
            self.since.remove(what);
            return Duration::ZERO;
        }
        let asked = self.looks;
        match self.since.get_mut(what) {
            Some(lasting) => {
                lasting.asked = asked;
                lasting.since.elapsed()
            }
            None => {
                self.since.insert(what.to_owned(), Lasting { since: Instant::now(), asked });
                Duration::ZERO
            }
        }
    }

    /// `what` held when it was last looked at.
    pub fn holds(&self, what: &str) -> bool {
        self.since.contains_key(what)
    }

    /// A look is over. Forgets what nobody asks about any more, such as a pod that is gone.
    pub fn forget_what_nobody_asks(&mut self) {
        self.looks += 1;
        let looks = self.looks;
        self.since.retain(|_, lasting| looks - lasting.asked <= UNASKED_LOOKS_MAX);
    }

    /// Has it that `what` has held since then.
    #[cfg(test)]
    pub fn since(&mut self, what: &str, then: Instant) {
        self.since.insert(what.to_owned(), Lasting { since: then, asked: self.looks });
    }

    /// Lets go of connections to pods that are gone.
    pub fn keep_nodes(&mut self, addresses: &[String]) {
        self.nodes.retain(|address, _| addresses.contains(address));
        for address in addresses {
            if !self.nodes.contains_key(address)
                && let Ok(node) = AdminClient::new(&peer_address(address), self.answer_max)
            {
                self.nodes.insert(address.clone(), node.connect_options(self.connect.clone()));
            }
        }
    }

    /// The connection to a pod.
    pub fn node(&self, address: &str) -> Option<&AdminClient> {
        self.nodes.get(address)
    }
}

/// host:port of a pod's peer port.
pub fn peer_address(address: &str) -> String {
    host_port(address, PEER_PORT)
}

/// host:port of a port at a pod's address, of either IP version.
pub fn host_port(address: &str, port: impl Display) -> String {
    match address.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        _ => format!("{address}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a cluster whose pods come and go for months costs no more memory than one that was just made.
    #[test]
    fn what_is_gone_is_forgotten() {
        let mut memory = Memory::default();
        for pod in 0..1000 {
            memory.lasts(&format!("deletion of pod {pod}"), true);
            memory.lasts("leaderless", true);
            memory.forget_what_nobody_asks();
            assert!(memory.since.len() as u64 <= UNASKED_LOOKS_MAX + 2, "{} are kept", memory.since.len());
        }
        assert!(memory.since.contains_key("leaderless"), "it lasts");
    }
}
