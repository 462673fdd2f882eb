//! Whether the quorum is lost, and what a person can do then.

use std::time::Duration;

use super::verdict::{Verdict, verdict};
use crate::names;
use crate::observe::Seen;
use crate::plan::{Offer, View, offer};

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
