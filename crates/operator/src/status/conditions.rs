//! The conditions, but for those that need more words.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kvorum_crd::{AuthMode, KvClusterStatus};

use super::access;
use super::degraded::degraded;
use super::quorum::{QUORUM_LOST_AFTER, quorum};
use super::tls;
use super::verdict::{Verdict, verdict};
use crate::apply::ApplyError;
use crate::observe::Seen;
use crate::plan::{About, Plan, View, WHAT_CAN_BE, is_rolling};
use crate::step::Step;

/// An election, or a leader that hands over, takes less: nothing is said of it, as no member is unready for it.
const LEADERLESS_MOMENT: Duration = Duration::from_secs(5);

/// What the conditions are made of.
pub struct Made<'a> {
    /// What was seen.
    pub seen: &'a Seen,
    /// What is done about it.
    pub plan: &'a Plan,
    /// What became of that.
    pub outcome: &'a Result<(), ApplyError>,
    /// What a leader says.
    pub view: Option<&'a View<'a>>,
    /// The status before.
    pub old: &'a KvClusterStatus,
    /// Members that are ready now.
    pub ready_members: i32,
    /// The time.
    pub now: Timestamp,
}

/// All of them.
pub fn verdicts(made: &Made) -> Vec<Verdict> {
    let Made { seen, plan, outcome, .. } = made;
    let quorum = quorum(seen, made.view);
    vec![
        ready(made, &quorum),
        available(made),
        progressing(made),
        degraded(seen, plan, outcome),
        quorum,
        storage(plan),
        name_taken(plan),
        tls::problem(seen, made.now),
        access::problem(plan, outcome),
        access::would_refuse(&seen.observed),
        update_pending(seen),
        paused(seen),
    ]
}

/// A quorum has a leader: it has just been confirmed, or a moment ago.
fn has_leader(made: &Made) -> bool {
    let was = made.old.conditions.iter().any(|c| c.type_ == "Available" && c.status == "True");
    let a_moment_ago = was && made.seen.leaderless < LEADERLESS_MOMENT;
    made.view.is_some() || made.seen.observed.vouched().is_some() || a_moment_ago
}

/// All members are there and as wanted, and the Service sends clients to them. During a rolling change it is not so
/// until that is over.
fn ready(made: &Made, quorum: &Verdict) -> Verdict {
    let Made { seen, plan, ready_members, .. } = made;
    let observed = &seen.observed;
    let full = *ready_members as u32 == observed.wanted.members;
    let leads = has_leader(made);
    let members = format!("{ready_members} of {} members are ready.", observed.wanted.members);
    let (ready, why) = if quorum.status == "True" {
        (false, "QuorumLost")
    } else if observed.wanted.paused {
        (full && leads, "Paused")
    } else if is_founding(made) {
        (false, "Founding")
    } else if !leads {
        (false, "NoLeader")
    } else if is_refused(made) {
        (false, "SpecRefused")
    } else if is_rolling(observed) {
        (false, "RollingChange")
    } else if full && waits_for_rights(made) {
        (false, "RightsDoNotCount")
    } else if full && !plan.step.touches_members() {
        let served = observed.endpoints != Some(0);
        (served, if served { "Ready" } else { "NoEndpoints" })
    } else {
        (false, progress_of(plan))
    };
    let message = if ready { members } else { format!("{members} {}", progress(made)) };
    verdict("Ready", ready, why, message)
}

/// Kubernetes refuses what the spec says, or this operator does.
fn is_refused(made: &Made) -> bool {
    let observed = &made.seen.observed;
    let now = matches!(made.outcome, Err(ApplyError::Refused(_)));
    now || !observed.refused.is_empty() || observed.image_refused.is_some()
}

fn is_founding(made: &Made) -> bool {
    let observed = &made.seen.observed;
    let nobody = || made.view.is_none() && !observed.nodes.values().any(|node| !node.is_blank());
    observed.cluster_id.is_none() || (made.seen.leaderless < QUORUM_LOST_AFTER && nobody())
}

