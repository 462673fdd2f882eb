//! The endpoints of a cluster: which of them leads, and whether they are still the same cluster.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use kvorum_proto::kv::v1 as wire;

use crate::Error;
use crate::address::Address;
use crate::connect::ConnectOptions;
use crate::node::Node;
use crate::options::Route;

/// How many endpoints are kept: the configured ones and those that the cluster named. A cluster has at
/// most seven members; the rest is room for changes of the membership and for load balancers.
pub(crate) const ENDPOINTS_MAX: usize = 32;

/// The endpoints of one cluster.
#[derive(Debug)]
pub(crate) struct Pool {
    nodes: RwLock<Nodes>,
    /// 0 until a node has answered.
    cluster_id: AtomicU64,
    /// The highest incarnation seen. A node of a lower one is of a history that the cluster has left.
    incarnation: AtomicU64,
    /// The highest term seen; a higher one may mean another leader.
    term: AtomicU64,
    searching: AtomicBool,
    settings: Settings,
}

/// What the builder was told.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) timeout: Duration,
    pub(crate) connect: ConnectOptions,
    pub(crate) find_leader: bool,
}

/// The list grows and is never reordered. The lock around it is held for a look or a change only.
#[derive(Debug)]
struct Nodes {
    all: Vec<Arc<Node>>,
    /// The leader as far as known, else any that works.
    preferred: usize,
    /// Where this client sends what any node can answer by itself, so that many clients spread.
    home: usize,
}

impl Pool {
    pub(crate) fn new(addresses: Vec<Address>, home: usize, settings: Settings) -> Pool {
        debug_assert!(!addresses.is_empty(), "the builder refuses an empty list");
        let all: Vec<_> = addresses.into_iter().map(|address| Arc::new(Node::new(address))).collect();
        let home = home % all.len();
        Pool {
            nodes: RwLock::new(Nodes { all, preferred: home, home }),
            cluster_id: AtomicU64::new(0),
            incarnation: AtomicU64::new(0),
            term: AtomicU64::new(0),
            searching: AtomicBool::new(false),
            settings,
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The cluster's id; 0 until a node has answered.
    pub(crate) fn cluster_id(&self) -> u64 {
        self.cluster_id.load(Ordering::Relaxed)
    }

    /// Every endpoint known.
    pub(crate) fn nodes(&self) -> Vec<Arc<Node>> {
        self.read().all.clone()
    }

    /// The endpoint to begin with.
    pub(crate) fn first(&self, route: Route) -> Arc<Node> {
        let nodes = self.read();
        let index = match route {
            Route::Leader => nodes.preferred,
            Route::Home => nodes.home,
        };
        Arc::clone(&nodes.all[index])
    }

    /// The endpoint after `node` that `skip` does not rule out.
    pub(crate) fn next(&self, node: &Arc<Node>, skip: impl Fn(&Arc<Node>) -> bool) -> Option<Arc<Node>> {
        let nodes = self.read();
        let at = nodes.all.iter().position(|other| Arc::ptr_eq(other, node)).unwrap_or_default();
        let (before, after) = nodes.all.split_at(at);
        after.iter().chain(before).find(|node| !skip(node)).cloned()
    }

    /// The endpoint with this address, added if it is new and there is room.
    pub(crate) fn named(&self, address: &str) -> Option<Arc<Node>> {
        let address: Address = address.parse().ok()?;
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = nodes.all.iter().find(|node| *node.address() == address) {
            return Some(Arc::clone(node));
        }
        if nodes.all.len() >= ENDPOINTS_MAX {
            return None;
        }
        let node = Arc::new(Node::new(address));
        nodes.all.push(Arc::clone(&node));
        Some(node)
    }

    /// Later calls begin with `node`.
    pub(crate) fn prefer(&self, node: &Arc<Node>) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = nodes.all.iter().position(|other| Arc::ptr_eq(other, node)) {
            nodes.preferred = at;
        }
    }

    /// Later calls begin elsewhere.
    pub(crate) fn pass_over(&self, node: &Arc<Node>) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let count = nodes.all.len();
        if Arc::ptr_eq(&nodes.all[nodes.preferred], node) {
            nodes.preferred = (nodes.preferred + 1) % count;
        }
        if Arc::ptr_eq(&nodes.all[nodes.home], node) {
            nodes.home = (nodes.home + 1) % count;
        }
    }

    /// Takes an answer's header in: whether its term is higher than any before, so that another node may lead.
    /// Refuses the answer of another cluster, and of an earlier incarnation.
    pub(crate) fn take_in(&self, node: &Node, header: &wire::Header) -> Result<bool, Error> {
        node.answered_as(header.node_id);
        let known = self.cluster_id();
        if known != header.cluster_id && header.cluster_id != 0 {
            self.settle_cluster(node, header.cluster_id)?;
        }
        // An older release does not say its incarnation.
        if header.incarnation != 0 {
            let known = self.incarnation.fetch_max(header.incarnation, Ordering::Relaxed);
            if header.incarnation < known {
                let (endpoint, found) = (node.address().to_string(), header.incarnation);
                return Err(Error::IncarnationWentBack { endpoint, known, found });
            }
        }
        // Most answers tell no news, and a look costs less than an exchange.
        Ok(header.term > self.term() && header.term > self.term.fetch_max(header.term, Ordering::Relaxed))
    }

    fn settle_cluster(&self, node: &Node, found: u64) -> Result<(), Error> {
        match self.cluster_id.compare_exchange(0, found, Ordering::Relaxed, Ordering::Relaxed) {
            Err(expected) if expected != found => {
                Err(Error::ClusterChanged { endpoint: node.address().to_string(), expected, found })
            }
            _ => Ok(()),
        }
    }

    /// Whether the caller is to look for the leader: nobody does already.
    pub(crate) fn begin_search(&self) -> bool {
        !self.searching.swap(true, Ordering::Relaxed)
    }

    /// The leader is looked for no more.
    pub(crate) fn end_search(&self) {
        self.searching.store(false, Ordering::Relaxed);
    }

    /// The highest term that was seen.
    pub(crate) fn term(&self) -> u64 {
        self.term.load(Ordering::Relaxed)
    }

    /// The endpoint of a member: one that answered under its id, else its own address.
    pub(crate) fn endpoint_of(&self, node_id: u64, members: &[wire::Member]) -> Option<Arc<Node>> {
        if let Some(node) = self.read().all.iter().find(|node| node.node_id() == node_id) {
            return Some(Arc::clone(node));
        }
        let member = members.iter().find(|member| member.node_id == node_id)?;
        self.named(&member.client_address)
    }

    fn read(&self) -> RwLockReadGuard<'_, Nodes> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner)
    }
}
