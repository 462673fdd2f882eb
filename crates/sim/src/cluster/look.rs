//! What is looked at every second and at the end: what members say of themselves, and why processes have ended.

use std::collections::BTreeMap;

use kvorum_node::observer::Seen;
use kvorum_store::{StoreError, verify_state};

use super::{AFTERMATH, Cluster, Violation};
use crate::world::clock::{Micros, SECOND};
use crate::world::network::HostId;
use crate::world::{TRUE_PPM, World};

/// How a process says that its disk has failed, and that it is full.
const DISK_FAILED: &str = "os error 5";
const DISK_FULL: &str = "no storage space";
/// How it says that its disk has rotted.
const DAMAGED: [&str; 2] = ["damage", "missing"];
/// Clocks that are so far off at most are as they are as a rule.
const DRIFT_PPM_MAX: u64 = 1000;
/// How long what was lost of the network's messages may be under way after that.
const OUTSTANDING: Micros = 10 * SECOND;
/// While no fault has touched a majority for so long, writes are taken.
const WRITES_MAX: Micros = 20 * SECOND;
/// A member whose disk has been full for so long has said so.
const FULL_MAX: Micros = 4 * SECOND;

impl Cluster {
    /// The look of every second.
    pub(super) fn look(&mut self, world: &World) -> Result<(), Violation> {
        let (now, seen) = (world.clock.now(), self.seen(world));
        let furthest = seen.values().map(|seen| seen.positions.applied).max().unwrap_or_default();
        for (host, seen) in &seen {
            self.checks.look(*host, now, seen, self.calm.since(*host), furthest);
        }
        self.look_at_time(world, &seen);
        self.written = self.written.max(self.orders.decided());
        let since = self.calm.majority_since().max(self.written).max(self.orders.founded());
        // An operator may have a majority of the members start anew, one after the other.
        let is_expected = self.operated.is_none() && self.orders.founded() > 0 && !self.orders.is_over();
        if is_expected && now > since + WRITES_MAX {
            let seconds = (now - since) / SECOND;
            return Err(format!("no write was taken for {seconds} s, though a majority was left alone"));
        }
        for (host, since) in &self.full {
            let Some(node_id) = seen.get(host).map(|seen| seen.place.node_id) else { continue };
            let is_told = seen.values().any(|seen| seen.store.space_alarms().contains(&node_id));
            if now > self.calm.majority_since().max(*since) + FULL_MAX && !is_told {
                return Err(format!("the disk of member {host} is full, and nobody is told"));
            }
        }
        Ok(())
    }

    /// Cluster time where a majority of the members has not been started anew. Operators have the members change, and where
    /// clocks are far off, whoever is cut off for a while is too.
    fn look_at_time(&mut self, world: &World, seen: &BTreeMap<HostId, Seen>) {
        let now = world.clock.now();
        for (host, seen) in seen {
            if self.informed[*host] > now && seen.place.leader.is_some() {
                self.informed[*host] = now;
            }
        }
        let drift_ppm = (0..self.members).map(|host| world.hosts[host].clock_ppm.abs_diff(TRUE_PPM)).max();
        let is_true = drift_ppm.is_some_and(|drift_ppm| drift_ppm <= DRIFT_PPM_MAX);
        if !is_true || self.operated.is_some() || self.orders.is_forged() {
            return;
        }
        let leads = seen.values().filter(|seen| seen.place.is_leader()).max_by_key(|seen| seen.place.term);
        let Some(leader) = leads else { return };
        let mut informed = self.informed.clone();
        informed.sort_unstable();
        let steady_since = informed[informed.len() / 2].max(self.calm.network_since() + OUTSTANDING);
        self.checks.look_at_time(now, leader.cluster_time_ms, steady_since);
    }

    /// What a member may end itself for, or refuse to start: a disk on which nothing has moved for a minute, one that
    /// failed, and one that was full for longer than apply waits.
    pub(super) fn is_expected(&self, world: &World, host: HostId, why: &str) -> bool {
        let now = world.clock.now();
        let failed = now < self.errors_until[host] + AFTERMATH && why.contains(DISK_FAILED);
        let has_rotted = self.rotten.contains_key(&host) && DAMAGED.iter().any(|word| why.contains(word));
        let was_full = now < self.full_until[host] + AFTERMATH && why.contains(DISK_FULL);
        why.contains("the process ends, and the other members go on without it")
            || failed
            || was_full
            || has_rotted
    }

    /// At the end every row of every member's store is as the others want it, and counted.
    pub fn check_rows(&self, world: &World) -> Result<(), Violation> {
        let sound = self.seen(world).into_iter().filter(|(host, _)| !self.rotten.contains_key(host));
        for (host, seen) in sound {
            let told =
                |error: StoreError| format!("the store of member {host} cannot be read through: {error}");
            seen.store.flush().map_err(told)?;
            if let Some(finding) = verify_state(&world.hosts[host].dir).map_err(told)?.first() {
                return Err(format!("the store of member {host} is not sound: {}", finding.detail));
            }
        }
        Ok(())
    }

    /// At the end all members hold the same, and say so.
    pub fn check_equal(&self, world: &World) -> Result<(), Violation> {
        let mut first = None;
        for (host, seen) in self.seen(world) {
            let revision = seen.store.revision();
            let hash = seen.store.hash(revision).map_err(|error| format!("member {host}: {error}"))?;
            let members: Vec<u64> = seen.place.members.iter().map(|member| member.node_id).collect();
            let (level, bytes) = (seen.store.feature_level(), seen.store.logical_bytes());
            let held = (revision, hash, seen.store.auth().hash(), members, level, bytes);
            let known = first.get_or_insert_with(|| held.clone());
            if *known != held {
                return Err(format!("member {host} ends with {held:x?}, and another one with {known:x?}"));
            }
        }
        Ok(())
    }
}
