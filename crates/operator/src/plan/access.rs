//! Users and rights come before everything else that a leader is asked for: a right that is taken away waits for no repair
//! and no rolling change, and giving one harms neither.

use super::view::View;
use super::{About, Decided, Notes, safe, wait};
use crate::access::Sent;
use crate::levels;
use crate::observed::Access;
use crate::step::Step;
use kvorum_crd::{AuthMode, TlsMode};

/// Why entries do nothing in a cluster that was made before rights came by themselves, or plain.
const UNSAID: &str = "spec.access does nothing in this cluster, which has no rights so far: say spec.auth.mode: Required, which \
                      needs spec.tls.mode: Required, or Disabled while it is to be declared without counting yet.";

/// Declares them, where the leader may have others than the spec.
pub fn next(view: &View, notes: &mut Notes) -> Decided {
    let access = view.observed.access.as_ref()?;
    if access.unsaid {
        notes.add(About::Access, "NotSaid", UNSAID);
    }
    if let Some(said) = &access.unread {
        notes.add(About::Access, "Unreadable", said.clone());
    }
    let sent = Sent { fingerprint: access.fingerprint?, before: view.leader.auth };
    let nothing = access.is_empty && access.mode == AuthMode::Disabled && view.leader.auth.revision == 0;
    // A status that was erased, or is that of a KvCluster made again, is told once more.
    let on_record = access.mode == access.on_record;
    if !view.leader.closed && (nothing || (access.sent == Some(sent) && on_record)) {
        return None;
    }
    if let Some((reason, said)) = obstacle(view, access) {
        if !access.soon {
            notes.add(About::Access, reason, said);
        }
        return None;
    }
    // A step that was written down is finished first: it takes a moment.
    view.observed.step.is_none().then_some(())?;
    safe(
        Step::ApplyAccess { sent },
        "What is declared of users and rights goes to the leader, until nothing changes by it.",
    )
}

/// Who was founded closed has no other member before rights are declared.
pub fn closed(view: &View) -> Decided {
    view.leader.closed.then_some(())?;
    let access = view.observed.access.as_ref();
    let obstacle =
        access.and_then(|access| obstacle(view, access).map(|(_, said)| said).or(access.unread.clone()));
    wait(format!(
        "Waiting until it is declared what clients may do; before that nobody is let in, and no member is added. {}",
        obstacle.unwrap_or_else(|| "If this stays, the condition AccessProblem says why.".into())
    ))
}

/// What stands in the way of rights that were wanted a moment ago is looked for soon.
pub fn soon(view: &View) -> Decided {
    let access = view.observed.access.as_ref().filter(|access| access.soon)?;
    let (_, said) = obstacle(view, access)?;
    wait(format!("Waiting until rights count. {said}"))
}

/// What stands in the way.
fn obstacle(view: &View, access: &Access) -> Option<(&'static str, String)> {
    let level = view.leader.feature_level;
    if level < levels::AUTH {
        if all_know(view) {
            let said = format!(
                "The cluster's feature level is {level}, and users are known from {} on, as all members do: the leader raises \
                 it within seconds.",
                levels::AUTH
            );
            return Some(("FeatureLevel", said));
        }
        let said = format!(
            "The cluster's feature level is {level}, and users are known from {} on: it rises once all members run a release \
             that knows them. Set spec.image to such a one.",
            levels::AUTH
        );
        return Some(("FeatureLevel", said));
    }
    if let Some(said) = plain(view, access) {
        return Some(("WaitsForTls", said));
    }
    access.refused.clone().map(|said| ("Refused", said))
}

/// Whether every member runs a release that knows users.
fn all_know(view: &View) -> bool {
    let node = |ordinal: &Option<u32>| ordinal.and_then(|ordinal| view.observed.nodes.get(&ordinal));
    let knows = |ordinal| node(ordinal).is_some_and(|node| node.feature_level_max >= levels::AUTH);
    view.membership.nodes.values().all(knows)
}

