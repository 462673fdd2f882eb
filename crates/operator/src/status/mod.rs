//! What the status says: a pure function of what was seen and what was done.

mod access;
mod conditions;
mod degraded;
mod quorum;
mod tls;
mod verdict;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kvorum_crd::{KvClusterStatus, MemberStatus};

use crate::apply::ApplyError;
use crate::build::quantity;
use crate::names::{self, CLIENT_PORT, hex};
use crate::observe::{Follow, Seen};
use crate::observed::{Node, Observed, Role};
use crate::plan::{Plan, View};
use crate::step::Step;
use crate::version::lowest;

use conditions::{Made, verdicts};
use verdict::Verdict;

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
        external_endpoint: seen.external.clone(),
        leader: leader.map(|ordinal| names::pod(&seen.name, ordinal)),
        version: lowest(observed.nodes.values().map(|node| node.version.as_str())).or(old.version.clone()),
        step: old.step.clone(),
        following: following(seen, plan, &old),
        volume_size: volume_size(observed).or(old.volume_size.clone()),
        tls: tls::tls(seen, old.tls.as_ref()),
        auth: old.auth.clone(),
        members,
        conditions: Vec::new(),
    };
    match &plan.step {
        Step::Latch { cluster_id } if done => new.cluster_id = Some(hex(*cluster_id)),
        Step::RaiseIncarnation { to, token } if done => {
            (new.incarnation, new.recovery) = (Some(*to as i64), Some(token.to_string()));
        }
        Step::ApplyAccess { .. } if done => new.auth = access::recorded(observed),
        Step::DropToken if done => new.recovery = None,
        // Whoever is of a later incarnation was not recovered by that token.
        _ if new.incarnation != old.incarnation => new.recovery = None,
        Step::Record(risky) if done => new.step = Some(risky.record()),
        Step::Forget(_) | Step::Abandon(_) if done => new.step = None,
        _ => {}
    }
    let view = view.as_ref();
    let ready_members = new.ready_members;
    let verdicts = verdicts(&Made { seen, plan, outcome, view, old: &old, ready_members, now });
    new.conditions = with_times(verdicts, &old.conditions, seen.cluster.metadata.generation, now);
    new
}

/// The image of this operator that the cluster is taking over, until all is as wanted with it: an operator that is
/// started anew goes on with this cluster, and with no other.
fn following(seen: &Seen, plan: &Plan, old: &KvClusterStatus) -> Option<String> {
    match seen.follow {
        _ if plan.step == Step::Rest && !seen.update_pending => None,
        Follow::Yes => Some(seen.pinned_image.clone()),
        Follow::No => old.following.clone(),
    }
}

/// The size of the smallest volume that is bound.
fn volume_size(observed: &Observed) -> Option<String> {
    let set = observed.stateful_set.as_ref()?;
    let members = observed.claims.range(..set.replicas).map(|(_, claim)| claim.capacity_bytes);
    members.filter(|bytes| *bytes > 0).min().map(quantity)
}

