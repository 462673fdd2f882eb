//! Whether the quorum is lost, and what a person can do then.

use std::time::Duration;

use super::verdict::{Verdict, verdict};
use crate::names;
use crate::observe::Seen;
use crate::observed::Observed;
use crate::plan::{Offer, View, caveat, offer};

/// Without a confirmed leader for so long, the quorum counts as lost: an election takes less.
pub const QUORUM_LOST_AFTER: Duration = Duration::from_secs(15);

/// As far as the operator can tell.
pub fn quorum(seen: &Seen, view: Option<&View>) -> Verdict {
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
    if let Some(member) = observed.vouched() {
        let message = format!(
            "Member {} confirms that a quorum has a leader, which the operator does not reach.",
            names::pod(&seen.name, member)
        );
        return verdict("QuorumLost", false, "ConfirmedByMember", message);
    }
    if let Some(message) = unreachable(observed) {
        let reason = "Unreachable".into();
        return Verdict { kind: "QuorumLost", status: "Unknown", reason, message };
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

/// The kubelets say that a majority is ready, and some of it does not answer the operator, so that the quorum may well
/// be there.
fn unreachable(observed: &Observed) -> Option<String> {
    let ready = || observed.pods.iter().filter(|(_, pod)| pod.ready && !pod.deleting);
    let silent: Vec<String> = ready()
        .filter(|(ordinal, _)| !observed.nodes.contains_key(ordinal))
        .map(|(ordinal, _)| observed.pod_name(*ordinal))
        .collect();
    (!silent.is_empty() && ready().count() * 2 > observed.pods.len()).then(|| {
        format!(
            "The kubelets say that most members are ready, but the operator does not reach {}. Look for a NetworkPolicy or \
             a broken network between the two.",
            silent.join(", ")
        )
    })
}

/// What a person can do about a quorum that is lost.
fn advice(seen: &Seen) -> String {
    match offer(&seen.observed) {
        Offer::From(token) => {
            let caveat =
                caveat(&seen.observed, &token).map_or_else(String::new, |caveat| format!(" {caveat}"));
            format!(
                "The cluster goes on by itself when most members are back. If they never come back, recover the best \
                 survivor; what it has not seen is lost then.{caveat} kubectl annotate kvc {} -n {} {}={token}",
                seen.name,
                seen.namespace,
                names::RECOVER_FROM
            )
        }
        Offer::Behind(token) => format!(
            "The cluster goes on by itself when most members are back. No recovery is offered. {}",
            caveat(&seen.observed, &token).unwrap_or_default()
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
