//! What the status says of users and rights.

use std::collections::BTreeSet;

use kvorum_crd::{AuthMode, AuthStatus};

use super::verdict::{Verdict, verdict};
use crate::apply::ApplyError;
use crate::observed::{LetPass, Observed};
use crate::plan::{About, Plan};
use crate::step::Step;

/// What goes on record once the members have taken it.
pub fn recorded(observed: &Observed) -> Option<AuthStatus> {
    Some(AuthStatus { mode: observed.access.as_ref()?.mode })
}

/// Whether users and rights are other than the spec declares them, and why.
pub fn problem(plan: &Plan, outcome: &Result<(), ApplyError>) -> Verdict {
    let said = |reason: &str, message: String| verdict("AccessProblem", true, reason, message);
    if let Some(note) = plan.notes.iter().find(|note| note.about == About::Access) {
        return said(note.reason, note.message.clone());
    }
    match (&plan.step, outcome) {
        (Step::ApplyAccess { .. }, Err(error @ ApplyError::Node { .. })) => {
            let error = error.to_string();
            let error = error.trim_end_matches('.');
            said("Refused", format!("Users and rights are not declared: {error}. It is tried again."))
        }
        _ => verdict("AccessProblem", false, "None", "Nothing stands between the spec and users and rights."),
    }
}

/// So many of those whom Required would refuse are named.
const NAMED_MAX: usize = 5;

/// Whom Required would refuse, while rights are looked at. Without numbers, since the status need not change with every
/// request: the members' metric has them.
pub fn would_refuse(observed: &Observed) -> Verdict {
    let said = |holds, reason: &str, message: String| verdict("WouldRefuse", holds, reason, message);
    let looked_at = observed.access.as_ref().is_some_and(|access| access.on_record == AuthMode::Observe);
    if !looked_at {
        return said(false, "NotObserved", "Rights are not observed: see spec.auth.mode.".into());
    }
    let let_pass: BTreeSet<_> = observed.nodes.values().flat_map(|node| &node.let_pass).collect();
    if !let_pass.is_empty() {
        let each = |it: &&LetPass| match it.user.as_str() {
            "" => format!("somebody unproven (proof {}): {}", it.proof, it.why),
            user => format!("{user} (proof {}): {}", it.proof, it.why),
        };
        let mut named: Vec<_> = let_pass.iter().take(NAMED_MAX).map(each).collect();
        if let_pass.len() > NAMED_MAX {
            named.push(format!("{} others", let_pass.len() - NAMED_MAX));
        }
        let message = format!(
            "Within the last hour Required would have refused: {}. Give them in spec.access what they may do, or have \
             them prove who they are; kvorum_auth_checks_total counts their requests.",
            named.join("; ")
        );
        return said(true, "Requests", message);
    }
    if let Some(silent) = observed.pods.keys().find(|ordinal| !observed.nodes.contains_key(ordinal)) {
        let message = format!("Member {} does not answer; by the others nobody.", observed.pod_name(*silent));
        return Verdict { status: "Unknown", ..said(false, "Unreachable", message) };
    }
    let message = "Within the last hour, or since rights are looked at, Required would have refused nobody.";
    said(false, "Nobody", message.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Sent;
    use crate::observed::{Access, Node, Pod};
    use crate::plan::Note;

    /// Goal: what stands in the way is said, a refusal in the words that the next looks have too; and what the members
    /// have taken is on record.
    #[test]
    fn what_stands_in_the_way_is_a_condition() {
        let sent = Sent { fingerprint: 1, before: Default::default() };
        let mut plan = Plan { step: Step::ApplyAccess { sent }, reason: "So.".into(), notes: Vec::new() };
        let said = |plan: &Plan, outcome| {
            let verdict = problem(plan, &outcome);
            (verdict.status, verdict.reason, verdict.message)
        };
        assert_eq!(said(&plan, Ok(())).0, "False");
        let refused = ApplyError::Node {
            context: "take it".into(),
            source: kvorum_client::Error::InvalidEndpoint { endpoint: "x".into(), problem: "it is none" },
        };
        let (status, reason, message) = said(&plan, Err(refused));
        assert_eq!((status, reason.as_str()), ("True", "Refused"));
        assert!(message.starts_with("Users and rights are not declared: a member refused"), "{message}");
        plan.notes = vec![Note { about: About::Access, reason: "WaitsForTls", message: "It waits.".into() }];
        assert_eq!(said(&plan, Ok(())), ("True", "WaitsForTls".into(), "It waits.".into()));

        let mut observed = Observed {
            access: Some(Access { mode: AuthMode::Required, ..Access::default() }),
            ..Observed::default()
        };
        assert_eq!(recorded(&observed), Some(AuthStatus { mode: AuthMode::Required }));
        observed.access = None;
        assert_eq!(recorded(&observed), None);
    }

    /// Goal: a person knows when Required is safe. Method: what members say, and what the condition makes of it.
    #[test]
    fn whom_required_would_refuse_is_a_condition() {
        let mut observed = Observed::default();
        let said = |observed: &Observed| {
            let verdict = would_refuse(observed);
            (verdict.status, verdict.reason, verdict.message)
        };
        assert_eq!(said(&observed).1, "NotObserved");
        observed.access = Some(Access { on_record: AuthMode::Observe, ..Access::default() });
        observed.pods = (0..2).map(|ordinal| (ordinal, Pod::default())).collect();
        observed.nodes.insert(0, Node::default());
        assert_eq!((said(&observed).0, said(&observed).1.as_str()), ("Unknown", "Unreachable"));
        observed.nodes.insert(1, Node::default());
        assert_eq!((said(&observed).0, said(&observed).1.as_str()), ("False", "Nobody"));
        let one = |user: &str, proof: &str| LetPass {
            user: user.into(),
            proof: proof.into(),
            why: "permission denied".into(),
        };
        observed.nodes.get_mut(&0).unwrap().let_pass = vec![one("", "none"), one("bob", "certificate")];
        observed.nodes.get_mut(&1).unwrap().let_pass = vec![one("bob", "certificate")];
        let (status, reason, message) = said(&observed);
        assert_eq!((status, reason.as_str()), ("True", "Requests"));
        let named =
            "somebody unproven (proof none): permission denied; bob (proof certificate): permission denied.";
        assert!(message.contains(named), "each once: {message}");
        let many = (0..9).map(|number| one(&format!("user-{number}"), "session"));
        observed.nodes.get_mut(&0).unwrap().let_pass.extend(many);
        assert!(said(&observed).2.contains("; 6 others."), "{}", said(&observed).2);
    }
}
