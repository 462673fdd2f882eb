//! The conditions, but for those that need more words.

use super::degraded::degraded;
use super::quorum::{QUORUM_LOST_AFTER, quorum};
use super::verdict::{Verdict, verdict};
use crate::apply::ApplyError;
use crate::observe::Seen;
use crate::plan::{About, Plan, View};
use crate::step::Step;
use kvorum_crd::KvClusterStatus;

/// All of them.
pub fn verdicts(
    seen: &Seen,
    plan: &Plan,
    outcome: &Result<(), ApplyError>,
    view: Option<&View>,
    new: &KvClusterStatus,
) -> Vec<Verdict> {
    let observed = &seen.observed;
    let quorum = quorum(seen, view);
    let degraded = degraded(seen, plan, outcome);
    let settled = plan.step == Step::Rest && !observed.wanted.paused;
    let full = new.ready_members as u32 == observed.wanted.members;
    let (ready, why) = match () {
        () if quorum.status == "True" => (false, "QuorumLost"),
        () if observed.wanted.paused => (full && view.is_some(), "Paused"),
        () if observed.cluster_id.is_none()
            || (view.is_none()
                && seen.leaderless < QUORUM_LOST_AFTER
                && !observed.nodes.values().any(|node| !node.is_blank())) =>
        {
            (false, "Founding")
        }
        () if view.is_none() => (false, "NoLeader"),
        () if full && !plan.step.touches_members() => (true, "Ready"),
        () => (false, progress_of(plan)),
    };
    let members = format!("{} of {} members are ready.", new.ready_members, observed.wanted.members);
    let even = observed.wanted.members.is_multiple_of(2);
    let available = match (view, even) {
        (Some(_), false) => verdict("Available", true, "HasLeader", "A quorum has confirmed its leader."),
        (Some(_), true) => {
            let (n, less) = (observed.wanted.members, observed.wanted.members - 1);
            let message = format!(
                "A quorum has confirmed its leader, but {n} members tolerate no more failures than {less}; 1, 3, 5 or 7 \
                 are better."
            );
            verdict("Available", true, "EvenMembers", message)
        }
        (None, _) => verdict(
            "Available",
            false,
            "NoLeader",
            "No leader is confirmed by a quorum, so that nothing is written or read linearizably.",
        ),
    };
    let progressing = match settled {
        true => verdict("Progressing", false, "Settled", "All is as the spec wants."),
        false => verdict("Progressing", !observed.wanted.paused, progress_of(plan), progress(seen, plan)),
    };
    let ready_message = if ready { members } else { format!("{members} {}", progress(seen, plan)) };
    let pending = match seen.update_pending {
        true => verdict(
            "UpdatePending",
            true,
            "OperatorUpgraded",
            "This operator would make pods otherwise. They stay as they are until spec.image, spec.pod or spec.node \
             changes, or the chart's upgradeClusters is set.",
        ),
        false => verdict("UpdatePending", false, "UpToDate", "Pods are made as this operator makes them."),
    };
    let paused = match observed.wanted.paused {
        true => "spec.paused is true: nothing is done until it is false.",
        false => "spec.paused is false.",
    };
    let paused = verdict("Paused", observed.wanted.paused, "Spec", paused);
    vec![
        verdict("Ready", ready, why, ready_message),
        available,
        progressing,
        degraded,
        quorum,
        storage(plan),
        name_taken(plan),
        pending,
        paused,
    ]
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
fn progress(seen: &Seen, plan: &Plan) -> String {
    match plan.step.is_idle() {
        true => plan.reason.clone(),
        false => format!("{}. {}", plan.step.begun(&seen.name), plan.reason),
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