/// It never goes back.
fn incarnation(observed: &Observed, old: &KvClusterStatus) -> Option<i64> {
    let of_nodes = observed.nodes.values().map(|node| node.incarnation as i64).filter(|n| *n > 0);
    // Claims may know of one that an erased status does not.
    let of_claims = Some(observed.incarnation as i64).filter(|n| *n > 1);
    of_nodes.chain(of_claims).chain(old.incarnation).max()
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
    use std::collections::BTreeMap;
    use std::time::Duration;

    use serde_json::Value;

    use super::*;
    use crate::build::Template;
    use crate::fence::LogId;
    use crate::observed::{Membership, Monitor, Pod};
    use crate::plan::{Offer, offer, plan};
    use kvorum_crd::{KvCluster, KvClusterSpec};

    /// One member, which leads and is ready.
    fn seen() -> Seen {
        let pod = || Pod { running: true, ready: true, ..Pod::default() };
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
            pods: [(0, pod())].into(),
            nodes: [(0, node)].into(),
            ..Observed::default()
        };
        let template = Template { template: Value::Null, hash: String::new(), inputs: String::new() };
        Seen {
            cluster: KvCluster::new("demo", KvClusterSpec::default()),
            name: "demo".into(),
            namespace: "default".into(),
            observed,
            ways: BTreeMap::new(),
            tls: crate::observe::Tls::default(),
            declared: None,
            pinned_image: String::new(),
            template,
            update_pending: false,
            size: String::new(),
            objects: Vec::new(),
            pod_monitor: None,
            external: None,
            leaderless: Duration::ZERO,
            follow: Follow::No,
            stopped_at: None,
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

    /// Goal: nobody is told that a cluster is ready which is open to all yet; one that was ready stays so.
    #[test]
    fn a_cluster_is_ready_once_its_rights_count() {
        use kvorum_crd::AuthMode;

        use crate::observed::Access;
        let mut seen = seen();
        let access = Access { mode: AuthMode::Required, ..Access::default() };
        seen.observed.access = Some(access.clone());
        assert_eq!(condition(&seen, &Ok(()), "Ready"), said("False", "RightsDoNotCount"));
        seen.observed.access = Some(Access { on_record: AuthMode::Required, ..access.clone() });
        assert_eq!(condition(&seen, &Ok(()), "Ready"), said("True", "Ready"));
        seen.cluster.status = Some(status(&seen, &plan(&seen.observed), &Ok(()), Timestamp::now()));
        seen.observed.access = Some(access);
        assert_eq!(condition(&seen, &Ok(()), "Ready"), said("True", "Ready"));
    }

    /// Goal: a spec that Kubernetes refuses is said in the same words whether it was refused just now, is not tried for a
    /// while, or is tried again: no condition goes there and back.
    #[test]
    fn a_spec_that_is_refused_is_said_without_a_break() {
        let mut seen = seen();
        let now = Err(ApplyError::Refused("No.".into()));
        let refused = |due| vec![crate::observed::Refused { kind: "StatefulSet", said: "No.".into(), due }];
        let check = |seen: &Seen, outcome: &Result<(), ApplyError>, when: &str| {
            assert_eq!(condition(seen, outcome, "Degraded"), said("True", "SpecRefused"), "{when}");
            assert_eq!(condition(seen, outcome, "Ready"), said("False", "SpecRefused"), "{when}");
            assert_eq!(condition(seen, outcome, "Progressing"), said("False", "Settled"), "{when}");
        };
        seen.observed.stateful_set.as_mut().unwrap().current = false;
        check(&seen, &now, "just now");
        seen.observed.refused = refused(false);
        check(&seen, &Ok(()), "for a while");
        seen.observed.refused = refused(true);
        check(&seen, &now, "again");
    }

    /// Goal: a quota that keeps pods from being made is not passed over in silence, and Ready means that the Service
    /// answers.
    #[test]
    fn a_pod_that_cannot_be_made_is_said() {
        let mut seen = seen();
        seen.observed.unmade.insert(1);
        assert_eq!(condition(&seen, &Ok(()), "Degraded"), said("True", "PodNotMade"));
        seen.observed.endpoints = Some(0);
        assert_eq!(condition(&seen, &Ok(()), "Ready"), said("False", "NoEndpoints"));
        assert_eq!(plan(&seen.observed).step, Step::Wait, "so that it is looked at soon");
        seen.observed.endpoints = Some(1);
        assert_eq!(condition(&seen, &Ok(()), "Ready"), said("True", "Ready"));
    }

    /// Goal: a container that is told to start is in no trouble; one that fails is until it is ready.
    #[test]
    fn a_start_is_no_trouble() {
        let mut seen = seen();
        let trouble = Some("ContainerCreating".into());
        seen.observed.pods.insert(1, Pod { trouble, starts: true, ..Pod::default() });
        assert_eq!(condition(&seen, &Ok(()), "Degraded"), said("False", "None"));
        seen.observed.pods.get_mut(&1).unwrap().troubled = true;
        assert_eq!(condition(&seen, &Ok(()), "Degraded"), said("True", "PodNotRunning"));
    }

    /// Goal: a member whose disk is not the one that its cluster knows is not merely waited for.
    #[test]
    fn why_a_member_takes_no_part_is_said() {
        let mut seen = seen();
        let copy = Node { role: Role::StatusOnly, status_only: "it may be a copy".into(), ..Node::default() };
        seen.observed.nodes.insert(1, copy);
        assert_eq!(condition(&seen, &Ok(()), "Degraded"), said("True", "StatusOnly"));
    }

    /// Goal: an operator that is cut off from some members pages nobody about a quorum that is there, and says what is
    /// wrong. Method: a follower alone answers, of three.
    #[test]
    fn what_only_the_operator_does_not_reach_is_not_lost() {
        let mut seen = seen();
        let node = seen.observed.nodes.get_mut(&0).unwrap();
        (node.role, node.confirmed) = (Role::Follower, false);
        node.membership.configs = vec![[1, 2, 3].into()];
        for ordinal in [1, 2] {
            seen.observed.pods.insert(ordinal, Pod { running: true, ..Pod::default() });
        }
        seen.leaderless = Duration::from_secs(60);
        assert_eq!(condition(&seen, &Ok(()), "QuorumLost"), said("True", "NoQuorum"));
        seen.observed.pods.values_mut().for_each(|pod| pod.ready = true);
        assert_eq!(condition(&seen, &Ok(()), "QuorumLost"), said("Unknown", "Unreachable"));
        seen.observed.nodes.get_mut(&0).unwrap().confirmed = true;
        assert_eq!(condition(&seen, &Ok(()), "QuorumLost"), said("False", "ConfirmedByMember"));
        assert_eq!(condition(&seen, &Ok(()), "Degraded"), said("True", "LeaderUnreachable"));
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
