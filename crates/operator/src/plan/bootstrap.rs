//! Founding a cluster, once; and taking one over that is there.

use std::collections::BTreeSet;

use kvorum_crd::{AuthMode, TlsMode};

use super::recovery::{self, Offer};
use super::{About, Decided, Notes, deleted_claim, risky, safe, wait};
use crate::fence::Disk;
use crate::names::hex;
use crate::observed::{Node, Observed, Role};
use crate::step::{Risky, Step};

/// Finds out which cluster this is, or founds one.
pub fn next(observed: &Observed, notes: &mut Notes) -> Decided {
    let known = known_ids(observed);
    if known.len() > 1 {
        let ids: Vec<String> = known.iter().map(|id| hex(*id)).collect();
        let message = format!(
            "Disks of several clusters are here under the name {}: {}. Nothing is done until the claims that do not \
             belong to it are deleted; the annotation kvorum.io/cluster-id of each says whose it is.",
            observed.name,
            ids.join(", ")
        );
        notes.add(About::Storage, "OtherCluster", message.clone());
        return wait(message);
    }
    match (observed.cluster_id, known.first()) {
        (None, Some(&cluster_id)) => {
            safe(Step::Latch { cluster_id }, "The claims or the members that are there say so.")
        }
        (None, None) => choose_founder(observed),
        (Some(cluster_id), _) => found(observed, cluster_id, notes),
    }
}

/// Every cluster id that is written anywhere, but for what is about to go with an earlier life of this KvCluster.
fn known_ids(observed: &Observed) -> BTreeSet<u64> {
    let stays = |ordinal: &u32| observed.claims.get(ordinal).is_some_and(|claim| !claim.deleting);
    let claims = observed.claims.values().filter(|claim| !claim.deleting).filter_map(|claim| claim.disk);
    let claims = claims.map(|disk| disk.cluster_id);
    let nodes = observed.nodes.iter().filter(|(ordinal, _)| stays(ordinal)).map(|(_, node)| node.cluster_id);
    let nodes = nodes.filter(|id| *id != 0);
    observed.cluster_id.into_iter().chain(claims).chain(nodes).collect()
}

/// Chooses ordinal 0's disk, once all disks are there and none belongs to any cluster.
fn choose_founder(observed: &Observed) -> Decided {
    let set = observed.stateful_set.as_ref()?;
    let wanted = observed.wanted.members;
    let version = set.version.clone();
    if set.replicas < wanted {
        return safe(
            Step::Grow { replicas: wanted, version },
            format!("The spec wants {wanted} members, and the cluster is not founded yet."),
        );
    }
    if set.replicas > wanted {
        return risky(
            Risky::Shrink { replicas: wanted, version },
            format!("The spec wants {wanted} members, and the cluster is not founded yet."),
        );
    }
    let unjoined = |ordinal: &u32| {
        observed.nodes.get(ordinal).is_some_and(|node| node.role == Role::Unjoined && node.cluster_id == 0)
    };
    let missing: Vec<_> = (0..wanted).filter(|i| !unjoined(i)).map(|i| observed.pod_name(i)).collect();
    if !missing.is_empty() {
        return wait(format!(
            "Waiting until all members answer, with empty disks, before the cluster is founded; missing: {}. If one \
             stays missing, `kubectl describe pod` says what keeps it from running.",
            missing.join(", ")
        ));
    }
    let (claim, node) = (observed.claims.get(&0)?, observed.nodes.get(&0)?);
    if claim.deleting {
        return wait(deleted_claim(observed, 0, "the cluster is founded on a new one"));
    }
    let disk = Disk { cluster_id: observed.fresh_id, node_id: node.node_id, founder: true };
    let (version, incarnation) = (claim.version.clone(), observed.incarnation);
    let step = Step::RecordDisk { ordinal: 0, version, disk, incarnation };
    safe(step, "All members wait to be told their cluster, and it is founded on the disk of this claim only.")
}

/// Goes on with the disk that was chosen, and only with that.
fn found(observed: &Observed, cluster_id: u64, notes: &mut Notes) -> Decided {
    if observed.nodes.values().any(|node| !node.is_blank()) {
        return None;
    }
    let founder = observed.claims.get(&0).and_then(|claim| claim.disk).filter(|disk| disk.founder)?;
    let node = observed.nodes.get(&0)?;
    if node.node_id == founder.node_id && may_be_founder(node, cluster_id) {
        let (ordinal, node_id) = (0, founder.node_id);
        let closed = is_declared_next(observed, node);
        let step = Step::Initialize { ordinal, node_id, cluster_id, closed };
        return safe(step, "Its disk is the one that was chosen to found the cluster.");
    }
    // Somebody who does not answer might have the data, with a pod or without.
    if observed.nodes.len() == observed.pods.len() && recovery::offer(observed) == Offer::Nothing {
        notes.add(
            About::Storage,
            "FounderLost",
            format!(
                "Disk {} founded or was to found this cluster and is gone, and no other disk has its data. Restore a \
                 snapshot, or delete the KvCluster and its claims and make it again.",
                hex(founder.node_id)
            ),
        );
    }
    None
}

