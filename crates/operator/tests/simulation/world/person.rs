//! What a person does who reads what the operator says.

use kvorum_operator::observed::{Claim, Machine, Observed};
use kvorum_operator::plan::{Note, Offer, View, offer};

use super::{PATIENCE, World};

impl World {
    /// A person does what the condition QuorumLost says.
    pub(super) fn ask_for_recovery(&mut self, observed: &Observed) -> String {
        if self.without_quorum < PATIENCE || View::of(observed).is_some() {
            return "nothing".into();
        }
        match offer(observed) {
            Offer::From(token) => {
                self.recover_from = Some(token.to_string());
                format!("recover from {token}")
            }
            Offer::Silent(silent) => {
                for ordinal in silent.iter().filter_map(|silent| silent.ordinal) {
                    if let Some(claim) = self.claims.get_mut(&ordinal) {
                        claim.declared_lost = claim.machine == Machine::Gone;
                    }
                }
                format!("{silent:?} may have more")
            }
            Offer::Behind(_) | Offer::Nothing => "nothing".into(),
        }
    }

    /// A person corrects a spec that cannot work.
    pub fn correct(&mut self) {
        (self.blocked, self.recover_from) = (false, None);
        self.cut_off.clear();
        self.stuck.clear();
        self.rights.correct(self.template);
        if std::mem::take(&mut self.broken)
            && let Some(set) = &mut self.set
        {
            set.current = false;
        }
    }

    /// A person deletes a cluster without data, with its claims, and makes it again.
    pub(super) fn give_up(&mut self) {
        assert!(self.group.is_none(), "a person is told to give up a cluster that has data");
        (self.cluster_id, self.step) = (None, None);
        self.pods.clear();
        self.claims.clear();
    }

    /// A person does what the notes ask for.
    pub fn heed(&mut self, observed: &Observed, notes: &[Note]) {
        if self.cluster_id.is_some() {
            self.ask_for_recovery(observed);
        }
        // All of its data went with an earlier life, and the condition QuorumLost says that nothing is left.
        let waited = self.without_quorum > PATIENCE && self.cluster_id.is_some();
        let founds = self.claims.values().any(|claim| claim.disk.is_some_and(|disk| disk.founder));
        if waited && !founds && self.group.is_none() && offer(observed) == Offer::Nothing {
            self.give_up();
        }
        for note in notes {
            match note.reason {
                "MachineGone" => self.standby = true,
                "FounderLost" => self.give_up(),
                "RetiredClaim" | "RetiredDisk" | "LeftBehind" => {
                    let members =
                        self.group.as_ref().map(|group| group.membership.nodes.clone()).unwrap_or_default();
                    let retired =
                        |claim: &Claim| claim.disk.is_some_and(|disk| !members.contains_key(&disk.node_id));
                    for claim in self.claims.values_mut().filter(|claim| retired(claim)) {
                        claim.released = true;
                    }
                }
                _ => {}
            }
        }
        // New volumes come up where there are machines.
        if self.standby {
            for (i, claim) in &mut self.claims {
                let held = self.pods.contains_key(i);
                if claim.machine == Machine::Gone && claim.disk.is_none() && !held {
                    claim.machine = Machine::Exists;
                }
            }
        }
    }
}