/// Rights are to count, and do not yet: nobody is told that a cluster is ready which is open to all. One that was ready
/// stays so while somebody has them begin to count.
fn waits_for_rights(made: &Made) -> bool {
    let begin =
        made.seen.observed.access.as_ref().is_some_and(|access| {
            access.mode == AuthMode::Required && access.on_record != AuthMode::Required
        });
    begin && !made.old.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn available(made: &Made) -> Verdict {
    let members = made.seen.observed.wanted.members;
    match (has_leader(made), members.is_multiple_of(2)) {
        (true, false) => verdict("Available", true, "HasLeader", "A quorum has confirmed its leader."),
        (true, true) => {
            let less = members - 1;
            let message = format!(
                "A quorum has confirmed its leader, but {members} members tolerate no more failures than {less}; 1, 3, 5 \
                 or 7 are better."
            );
            verdict("Available", true, "EvenMembers", message)
        }
        (false, _) => verdict(
            "Available",
            false,
            "NoLeader",
            "No leader is confirmed by a quorum, so that nothing is written or read linearizably.",
        ),
    }
}

fn progressing(made: &Made) -> Verdict {
    let paused = made.seen.observed.wanted.paused;
    if matches!(made.outcome, Err(ApplyError::Refused(_))) {
        return verdict("Progressing", false, "Settled", WHAT_CAN_BE);
    }
    if made.plan.step == Step::Rest && !paused {
        return verdict("Progressing", false, "Settled", made.plan.reason.clone());
    }
    verdict("Progressing", !paused, progress_of(made.plan), progress(made))
}

fn update_pending(seen: &Seen) -> Verdict {
    if !seen.update_pending {
        return verdict("UpdatePending", false, "UpToDate", "Pods are made as this operator makes them.");
    }
    if let Some(other) = &seen.stopped_at {
        let message = format!(
            "This operator would make pods otherwise, and upgradeClusters is set. But KvCluster {other}, which came first, \
             has not been as wanted within ten minutes, and all others wait for it."
        );
        return verdict("UpdatePending", true, "UpgradeStopped", message);
    }
    verdict(
        "UpdatePending",
        true,
        "OperatorUpgraded",
        "This operator would make pods otherwise. They stay as they are until spec.image, spec.pod or spec.node changes, or \
         the chart's upgradeClusters is set.",
    )
}

fn paused(seen: &Seen) -> Verdict {
    let paused = seen.observed.wanted.paused;
    let message = match paused {
        true => "spec.paused is true: nothing is done until it is false.",
        false => "spec.paused is false.",
    };
    verdict("Paused", paused, "Spec", message)
}

fn progress_of(plan: &Plan) -> &'static str {
    match &plan.step {
        Step::Rest => "Settled",
        Step::Wait => "Waiting",
        Step::Record(risky) | Step::Act(risky) | Step::Forget(risky) | Step::Abandon(risky) => risky.kind(),
        step => step.kind(),
    }
}

/// What is being done, and why; or what is waited for.
fn progress(Made { seen, plan, outcome, .. }: &Made) -> String {
    match (plan.step.is_idle(), outcome) {
        (true, _) => plan.reason.clone(),
        (false, Err(ApplyError::Held(why))) => format!("{}. {why}", plan.step.begun(&seen.name)),
        (false, _) => format!("{}. {}", plan.step.begun(&seen.name), plan.reason),
    }
}

fn storage(plan: &Plan) -> Verdict {
    match plan.notes.iter().find(|note| note.about == About::Storage) {
        Some(note) => verdict("StorageProblem", true, note.reason, note.message.clone()),
        None => verdict("StorageProblem", false, "None", "No disk needs anybody."),
    }
}

fn name_taken(plan: &Plan) -> Verdict {
    let notes = || plan.notes.iter().filter(|note| note.about == About::Name);
    let said: Vec<&str> = notes().map(|note| note.message.as_str()).collect();
    match notes().next() {
        Some(note) => verdict("NameTaken", true, note.reason, said.join(" ")),
        None => verdict("NameTaken", false, "None", "Nothing stands where this cluster's objects should."),
    }
}
