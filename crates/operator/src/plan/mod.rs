//! The next step: a pure function of what was observed.
//!
//! Architecture invariants: there is no client and no clock here; at most one risky step is under way;
//! a risky step is recorded before it is taken, and taken only while it would still be planned.

mod access;
mod bootstrap;
mod deletion;
mod join;
mod monitor;
mod proof;
mod quorum;
mod recovery;
mod release;
mod repair;
mod rollout;
mod scale;
mod stateful_set;
mod storage;
mod view;

use crate::observed::Observed;
use crate::step::{Risky, Step};

pub use proof::Silent;
pub use recovery::{Offer, caveat, offer};
pub use rollout::is_rolling;
pub use view::View;

/// What to do next, and what a person should know.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The step.
    pub step: Step,
    /// Why, or what is waited for and what to do if that stays: whole sentences.
    pub reason: String,
    /// What stands in the way of what is wanted.
    pub notes: Vec<Note>,
}

/// Something a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The condition it belongs to.
    pub about: About,
    /// A word for machines.
    pub reason: &'static str,
    /// A sentence for people, which says what to do.
    pub message: String,
}

/// The condition that a note belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Something is broken or less safe than wanted.
    Degraded,
    /// A disk.
    Storage,
    /// An object of somebody else under a name that the cluster needs.
    Name,
    /// Users and rights.
    Access,
}

/// A step that was decided on, before it is recorded.
enum Decision {
    Safe(Step),
    Risky(Risky),
}

/// A decision and its reason.
type Decided = Option<(Decision, String)>;

/// Collects notes while the decision is made.
#[derive(Default)]
struct Notes(Vec<Note>);

impl Notes {
    fn add(&mut self, about: About, reason: &'static str, message: impl Into<String>) {
        self.0.push(Note { about, reason, message: message.into() });
    }
}

fn safe(step: Step, reason: impl Into<String>) -> Decided {
    Some((Decision::Safe(step), reason.into()))
}

fn risky(step: Risky, reason: impl Into<String>) -> Decided {
    Some((Decision::Risky(step), reason.into()))
}

/// That a claim must be gone first, for something that comes then.
fn deleted_claim(observed: &Observed, ordinal: u32, then: &str) -> String {
    let claim = observed.claim_name(ordinal);
    format!(
        "Waiting until claim {claim}, which is being deleted, is gone: then {then}. If it stays, a pod still uses it, or \
         a finalizer holds it; `kubectl describe pvc {claim}` says which."
    )
}

fn wait(reason: impl Into<String>) -> Decided {
    safe(Step::Wait, reason)
}

/// The next step towards what the spec wants.
pub fn plan(observed: &Observed) -> Plan {
    let mut notes = Notes::default();
    let (decision, reason) = match decide(observed, &mut notes) {
        Some(decided) => decided,
        None => (Decision::Safe(Step::Rest), rest(observed, &notes).to_owned()),
    };
    if observed.wanted.paused && !observed.deleting {
        let reason = "Nothing is done while spec.paused is true.".to_owned();
        return Plan { step: Step::Rest, reason, notes: notes.0 };
    }
    let step = match (&observed.step, decision) {
        (None, Decision::Safe(step)) => step,
        (None, Decision::Risky(step)) => Step::Record(step),
        (Some(recorded), Decision::Risky(step)) if *recorded == step => Step::Act(step),
        (Some(recorded), _) if is_over(recorded, observed) => Step::Forget(recorded.clone()),
        (Some(_), Decision::Safe(Step::Wait)) if recovery::restarts(observed) => Step::Wait,
        (Some(recorded), _) => Step::Abandon(recorded.clone()),
    };
    Plan { step, reason, notes: notes.0 }
}

/// Nothing is to be done, though not all is as the spec wants it.
pub const WHAT_CAN_BE: &str = "All is done that can be; the condition Degraded says what of the spec cannot.";

/// The same, where only users and rights are not as the spec wants them.
const WHAT_CAN_BE_OF_RIGHTS: &str = "All is done that can be; the condition AccessProblem says why users and rights are not as the spec wants them.";

fn rest(observed: &Observed, notes: &Notes) -> &'static str {
    match observed.refused.is_empty() && observed.image_refused.is_none() {
        true if notes.0.iter().any(|note| note.about == About::Access) => WHAT_CAN_BE_OF_RIGHTS,
        true => "All is as the spec wants.",
        false => WHAT_CAN_BE,
    }
}

