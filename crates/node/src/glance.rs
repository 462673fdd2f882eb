//! Looks at a running node for whoever observes it.

use std::sync::{Arc, Weak};

use crate::health::{Health, WeakHealth};
use crate::observer::{Glance, Seen};
use crate::watch::WatchHub;

/// A node, as long as it runs.
pub struct RunningNode {
    health: WeakHealth,
    hub: Weak<WatchHub>,
    send_budget_bytes: usize,
}

impl RunningNode {
    /// The node with this health and these watches, which has so many bytes for what is to be sent.
    pub fn new(health: &Health, hub: &Arc<WatchHub>, send_budget_bytes: usize) -> RunningNode {
        RunningNode { health: health.downgrade(), hub: Arc::downgrade(hub), send_budget_bytes }
    }
}

impl Glance for RunningNode {
    fn look(&self) -> Option<Seen> {
        let (health, hub) = (self.health.upgrade()?, self.hub.upgrade()?);
        let raft = health.raft();
        let mut queues = raft.queues().to_vec();
        let (ring, ring_max) = hub.ring_bytes();
        let to_send = raft.metrics().send_budget.get();
        queues.push(("ring of watches", ring as u64, ring_max as u64));
        queues.push((
            "send budget",
            u64::try_from(to_send).unwrap_or_default(),
            self.send_budget_bytes as u64,
        ));
        Some(Seen {
            place: raft.overview(),
            ready: health.ready(),
            positions: raft.positions(),
            cluster_time_ms: raft.cluster_now_ms(),
            alarms: raft.alarms(),
            store: raft.store().clone(),
            queues,
        })
    }
}
