//! What the status says of users and rights.

use kvorum_crd::{AuthMode, AuthStatus};

use super::verdict::{Verdict, verdict};
use crate::apply::ApplyError;
use crate::observed::Observed;
use crate::plan::{About, Plan};
use crate::step::Step;

/// What goes on record once the members have taken it.
pub fn recorded(observed: &Observed) -> Option<AuthStatus> {
    let counts = observed.access.as_ref()?.counts;
    Some(AuthStatus { mode: if counts { AuthMode::Required } else { AuthMode::Disabled } })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Sent;
    use crate::observed::Access;
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

        let mut observed =
            Observed { access: Some(Access { counts: true, ..Access::default() }), ..Observed::default() };
        assert_eq!(recorded(&observed), Some(AuthStatus { mode: AuthMode::Required }));
        observed.access = None;
        assert_eq!(recorded(&observed), None);
    }
}
