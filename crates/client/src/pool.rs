//! The endpoints of a cluster: which of them leads, and whether they are still the same cluster.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use kvorum_proto::kv::v1 as wire;
use tokio::time::Instant;

use crate::Error;
use crate::address::Address;
use crate::call::{CallOptions, Route};
use crate::node::Node;

/// How many endpoints are kept: the configured ones and those that the cluster named. A cluster has at
/// most seven members; the rest is room for changes of the membership and for load balancers.
pub(crate) const ENDPOINTS_MAX: usize = 32;
/// How often the leader is asked for before the search is given up until the next occasion, and how
/// long it pauses after each. Together they outlast an election.
const SEARCHES: u32 = 20;
const SEARCH_PAUSE: Duration = Duration::from_millis(200);
/// How long one question for the leader may take.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(2);

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
    pub(crate) connect_timeout: Duration,
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

    /// Later calls begin elsewhere, and the leader is looked for.
    pub(crate) fn avoid(self: &Arc<Self>, node: &Arc<Node>) {
        {
            let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
            let count = nodes.all.len();
            if Arc::ptr_eq(&nodes.all[nodes.preferred], node) {
                nodes.preferred = (nodes.preferred + 1) % count;
            }
            if Arc::ptr_eq(&nodes.all[nodes.home], node) {
                nodes.home = (nodes.home + 1) % count;
            }
        }
        self.search();
    }

    /// Learns from an answer's header. Refuses the answer of another cluster, and of an earlier incarnation.
    pub(crate) fn learn(self: &Arc<Self>, node: &Node, header: &wire::Header) -> Result<(), Error> {
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
        if header.term > self.term.load(Ordering::Relaxed) {
            self.term.fetch_max(header.term, Ordering::Relaxed);
            self.search();
        }
        Ok(())
    }

    fn settle_cluster(&self, node: &Node, found: u64) -> Result<(), Error> {
        match self.cluster_id.compare_exchange(0, found, Ordering::Relaxed, Ordering::Relaxed) {
            Err(expected) if expected != found => {
                Err(Error::ClusterChanged { endpoint: node.address().to_string(), expected, found })
            }
            _ => Ok(()),
        }
    }

    /// Makes sure that somebody answers, and finds the leader if there is one.
    pub(crate) async fn greet(self: &Arc<Self>) -> Result<(), Error> {
        // What the answer teaches need not be looked for a second time in the background.
        self.searching.store(true, Ordering::Relaxed);
        let found = self.find_leader(self.settings.timeout).await;
        self.searching.store(false, Ordering::Relaxed);
        found.map(drop)
    }

    /// Looks for the leader in the background, if nobody does already.
    fn search(self: &Arc<Self>) {
        if !self.settings.find_leader || self.searching.swap(true, Ordering::Relaxed) {
            return;
        }
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            for _ in 0..SEARCHES {
                // A client that was dropped meanwhile needs no leader.
                let Some(pool) = pool.upgrade() else { return };
                let found = pool.find_leader(SEARCH_TIMEOUT).await;
                drop(pool);
                if matches!(found, Ok(true)) {
                    break;
                }
                tokio::time::sleep(SEARCH_PAUSE).await;
            }
            if let Some(pool) = pool.upgrade() {
                pool.searching.store(false, Ordering::Relaxed);
            }
        });
    }

    /// Asks the cluster who leads and prefers that endpoint. Whether it is known.
    async fn find_leader(self: &Arc<Self>, timeout: Duration) -> Result<bool, Error> {
        let options = CallOptions::read(timeout, Route::Leader);
        let answer = self.call(&wire::MembersRequest {}, options).await?;
        let leader = answer.leader_id;
        let term = answer.header.map_or(0, |header| header.term);
        if leader == 0 || term < self.term.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let Some(node) = self.endpoint_of(leader, &answer.members) else { return Ok(false) };
        // An endpoint that cannot be reached from here, such as an address inside the cluster, stays
        // out of the way: every node takes every request.
        let until = Instant::now() + self.settings.connect_timeout;
        if self.connected(&node, until).await.is_ok() {
            self.prefer(&node);
        }
        Ok(true)
    }

    /// The endpoint of a member: one that answered under its id, else its own address.
    fn endpoint_of(&self, node_id: u64, members: &[wire::Member]) -> Option<Arc<Node>> {
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
