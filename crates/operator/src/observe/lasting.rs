//! What only lasts, or has lasted long enough to mean something: told by the operator's memory.

use std::collections::BTreeSet;
use std::time::Duration;

use super::objects::Objects;
use super::{growth, machines};
use crate::memory::Memory;
use crate::observed::Observed;

/// A pod that does not run so long after it was made finds no machine, volume or image.
const PENDING_AFTER: Duration = Duration::from_secs(120);

/// A pod that says why it does not run is in trouble after so long, and until it is ready: a container may be told to
/// start once more, and a scheduler may think again.
const TROUBLED_AFTER: Duration = Duration::from_secs(10);

/// A pod that the StatefulSet has not made for so long cannot be made: that takes less than a second.
const UNMADE_AFTER: Duration = Duration::from_secs(20);

/// A pod that is still there so long after its deletion began is stuck: its grace period is 30 s.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Ordinals whose pod should be there, and has not been for a while.
pub fn unmade(observed: &Observed, memory: &mut Memory) -> BTreeSet<u32> {
    let set = observed.stateful_set.as_ref().filter(|set| !set.deleting && !observed.deleting);
    let wanted = 0..set.map_or(0, |set| set.replicas);
    let mut lasts = |ordinal: &u32| {
        let absent = !observed.pods.contains_key(ordinal);
        memory.lasts(&format!("absence of pod {ordinal}"), absent) > UNMADE_AFTER
    };
    wanted.filter(|ordinal| lasts(ordinal)).collect()
}

/// Adds which file systems wait for another pod, where they have had the time to do without.
pub fn add_growth(observed: &mut Observed, objects: &Objects, memory: &mut Memory) {
    for (ordinal, claim) in &mut observed.claims {
        let waits = objects
            .claims
            .get(ordinal)
            .is_some_and(|claim| growth::waits_for_next_pod(claim, objects.pods.get(ordinal)));
        let what = format!("growth of claim {}", claim.version.uid);
        claim.grows_on_restart = memory.lasts(&what, waits) > growth::GROWS_WITHIN;
    }
}

/// Adds what is known of machines, and how long what waits has waited.
pub fn add_machines(observed: &mut Observed, machines: machines::Machines, memory: &mut Memory) {
    for pod in observed.pods.values_mut() {
        let lasts = memory.lasts(&format!("deletion of pod {}", pod.version.uid), pod.deleting);
        pod.stuck = lasts > STUCK_AFTER;
        let waits = !pod.running && !pod.deleting;
        pod.pending = memory.lasts(&format!("start of pod {}", pod.version.uid), waits) > PENDING_AFTER;
        let what = format!("trouble of pod {}", pod.version.uid);
        let says = (pod.trouble.is_some() && !pod.starts) || memory.holds(&what);
        let troubled = memory.lasts(&what, says && !pod.ready && !pod.deleting) > TROUBLED_AFTER;
        pod.troubled = troubled || pod.pending;
        pod.machine_ready = pod.machine.as_ref().is_some_and(|machine| machines.ready.contains(machine));
    }
    for (ordinal, claim) in &mut observed.claims {
        claim.standby = machines.standby.contains(ordinal);
        let what = format!("deletion of claim {}", claim.version.uid);
        claim.deleting_for = memory.lasts(&what, claim.deleting);
    }
    for (ordinal, place) in machines.of_claims {
        if let Some(claim) = observed.claims.get_mut(&ordinal) {
            (claim.machine, claim.home) = (place.machine, place.home);
        }
    }
}
