//! Whether a cluster is less safe than wanted, and why.

use std::collections::BTreeMap;

use super::quorum::QUORUM_LOST_AFTER;
use super::verdict::{Verdict, verdict};
use crate::apply::ApplyError;
use crate::names;
use crate::observe::Seen;
use crate::observed::{Monitor, Observed};
use crate::plan::{About, Plan};
use crate::step::Step;

/// The first of what is wrong, the gravest first.
pub fn degraded(seen: &Seen, plan: &Plan, outcome: &Result<(), ApplyError>) -> Verdict {
    let observed = &seen.observed;
    // The condition AccessProblem speaks of users and rights.
    let declares = matches!(plan.step, Step::ApplyAccess { .. });
    if let Err(error @ (ApplyError::Kubernetes { .. } | ApplyError::Node { .. })) = outcome
        && !declares
    {
        return verdict(
            "Degraded",
            true,
            "StepFailed",
            format!("{}: {error}. It is tried again.", plan.step.failed(&seen.name)),
        );
    }
    if let Err(ApplyError::Refused(said)) = outcome {
        return verdict("Degraded", true, "SpecRefused", said.clone());
    }
    if let Some(note) = plan.notes.iter().find(|note| note.about == About::Degraded) {
        return verdict("Degraded", true, note.reason, note.message.clone());
    }
    if let (Some(member), true) = (observed.vouched(), seen.leaderless > QUORUM_LOST_AFTER) {
        let message = format!(
            "The operator does not reach the leader, which member {} does; nothing is repaired meanwhile. Look for a \
             NetworkPolicy or a broken network between the operator and the other members.",
            names::pod(&seen.name, member)
        );
        return verdict("Degraded", true, "LeaderUnreachable", message);
    }
    let alarm = observed.nodes.iter().find(|(_, node)| !node.alarms.is_empty());
    if let Some((ordinal, node)) = alarm {
        let message = format!(
            "Member {} raises {}; docs/operations.md says what to do.",
            names::pod(&seen.name, *ordinal),
            node.alarms.join(", ")
        );
        return verdict("Degraded", true, "Alarm", message);
    }
    if let Some((ordinal, node)) = observed.nodes.iter().find(|(_, node)| !node.status_only.is_empty()) {
        let message =
            format!("Member {} takes no part: {}", names::pod(&seen.name, *ordinal), node.status_only);
        return verdict("Degraded", true, "StatusOnly", message);
    }
    if let Some((ordinal, pod)) = observed.pods.iter().find(|(_, pod)| pod.stuck) {
        let machine = pod.machine.as_deref().unwrap_or("its machine");
        let message = format!(
            "Pod {} is deleted, but {machine} does not say that it has ended. If that machine is gone, delete its Node, or \
             taint it with node.kubernetes.io/out-of-service=nodeshutdown:NoExecute",
            names::pod(&seen.name, *ordinal)
        );
        return verdict("Degraded", true, "PodStuck", message);
    }
    if let Some(broken) = without_pod(observed) {
        return broken;
    }
    if let Some(machine) = shared_machine(observed) {
        let message = format!("Two members run on {machine}, whose loss would cost both: add machines.");
        return verdict("Degraded", true, "SharedMachine", message);
    }
    if let Monitor::Impossible(why) = &observed.monitor {
        return verdict("Degraded", true, "NoPodMonitor", why.clone());
    }
    verdict("Degraded", false, "None", "No member is in trouble.")
}

/// A member whose pod does not run, or cannot be made.
fn without_pod(observed: &Observed) -> Option<Verdict> {
    if let Some((ordinal, pod)) = observed.pods.iter().find(|(_, pod)| !pod.ready && pod.troubled) {
        let message = format!("Pod {} does not run: {}", observed.pod_name(*ordinal), pod.why_not_ready());
        return Some(verdict("Degraded", true, "PodNotRunning", message));
    }
    let ordinal = observed.unmade.first()?;
    let message = format!(
        "Pod {} is not made: `kubectl describe statefulset {}` says why, a quota or an admission webhook for example.",
        observed.pod_name(*ordinal),
        observed.name
    );
    Some(verdict("Degraded", true, "PodNotMade", message))
}

fn shared_machine(observed: &Observed) -> Option<&str> {
    let mut members: BTreeMap<&str, u32> = BTreeMap::new();
    for machine in observed.pods.values().filter_map(|pod| pod.machine.as_deref()) {
        *members.entry(machine).or_default() += 1;
    }
    members.into_iter().find(|(_, count)| *count > 1).map(|(machine, _)| machine)
}
