//! What proves that a disk is lost for good. Silence proves nothing: a member whose pod is Pending, absent or cut
//! off may have everything that the cluster has acknowledged.

use std::collections::BTreeMap;

use crate::fence::Retired;
use crate::names::{self, hex};
use crate::observed::{Claim, Machine, Node, Observed, Pod};

/// So many machines are named at most where all of them may be at fault.
const NAMED_MAX: usize = 5;

/// A disk that does not answer, and of which nothing proves that it is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silent {
    /// The disk.
    pub node_id: u64,
    /// Where it is, as far as its address is one of ours.
    pub ordinal: Option<u32>,
}

/// Disks that may have what the survivor lacks: of everybody whom a membership or a claim names, those that
/// neither answer nor are proven lost. Who answers another member is not lost, whatever the operator sees.
pub fn unproven(observed: &Observed, survivor: &Node) -> Vec<Silent> {
    // A copy of a disk does not answer for it: the disk itself may have more.
    let answers = |id: u64, home: Option<u32>| {
        let mut nodes = observed.nodes.iter().filter(|(_, node)| node.node_id == id);
        nodes.any(|(ordinal, _)| home.is_none_or(|home| home == *ordinal))
    };
    let silent = concerned(observed, survivor).into_iter().filter(|(id, home)| !answers(*id, *home));
    let silent = silent.map(|(node_id, ordinal)| Silent { node_id, ordinal });
    silent.filter(|silent| observed.reached.contains(&silent.node_id) || !is_lost(observed, silent)).collect()
}

/// Everybody who has ever been asked to keep what the survivor's incarnation acknowledged. A claim names its disk
/// before that disk becomes a member, so that claims know those that the survivor was never told of.
fn concerned(observed: &Observed, survivor: &Node) -> BTreeMap<u64, Option<u32>> {
    let ours = |node: &&Node| {
        node.cluster_id == survivor.cluster_id && node.incarnation == survivor.incarnation && !node.is_blank()
    };
    let memberships = observed.nodes.values().filter(ours).map(|node| &node.membership);
    let voters = memberships.flat_map(|membership| {
        let ordinal = |id: &u64| (*id, membership.nodes.get(id).copied().flatten());
        membership.configs.iter().flatten().map(ordinal)
    });
    let claims = observed.claims.iter().filter_map(|(ordinal, claim)| {
        let disk = claim.disk.filter(|disk| disk.cluster_id == survivor.cluster_id)?;
        (!has_left(claim, survivor.incarnation)).then_some((disk.node_id, Some(*ordinal)))
    });
    voters.chain(claims).collect()
}

/// The claim's disk was no member any more in this incarnation.
fn has_left(claim: &Claim, incarnation: u64) -> bool {
    match claim.retired {
        Retired::No => false,
        Retired::Left => true,
        // The recovery that is under way retires the claims of the incarnation that it ends.
        Retired::Behind { incarnation: begun } => begun <= incarnation,
    }
}

/// The disk is gone from where it was, or has left before.
fn is_lost(observed: &Observed, silent: &Silent) -> bool {
    let Some(ordinal) = silent.ordinal else { return false };
    // Whoever answers in its place answers with the disk that is there.
    if observed.nodes.contains_key(&ordinal) {
        return true;
    }
    let Some(claim) = observed.claims.get(&ordinal) else { return true };
    match claim.disk {
        Some(disk) if disk.node_id != silent.node_id => true,
        // It is a new claim: the one that was written on is gone.
        None if claim.volume.is_empty() => true,
        _ => {
            claim.retired == Retired::Left || claim.declared_lost || machine_is_gone(observed, ordinal, claim)
        }
    }
}

/// The volume is on one machine, and that is gone for good.
pub fn machine_is_gone(observed: &Observed, ordinal: u32, claim: &Claim) -> bool {
    claim.machine == Machine::Gone && !observed.pods.get(&ordinal).is_some_and(|pod| pod.running)
}

impl Silent {
    /// Whose disk it is, where, why it does not answer and what would bring it back.
    pub fn said(&self, observed: &Observed) -> String {
        let node_id = hex(self.node_id);
        let Some(ordinal) = self.ordinal else {
            return format!(
                "Node {node_id} has an address that is none of this cluster's; look for it there."
            );
        };
        let (member, name) = (observed.pod_name(ordinal), observed.claim_name(ordinal));
        let Some(claim) = observed.claims.get(&ordinal) else {
            return format!("Member {member} (node {node_id}) has no claim.");
        };
        if observed.reached.contains(&self.node_id) {
            return format!(
                "Member {member} (node {node_id}) answers other members and not the operator: look at the network between \
                 the two."
            );
        }
        let pod = observed.pods.get(&ordinal);
        let volume = if claim.volume.is_empty() { "not bound" } else { &claim.volume };
        let machine = claim.home.as_deref().or(pod.and_then(|pod| pod.machine.as_deref()));
        let (machine, uid) = (machine.unwrap_or("not known"), &claim.version.uid);
        let back = what_brings_back(observed, ordinal, claim, pod);
        format!(
            "Member {member} (node {node_id}, claim {name}, volume {volume}, machine {machine}): {back} Only if that disk \
             is lost for good: kubectl annotate pvc {name} {}={uid}",
            names::DISK_LOST
        )
    }
}

fn what_brings_back(observed: &Observed, ordinal: u32, claim: &Claim, pod: Option<&Pod>) -> String {
    let member = observed.pod_name(ordinal);
    match claim.machine {
        Machine::Missing => {
            return "its machine is gone, for less than a minute so far; it may come back.".into();
        }
        Machine::Unfit => {
            return "no machine fits its volume, which others than the one that had it may use: add one (`kubectl \
                    describe pv` says which)."
                .into();
        }
        Machine::Exists | Machine::Gone => {}
    }
    let Some(pod) = pod else {
        return format!(
            "it has no pod; `kubectl describe statefulset {}` says why none is made, a quota for example.",
            observed.name
        );
    };
    if pod.deleting {
        return format!(
            "its pod is being deleted and its machine has not ended it yet; if it stays so, `kubectl describe pod \
             {member}`."
        );
    }
    match &pod.trouble {
        Some(trouble) if pod.machine.is_none() => format!("{trouble}{}", uncordon(observed, claim)),
        Some(trouble) => {
            format!("it does not run: {trouble}; correct the image or the spec if they are to blame.")
        }
        None if pod.running => format!(
            "it runs and does not answer the operator; look at the network between them, and at `kubectl logs {member}`."
        ),
        None => format!(
            "it starts, or waits for a machine; `kubectl describe pod {member}` says what it waits for."
        ),
    }
}

/// Machines that take no pods: the volume's own, or all, where it fits many.
fn uncordon(observed: &Observed, claim: &Claim) -> String {
    let fits = |name: &&String| claim.home.as_ref().is_none_or(|home| home == *name);
    let cordoned: Vec<&str> =
        observed.cordoned.iter().filter(fits).take(NAMED_MAX).map(String::as_str).collect();
    match cordoned.is_empty() {
        true => ".".into(),
        false => format!("; to let it run: kubectl uncordon {}.", cordoned.join(" ")),
    }
}