fn decide(observed: &Observed, notes: &mut Notes) -> Decided {
    if observed.deleting {
        return deletion::next(observed, notes);
    }
    deletion::hold(observed)
        .or_else(|| stateful_set::next(observed, notes))
        .or_else(|| rollout::broken(observed))
        .or_else(|| bootstrap::next(observed, notes))
        .or_else(|| match View::of(observed) {
            None => quorum::beyond_reach(observed, notes)
                .or_else(|| recovery::next(observed, notes))
                .or_else(|| quorum::below(observed, notes)),
            Some(view) => with_quorum(&view, notes),
        })
}

/// What is done while a quorum has confirmed its leader, in the order of urgency.
fn with_quorum(view: &View, notes: &mut Notes) -> Decided {
    if let Some(declared) = access::next(view, notes) {
        return Some(declared);
    }
    if let Some(closed) = access::closed(view) {
        return Some(closed);
    }
    if view.membership.configs.len() != 1 {
        return wait(
            "Waiting until the leader has completed a change of the membership that is under way. If this stays, a \
             majority of the new or of the old voters does not answer: bring those members back.",
        );
    }
    release::refuse(view, notes);
    recovery::over(view.observed)
        .or_else(|| stateful_set::hold_members(view))
        .or_else(|| join::record_members(view))
        .or_else(|| repair::finish_deletion(view))
        .or_else(|| join::next(view, notes))
        .or_else(|| join::leftover(view))
        .or_else(|| scale::down(view, notes))
        .or_else(|| scale::retire(view))
        .or_else(|| repair::next(view, notes))
        .or_else(|| rollout::next(view, notes))
        .or_else(|| storage::next(view, notes))
        .or_else(|| scale::up(view, notes))
        .or_else(|| monitor::next(view.observed))
        .or_else(|| absent(view))
        .or_else(|| access::soon(view))
        .or_else(|| unserved(view.observed))
}

/// All members are there, and clients are sent to none of them yet.
fn unserved(observed: &Observed) -> Decided {
    (observed.endpoints == Some(0)).then_some(())?;
    wait(format!(
        "Waiting until Service {0} sends clients to the members. If this stays, `kubectl get endpointslices -l \
         kubernetes.io/service-name={0}` shows whom it knows.",
        observed.name
    ))
}

/// All that can be done is done, and still a member is missing.
fn absent(view: &View) -> Decided {
    let observed = view.observed;
    let ordinal = (0..observed.wanted.members).find(|ordinal| {
        let ready = observed.pods.get(ordinal).is_some_and(|pod| pod.ready && !pod.deleting);
        !ready || !view.voters_at(*ordinal).iter().any(|id| view.fit(*id))
    })?;
    let pod = observed.pod_name(ordinal);
    wait(format!(
        "Waiting until member {pod} is ready and a caught-up voter. If this stays, `kubectl describe pod {pod}` and \
         `kubectl logs {pod}` say why."
    ))
}

/// The step was taken, or what it was planned for is no longer there.
fn is_over(step: &Risky, observed: &Observed) -> bool {
    let stateful_set = observed.stateful_set.as_ref();
    match step {
        Risky::AddLearner { membership, .. }
        | Risky::RemoveLearner { membership, .. }
        | Risky::ChangeVoters { membership, .. } => {
            View::of(observed).is_some_and(|view| view.membership.log_id != *membership)
        }
        Risky::Recover { token, .. } => observed
            .nodes
            .values()
            .any(|node| node.node_id == token.node_id && node.incarnation > token.incarnation),
        Risky::DeletePod { ordinal, version } => {
            observed.pods.get(ordinal).is_none_or(|pod| pod.deleting || pod.version.uid != version.uid)
        }
        Risky::DeleteClaim { ordinal, version } => observed
            .claims
            .get(ordinal)
            .is_none_or(|claim| claim.deleting || claim.version.uid != version.uid),
        Risky::Shrink { replicas, version } => {
            stateful_set.is_none_or(|set| set.version.uid != version.uid || set.replicas <= *replicas)
        }
        Risky::RecreateStatefulSet { version } => {
            stateful_set.is_none_or(|set| set.deleting || set.version.uid != version.uid)
        }
    }
}
