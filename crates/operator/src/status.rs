//! What the status says: a pure function of what was seen and what was done.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kvorum_crd::{KvClusterStatus, MemberStatus};

use crate::apply::ApplyError;
use crate::names::{self, CLIENT_PORT, hex};
use crate::observe::Seen;
use crate::observed::{Monitor, Node, Observed, Role};
use crate::plan::{About, Offer, Plan, View, offer};
use crate::step::Step;
use crate::version::lowest;

/// Without a confirmed leader for so long, the quorum counts as lost: an election takes less.
const QUORUM_LOST_AFTER: Duration = Duration::from_secs(15);

/// A condition before it has a time.
struct Verdict {
    kind: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

/// The new status. `outcome` is what became of the plan's step.
pub fn status(seen: &Seen, plan: &Plan, outcome: &Result<(), ApplyError>, now: Timestamp) -> KvClusterStatus {
    let observed = &seen.observed;
    let view = View::of(observed);
    let old = seen.cluster.status.clone().unwrap_or_default();
    let members = members(seen, view.as_ref());
    let leader = view.as_ref().and_then(|view| view.ordinal(view.leader.node_id));
    let done = outcome.is_ok();
    let mut new = KvClusterStatus {
        observed_generation: seen.cluster.metadata.generation,
        cluster_id: old.cluster_id.clone(),
        incarnation: incarnation(observed, &old),
        recovery: old.recovery.clone(),
        replicas: observed.pods.len() as i32,
        ready_members: members.iter().filter(|member| member.ready).count() as i32,
        selector: Some(names::selector_text(&seen.name)),
        endpoint: Some(format!("{}.{}.svc:{CLIENT_PORT}", seen.name, seen.namespace)),
        leader: leader.map(|ordinal| names::pod(&seen.name, ordinal)),
        version: lowest(observed.nodes.values().map(|node| node.version.as_str())).or(old.version.clone()),
        step: old.step.clone(),
        members,
        conditions: Vec::new(),
    };
    match &plan.step {
        Step::Latch { cluster_id } if done => new.cluster_id = Some(hex(*cluster_id)),
        Step::RaiseIncarnation { to, token } if done => {
            (new.incarnation, new.recovery) = (Some(*to as i64), Some(token.to_string()));
        }
        Step::DropToken if done => new.recovery = None,
        // Whoever is of a later incarnation was not recovered by that token.
        _ if new.incarnation != old.incarnation => new.recovery = None,
        Step::Record(risky) if done => new.step = Some(risky.record()),
        Step::Forget(_) | Step::Abandon(_) if done => new.step = None,
        _ => {}
    }
    let verdicts = verdicts(seen, plan, outcome, view.as_ref(), &new);
    new.conditions = with_times(verdicts, &old.conditions, seen.cluster.metadata.generation, now);
    new
}

/// It never goes back.
fn incarnation(observed: &Observed, old: &KvClusterStatus) -> Option<i64> {
    let of_nodes = observed.nodes.values().map(|node| node.incarnation as i64).filter(|n| *n > 0);
    of_nodes.chain(old.incarnation).max()
}

fn members(seen: &Seen, view: Option<&View>) -> Vec<MemberStatus> {
    let observed = &seen.observed;
    let last = view.map(|view| view.leader.last_log.index);
    let member = |(&ordinal, pod): (&u32, &crate::observed::Pod)| {
        let node = observed.nodes.get(&ordinal);
        MemberStatus {
            pod: names::pod(&seen.name, ordinal),
            node_id: node.map(|node| hex(node.node_id)),
            role: node.map_or("Unknown", |node| role(node.role)).to_owned(),
            ready: pod.ready && !pod.deleting,
            lag: node.zip(last).map(|(node, last)| lag(node, last)),
            // They change all the time, and matter when there is no leader any more.
            last_log_term: node.filter(|_| view.is_none()).map(|node| node.last_log.term as i64),
            last_log_index: node.filter(|_| view.is_none()).map(|node| node.last_log.index as i64),
            claim: names::claim(&seen.name, ordinal),
            machine: pod.machine.clone(),
            version: node.map(|node| node.version.clone()),
        }
    };
    observed.pods.iter().map(member).collect()
}

/// How far a member is behind, to two digits: the status need not change with every write.
fn lag(node: &Node, last: u64) -> i64 {
    match last.saturating_sub(node.last_log.index) {
        behind if behind < 1_000 => 0,
        behind => (behind / 1_000 * 1_000) as i64,
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Unjoined => "Unjoined",
        Role::Learner => "Learner",
        Role::Follower => "Follower",
        Role::Candidate => "Candidate",
        Role::Leader => "Leader",
        Role::StatusOnly => "StatusOnly",
    }
}

fn verdicts(
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

fn degraded(seen: &Seen, plan: &Plan, outcome: &Result<(), ApplyError>) -> Verdict {
    let observed = &seen.observed;
    if let Err(error @ (ApplyError::Kubernetes { .. } | ApplyError::Node { .. })) = outcome {
        return verdict(
            "Degraded",
            true,
            "StepFailed",
            format!("{}: {error}. It is tried again.", plan.step.failed(&seen.name)),
        );
    }
    if let Some(note) = plan.notes.iter().find(|note| note.about == About::Degraded) {
        return verdict("Degraded", true, note.reason, note.message.clone());
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
    let broken = observed.pods.iter().find(|(_, pod)| !pod.ready && pod.trouble.is_some());
    if let Some((ordinal, pod)) = broken {
        let trouble = pod.trouble.as_deref().unwrap_or_default();
        return verdict(
            "Degraded",
            true,
            "PodNotRunning",
            format!("Pod {} does not run: {trouble}", names::pod(&seen.name, *ordinal)),
        );
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

fn shared_machine(observed: &Observed) -> Option<&str> {
    let mut members: BTreeMap<&str, u32> = BTreeMap::new();
    for machine in observed.pods.values().filter_map(|pod| pod.machine.as_deref()) {
        *members.entry(machine).or_default() += 1;
    }
    members.into_iter().find(|(_, count)| *count > 1).map(|(machine, _)| machine)
}

fn quorum(seen: &Seen, view: Option<&View>) -> Verdict {
    let observed = &seen.observed;
    if view.is_some() || observed.cluster_id.is_none() {
        return verdict("QuorumLost", false, "Confirmed", "No quorum is lost.");
    }
    if seen.leaderless < QUORUM_LOST_AFTER {
        return verdict(
            "QuorumLost",
            false,
            "NoLeaderYet",
            "No leader is confirmed at the moment, as during an election.",
        );
    }
    let ready = observed.pods.values().filter(|pod| pod.ready).count();
    if observed.nodes.is_empty() && ready * 2 > observed.pods.len() {
        let message = "The kubelets say that most members are ready, but the operator reaches none of them. Look for a \
                       NetworkPolicy or a broken network between the two.";
        return Verdict {
            kind: "QuorumLost",
            status: "Unknown",
            reason: "Unreachable".into(),
            message: message.into(),
        };
    }
    let silent: Vec<String> = observed
        .pods
        .keys()
        .filter(|ordinal| !observed.nodes.contains_key(ordinal))
        .map(|ordinal| names::pod(&seen.name, *ordinal))
        .collect();
    let silent =
        if silent.is_empty() { String::new() } else { format!(" {} do not answer.", silent.join(", ")) };
    let advice = advice(seen);
    verdict("QuorumLost", true, "NoQuorum", format!("No leader is confirmed by a quorum.{silent} {advice}"))
}

/// What a person can do about a quorum that is lost.
fn advice(seen: &Seen) -> String {
    match offer(&seen.observed) {
        Offer::From(token) => format!(
            "The cluster goes on by itself when most members are back. If they never come back, recover the best survivor; \
             what it has not seen is lost then: kubectl annotate kvc {} -n {} {}={token}",
            seen.name,
            seen.namespace,
            names::RECOVER_FROM
        ),
        Offer::Silent(silent) => {
            let said: Vec<String> = silent.iter().map(|silent| silent.said(&seen.observed)).collect();
            format!(
                "The cluster goes on by itself when most members are back. No recovery from one disk is offered, since \
                 those that do not answer may have writes that the others lack. {}",
                said.join(" ")
            )
        }
        Offer::Nothing => {
            "No disk that answers has the data, and all others are lost; only a restore of a snapshot helps."
                .into()
        }
    }
}

fn verdict(
    kind: &'static str,
    holds: bool,
    reason: impl Into<String>,
    message: impl Into<String>,
) -> Verdict {
    let status = if holds { "True" } else { "False" };
    Verdict { kind, status, reason: reason.into(), message: message.into() }
}

/// A condition keeps its time as long as its status stays.
fn with_times(
    verdicts: Vec<Verdict>,
    old: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let timed = |Verdict { kind, status, reason, message }| {
        let before = old.iter().find(|condition| condition.type_ == kind && condition.status == status);
        Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason,
            message,
            observed_generation: generation,
            last_transition_time: before.map_or(Time(now), |before| before.last_transition_time.clone()),
        }
    };
    verdicts.into_iter().map(timed).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::build::Template;
    use crate::fence::LogId;
    use crate::observed::{Membership, Pod};
    use crate::plan::plan;
    use kvorum_crd::{KvCluster, KvClusterSpec};

    /// One member, which leads and is ready.
    fn seen() -> Seen {
        let membership = Membership {
            log_id: LogId { term: 1, index: 1 },
            configs: vec![[1].into()],
            nodes: [(1, Some(0))].into(),
        };
        let node = Node {
            node_id: 1,
            cluster_id: 9,
            incarnation: 1,
            role: Role::Leader,
            confirmed: true,
            last_log: LogId { term: 1, index: 1 },
            membership,
            ..Node::default()
        };
        let set = crate::observed::StatefulSet { replicas: 1, current: true, ..Default::default() };
        let observed = Observed {
            wanted: crate::observed::Wanted { members: 1, ..Default::default() },
            cluster_id: Some(9),
            objects_current: true,
            stateful_set: Some(set),
            pods: [(0, Pod { running: true, ready: true, ..Pod::default() })].into(),
            nodes: [(0, node)].into(),
            ..Observed::default()
        };
        let template = Template { template: Value::Null, hash: String::new(), inputs: String::new() };
        Seen {
            cluster: KvCluster::new("demo", KvClusterSpec::default()),
            name: "demo".into(),
            namespace: "default".into(),
            observed,
            addresses: BTreeMap::new(),
            pinned_image: String::new(),
            template,
            update_pending: false,
            size: String::new(),
            objects: Vec::new(),
            pod_monitor: None,
            leaderless: Duration::ZERO,
        }
    }

    fn condition(seen: &Seen, outcome: &Result<(), ApplyError>, kind: &str) -> (String, String) {
        let status = status(seen, &plan(&seen.observed), outcome, Timestamp::now());
        let condition = status.conditions.into_iter().find(|condition| condition.type_ == kind).unwrap();
        (condition.status, condition.reason)
    }

    fn said(status: &str, reason: &str) -> (String, String) {
        (status.to_owned(), reason.to_owned())
    }

    /// Goal: a cluster is Ready whatever becomes of its PodMonitor, and Degraded says why there is none.
    #[test]
    fn a_pod_monitor_that_cannot_be_had_is_said_and_stops_nothing() {
        let mut seen = seen();
        assert_eq!(condition(&seen, &Ok(()), "Degraded"), said("False", "None"));
        seen.observed.monitor = Monitor::Impossible("why".into());
        assert_eq!(condition(&seen, &Ok(()), "Degraded"), said("True", "NoPodMonitor"));
        assert_eq!(condition(&seen, &Ok(()), "Ready"), said("True", "Ready"));
        seen.observed.monitor = Monitor::Differs;
        let refused = Err(ApplyError::Kubernetes {
            context: "apply demo".into(),
            source: Box::new(kube::Error::LinesCodecMaxLineLengthExceeded),
        });
        assert_eq!(condition(&seen, &refused, "Degraded"), said("True", "StepFailed"));
        assert_eq!(condition(&seen, &refused, "Ready"), said("True", "Ready"));
    }

    /// Goal: a member whose disk is not the one that its cluster knows is not merely waited for.
    #[test]
    fn why_a_member_takes_no_part_is_said() {
        let mut seen = seen();
        let copy = Node { role: Role::StatusOnly, status_only: "it may be a copy".into(), ..Node::default() };
        seen.observed.nodes.insert(1, copy);
        assert_eq!(condition(&seen, &Ok(()), "Degraded"), said("True", "StatusOnly"));
    }

    /// Goal: the advice after a second loss names no disk that the first recovery left behind.
    #[test]
    fn the_best_survivor_is_of_the_latest_incarnation() {
        let mut observed = seen().observed;
        let last_log = LogId { term: 7, index: 70 };
        let behind = Node { node_id: 2, last_log, ..observed.nodes[&0].clone() };
        observed.nodes.get_mut(&0).unwrap().incarnation = 2;
        observed.nodes.insert(1, behind);
        assert_eq!(offer(&observed), Offer::From(observed.nodes[&0].token()));
    }

    /// Goal: an operator that was started again, which applies everything once more, makes no cluster
    /// look as if something were wrong with it.
    #[test]
    fn a_new_operator_finds_clusters_ready() {
        let mut seen = seen();
        seen.observed.objects_current = false;
        assert_eq!(condition(&seen, &Ok(()), "Ready"), said("True", "Ready"));
        seen.observed.objects_current = true;
        seen.observed.stateful_set.as_mut().unwrap().current = false;
        assert_eq!(condition(&seen, &Ok(()), "Ready"), said("True", "Ready"));
        seen.observed.wanted.members = 2;
        assert_eq!(condition(&seen, &Ok(()), "Ready"), said("False", "UpdateStatefulSet"));
    }
}
