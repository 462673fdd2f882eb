//! Replacing pods that were made from an older template: one at a time, the leader last.

use super::view::View;
use super::{About, Decided, Notes, recovery, risky, safe, wait};
use crate::observed::{Observed, Pod};
use crate::step::{Risky, Step};

/// Outdated pods that do not run are replaced whatever else is the matter: nothing is lost by it, and
/// a corrected spec heals what a bad one broke.
pub fn broken(observed: &Observed) -> Decided {
    let mut broken = outdated(observed).filter(|(_, pod)| !pod.running && !pod.deleting);
    let (&ordinal, pod) = broken.find(|(ordinal, _)| !recovery::holds(observed, **ordinal))?;
    let version = pod.version.clone();
    risky(Risky::DeletePod { ordinal, version }, format!("pod {ordinal} is outdated and does not run"))
}

/// The next outdated pod that runs.
pub fn next(view: &View, notes: &mut Notes) -> Decided {
    let set = view.observed.stateful_set.as_ref()?;
    outdated(view.observed).next()?;
    for ordinal in 0..set.replicas {
        let Some(pod) = view.observed.pods.get(&ordinal) else {
            return wait(format!("pod {ordinal} to come back"));
        };
        if pod.deleting || !pod.ready {
            if let Some(trouble) = &pod.trouble {
                let message = format!("the rolling change stops until pod {ordinal} is ready: {trouble}");
                notes.add(About::Degraded, "RolloutStopped", message);
            }
            return wait(format!("pod {ordinal} to be ready before the next one is replaced"));
        }
    }
    let leader = view.ordinal(view.leader.node_id);
    // Followers first, from the highest ordinal down.
    let follower = outdated(view.observed).rev().find(|(ordinal, _)| Some(**ordinal) != leader);
    let (&ordinal, pod) = follower.or_else(|| outdated(view.observed).next())?;
    if !may_restart(view, ordinal) {
        return wait(format!("a caught-up majority without member {ordinal}, which is to be restarted"));
    }
    let heir = view.heir(&view.voters);
    match heir {
        Some(to) if Some(ordinal) == leader => {
            safe(Step::TransferLeader { to }, "the leader is to be restarted, last of all")
        }
        _ => {
            let version = pod.version.clone();
            risky(Risky::DeletePod { ordinal, version }, format!("pod {ordinal} is outdated"))
        }
    }
}

/// A majority has caught up without it. One or two members cannot do without any: there all must have
/// caught up, and the interruption is announced by the step's event.
fn may_restart(view: &View, ordinal: u32) -> bool {
    match view.voters.len() {
        0..=2 => view.fit_among(&view.voters) == view.voters.len(),
        _ => view.quorum_without(&view.voters_at(ordinal)),
    }
}

fn outdated(observed: &Observed) -> impl DoubleEndedIterator<Item = (&u32, &Pod)> {
    let template = observed.stateful_set.as_ref().map(|set| (&set.template, set.replicas));
    observed.pods.iter().filter(move |(ordinal, pod)| {
        template.is_some_and(|(template, replicas)| **ordinal < replicas && pod.template != *template)
    })
}