/// Rights are looked at, and count, once every member speaks nothing but TLS. Later, a member that does not answer keeps
/// nobody from taking a right away.
fn plain(view: &View, access: &Access) -> Option<String> {
    if access.mode == AuthMode::Disabled || access.on_record != AuthMode::Disabled {
        return None;
    }
    let speaks = |ordinal: &Option<u32>| {
        let node = ordinal.and_then(|ordinal| view.observed.nodes.get(&ordinal));
        node.and_then(|node| node.tls).is_some_and(|tls| tls.mode == TlsMode::Required)
    };
    let plain = view.membership.nodes.values().find(|ordinal| !speaks(ordinal))?;
    let member =
        plain.map_or_else(|| "that the operator does not know".into(), |plain| view.observed.pod_name(plain));
    Some(format!(
        "Rights do not count yet: member {member} has not said that it speaks TLS alone. They will once it has."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::AuthState;
    use crate::observed::{Membership, Node, NodeTls, Observed, Role};
    use crate::plan::{Plan, plan};
    use crate::step::Risky;

    /// Three members, of which the first leads, and a declaration that is to count.
    fn observed() -> Observed {
        let membership = Membership {
            configs: vec![[1, 2, 3].into()],
            nodes: (1..4).map(|id| (id, Some(id as u32 - 1))).collect(),
            ..Membership::default()
        };
        let tls = Some(NodeTls { mode: TlsMode::Required, ..NodeTls::default() });
        let node = |id: u64| Node {
            node_id: id,
            cluster_id: 9,
            role: if id == 1 { Role::Leader } else { Role::Follower },
            confirmed: id == 1,
            last_log: crate::fence::LogId { term: 1, index: 1 },
            feature_level: levels::AUTH,
            auth: AuthState { incarnation: 1, revision: 4, hash: 44 },
            membership: membership.clone(),
            tls,
            ..Node::default()
        };
        Observed {
            name: "demo".into(),
            cluster_id: Some(9),
            objects_current: true,
            stateful_set: Some(crate::observed::StatefulSet {
                replicas: 3,
                current: true,
                ..Default::default()
            }),
            nodes: (1..4).map(|id| (id as u32 - 1, node(id))).collect(),
            access: Some(Access { fingerprint: Some(7), mode: AuthMode::Required, ..Access::default() }),
            ..Observed::default()
        }
    }

    fn declares(plan: &Plan) -> bool {
        matches!(plan.step, Step::ApplyAccess { .. })
    }

    fn problem(plan: &Plan) -> Option<&'static str> {
        plan.notes.iter().find(|note| note.about == About::Access).map(|note| note.reason)
    }

    /// Goal: it is declared until nothing changes by it, again when the leader has something else, and by an operator that
    /// knows nothing yet.
    #[test]
    fn it_is_declared_until_nothing_changes_by_it() {
        let mut observed = observed();
        let sent = Sent { fingerprint: 7, before: AuthState { incarnation: 1, revision: 4, hash: 44 } };
        let with = |observed: &mut Observed, sent| observed.access.as_mut().unwrap().sent = sent;
        assert_eq!(plan(&observed).step, Step::ApplyAccess { sent });
        with(&mut observed, Some(sent));
        assert!(declares(&plan(&observed)), "the status does not have it");
        observed.access.as_mut().unwrap().on_record = AuthMode::Required;
        assert!(!declares(&plan(&observed)), "the leader has it");
        for other in [
            Sent { fingerprint: 8, ..sent },
            Sent { before: AuthState { incarnation: 1, revision: 3, hash: 44 }, ..sent },
            Sent { before: AuthState { incarnation: 1, revision: 4, hash: 43 }, ..sent },
        ] {
            with(&mut observed, Some(other));
            assert_eq!(plan(&observed).step, Step::ApplyAccess { sent });
        }
        observed.step = Some(Risky::RemoveLearner { node_id: 1, membership: Default::default() });
        assert!(!declares(&plan(&observed)), "what is under way is finished first");
    }

    /// Goal: rights begin to count with TLS everywhere and a level that knows them, and what stands in the way is said; once
    /// they count, a silent member keeps nobody from taking one away.
    #[test]
    fn what_stands_in_the_way_is_said() {
        let refused = |change: &dyn Fn(&mut Observed)| {
            let mut observed = observed();
            change(&mut observed);
            let plan = plan(&observed);
            assert!(!declares(&plan));
            problem(&plan)
        };
        let access = |observed: &mut Observed| observed.access.clone().unwrap();
        assert_eq!(refused(&|o| o.nodes.get_mut(&0).unwrap().feature_level = 2), Some("FeatureLevel"));
        assert_eq!(refused(&|o| o.nodes.get_mut(&2).unwrap().tls = None), Some("WaitsForTls"));
        assert_eq!(refused(&|o| drop(o.nodes.remove(&2))), Some("WaitsForTls"));
        let unread = Some("It cannot be read.".to_owned());
        assert_eq!(
            refused(&|o| o.access = Some(Access { fingerprint: None, unread: unread.clone(), ..access(o) })),
            Some("Unreadable")
        );
        let unsaid = Access { unsaid: true, ..Access::default() };
        assert_eq!(refused(&|o| o.access = Some(unsaid.clone())), Some("NotSaid"));
        let said = Some("They refuse.".to_owned());
        assert_eq!(
            refused(&|o| o.access = Some(Access { refused: said.clone(), ..access(o) })),
            Some("Refused")
        );

        let mut observed = observed();
        observed.nodes.remove(&2);
        observed.access.as_mut().unwrap().soon = true;
        let waiting = plan(&observed);
        assert!(problem(&waiting).is_none() && !declares(&waiting), "it may come at any time");
        observed.access.as_mut().unwrap().on_record = AuthMode::Observe;
        assert!(declares(&plan(&observed)));
        let disabled = AuthMode::Disabled;
        observed.access = Some(Access { mode: disabled, on_record: disabled, ..observed.access.unwrap() });
        assert!(declares(&plan(&observed)), "what does not count needs no TLS");
    }

    /// Goal: nobody is added to a cluster that was founded closed, whatever stands in the way of what it is declared, and
    /// one whose spec has come to say Disabled is opened.
    #[test]
    fn one_that_is_closed_stays_alone_until_it_is_declared() {
        let mut observed = observed();
        observed.nodes.retain(|ordinal, _| *ordinal == 0);
        let alone = observed.nodes.get_mut(&0).unwrap();
        alone.membership.configs = vec![[1].into()];
        alone.membership.nodes.retain(|id, _| *id == 1);
        (alone.closed, alone.auth, alone.feature_level) = (true, AuthState::default(), 1);
        alone.feature_level_max = levels::AUTH - 1;
        let another = Node { node_id: 2, cluster_id: 0, role: Role::Unjoined, ..Node::default() };
        observed.nodes.insert(1, another);
        observed.wanted.members = 3;
        let waiting = plan(&observed);
        assert_eq!(waiting.step, Step::Wait);
        assert!(
            waiting.reason.contains("nobody is let in") && waiting.reason.contains("Set spec.image"),
            "{waiting:?}"
        );
        // Nobody has to do anything: it was founded a moment ago.
        observed.nodes.get_mut(&0).unwrap().feature_level_max = levels::AUTH;
        let waiting = plan(&observed).reason;
        assert!(waiting.contains("feature level is 1") && waiting.contains("within seconds"), "{waiting}");
        assert!(!waiting.contains("spec.image"), "{waiting}");
        observed.nodes.get_mut(&0).unwrap().feature_level = levels::AUTH;
        assert!(declares(&plan(&observed)));
        let changed = Access { is_empty: true, mode: AuthMode::Disabled, ..observed.access.clone().unwrap() };
        observed.access = Some(changed);
        assert!(declares(&plan(&observed)), "nothing else would let anybody in");
        observed.nodes.get_mut(&0).unwrap().closed = false;
        let goes_on = plan(&observed);
        assert!(!declares(&goes_on) && !goes_on.reason.contains("nobody is let in"), "{goes_on:?}");
    }

    /// Goal: a cluster whose spec says Disabled, and which never had users, is left as it is.
    #[test]
    fn nothing_is_declared_where_nothing_is_there() {
        let mut observed = observed();
        observed.access = Some(Access { fingerprint: Some(7), is_empty: true, ..Access::default() });
        assert!(declares(&plan(&observed)), "there may be something to take back");
        observed.nodes.values_mut().for_each(|node| node.auth = AuthState::default());
        assert!(!declares(&plan(&observed)));
        observed.access = None;
        assert!(!declares(&plan(&observed)));
    }
}