/// Whether nothing stands in the way of rights once it is founded, so that nobody need be let in before: this operator
/// declares them, and the founder speaks TLS alone.
fn is_declared_next(observed: &Observed, founder: &Node) -> bool {
    let declares = observed.auth != AuthMode::Disabled && observed.access.is_some();
    declares && founder.tls.is_some_and(|tls| tls.mode == TlsMode::Required)
}

/// The disk was told nothing, or a crash cut its founding short.
fn may_be_founder(node: &Node, cluster_id: u64) -> bool {
    node.is_blank() && (node.cluster_id == 0 || node.cluster_id == cluster_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{Access, Claim, NodeTls, Taken};
    use crate::plan::{Decision, plan};

    fn claim(deleting: bool) -> Claim {
        let disk = Some(Disk { cluster_id: 9, node_id: 1, founder: true });
        Claim { deleting, disk, ..Claim::default() }
    }

    /// Goal: a KvCluster that is made again while the disks of its earlier life are going waits for their end, and
    /// does not take their id, which nobody would ever answer with again. Disks that stay are adopted.
    #[test]
    fn a_disk_that_is_going_is_not_adopted() {
        let node = Node { node_id: 1, cluster_id: 9, ..Node::default() };
        let going = Observed {
            objects_current: true,
            claims: [(0, claim(true))].into(),
            nodes: [(0, node)].into(),
            ..Observed::default()
        };
        assert!(known_ids(&going).is_empty());
        assert_eq!(plan(&going).step, Step::Wait, "no member is made for it yet");
        let kept = Observed { claims: [(0, claim(false))].into(), ..going };
        assert_eq!(known_ids(&kept), [9].into());
        assert!(matches!(plan(&kept).step, Step::CreateStatefulSet { .. }));
    }

    /// Goal: a cluster in which rights are to count is founded closed, by an operator that declares them.
    #[test]
    fn it_is_founded_closed_where_rights_are_to_count() {
        let speaks = |mode| Some(NodeTls { mode, ..NodeTls::default() });
        let founder =
            Node { node_id: 1, role: Role::Unjoined, tls: speaks(TlsMode::Required), ..Node::default() };
        let mut observed = Observed {
            cluster_id: Some(9),
            claims: [(0, claim(false))].into(),
            nodes: [(0, founder)].into(),
            ..Observed::default()
        };
        let access = Some(Access::default());
        for (auth, access, wanted) in [
            (AuthMode::Disabled, access.clone(), false),
            (AuthMode::Observe, access.clone(), true),
            (AuthMode::Required, access, true),
            (AuthMode::Required, None, false),
        ] {
            (observed.auth, observed.access) = (auth, access);
            let decided = found(&observed, 9, &mut Notes::default());
            let Some((Decision::Safe(Step::Initialize { closed, .. }), _)) = decided else {
                panic!("it is founded")
            };
            assert_eq!(closed, wanted, "{auth:?}");
        }
        observed.access = Some(Access::default());
        observed.nodes.get_mut(&0).unwrap().tls = speaks(TlsMode::Optional);
        assert!(
            !is_declared_next(&observed, &observed.nodes[&0]),
            "rights do not count before all speak TLS alone"
        );
    }

    /// Goal: whose name is taken is not founded, and goes on if it is there already.
    #[test]
    fn a_name_that_is_taken_stops_only_what_is_new() {
        let taken = |kind| Taken { kind, said: "It is somebody else's.".into() };
        let mut observed = Observed { taken: vec![taken("Service")], ..Observed::default() };
        let new = plan(&observed);
        assert_eq!((new.step, new.notes[0].reason), (Step::Wait, "NameTaken"));
        observed.cluster_id = Some(9);
        let there = plan(&observed);
        assert_eq!((there.step, there.notes[0].reason), (Step::ApplyObjects, "NameTaken"));
        observed.taken.push(taken("StatefulSet"));
        assert_eq!(plan(&observed).step, Step::Wait, "it would be fought for");
    }
}
