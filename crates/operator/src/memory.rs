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

/// See the module.
#[derive(Debug)]
pub struct Memory {
    /// How nodes are connected to.
    connect: ConnectOptions,
    /// How long a node may take to answer.
    answer_max: Duration,
    /// For each object that was applied, its hash and the version it had then.
    applied: BTreeMap<&'static str, (String, String)>,
    /// Since when something has been so without a break.
    since: BTreeMap<String, Instant>,
    /// Connections, by pod address.
    nodes: BTreeMap<String, AdminClient>,
    /// Events that were published, so that a wait is told once.
    pub(crate) told: Option<String>,
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
            since: BTreeMap::new(),
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
        self.applied.insert(object, (hash, version));
    }

    /// For how long `what` has held; it is forgotten once it does not.
    pub fn lasts(&mut self, what: &str, holds: bool) -> Duration {
        if !holds {
            self.since.remove(what);
            return Duration::ZERO;
        }
        match self.since.get(what) {
            Some(since) => since.elapsed(),
            None => {
                self.since.insert(what.to_owned(), Instant::now());
                Duration::ZERO
            }
        }
    }

    /// Has it that `what` has held since then.
    #[cfg(test)]
    pub fn since(&mut self, what: &str, then: Instant) {
        self.since.insert(what.to_owned(), then);
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
