//! A person who has lost all disks but one reads what the KvCluster's conditions say, and asks for it.

use rand::RngExt as _;
use rand::seq::IteratorRandom as _;
use serde_json::{Value, json};

use super::Kubernetes;
use super::server::CLUSTER;
use crate::cluster::{Cluster, Violation};
use crate::world::World;
use crate::world::clock::{Micros, SECOND};

/// Between two looks of the person.
const LOOKS: Micros = 2 * SECOND;
/// The annotation that asks for a recovery.
const RECOVER_FROM: &str = "kvorum.io/recover-from";

/// What that person knows.
#[derive(Debug, Default)]
pub struct Person {
    /// Most disks are lost.
    looks: bool,
    next_look: Micros,
    /// The token that was asked for last.
    asked: Option<String>,
}

impl Person {
    /// Whether most disks are lost.
    pub fn looks(&self) -> bool {
        self.looks
    }
}

impl Kubernetes {
    /// In a third of all seeds.
    pub fn loses_most(&self) -> bool {
        self.loses_most && self.disks.voters().len() > 1
    }

    /// All disks but one are emptied.
    pub fn lose_most(&mut self, cluster: &mut Cluster, world: &mut World) -> Result<(), Violation> {
        let voters = self.disks.voters();
        // Who is away just then, with a machine that nobody misses yet, lacks what the others have taken meanwhile.
        let seen = cluster.seen(world);
        let there: Vec<usize> = voters.iter().copied().filter(|ordinal| seen.contains_key(ordinal)).collect();
        let survivor = there.iter().copied().choose(&mut self.random);
        world.trace.tell("kubernetes", format!("of the disks {voters:?} all are lost but {survivor:?}"));
        for ordinal in voters.into_iter().filter(|ordinal| Some(*ordinal) != survivor) {
            cluster.lose_disk(world, ordinal)?;
            self.disks.is_new(ordinal);
        }
        self.server.with(|state| state.is_lost = true);
        self.person.looks = true;
        Ok(())
    }

    /// Whether the person has asked for a recovery.
    pub fn is_asked_to_recover(&self) -> bool {
        self.person.asked.is_some()
    }

    /// The person looks, and asks for what is offered.
    pub(super) fn look_for_offer(&mut self, cluster: &Cluster, now: Micros) {
        if !self.person.looks || now < self.person.next_look {
            return;
        }
        self.person.next_look = now + LOOKS + self.random.random_range(0..=LOOKS);
        let offer = self.server.with(|state| offer(state.objects.get("kvclusters", CLUSTER)?));
        let Some(token) = offer.filter(|token| self.person.asked.as_ref() != Some(token)) else { return };
        self.server.with(|state| {
            state.tell(format!("a person asks for a recovery from {token}"));
            drop(state.objects.change("kvclusters", CLUSTER, |cluster| {
                cluster["metadata"]["annotations"][RECOVER_FROM] = json!(token);
            }));
        });
        // The survivor's log ends there; whatever comes after that begins anew.
        if let Some(last) = token.rsplit_once('.').and_then(|(_, index)| index.parse().ok()) {
            cluster.recovers(last);
        }
        self.person.asked = Some(token);
    }
}

/// The token that the condition QuorumLost offers.
fn offer(cluster: &Value) -> Option<String> {
    let conditions = cluster["status"]["conditions"].as_array()?;
    let lost = conditions.iter().find(|one| one["type"] == "QuorumLost" && one["status"] == "True")?;
    let (_, offered) = lost["message"].as_str()?.split_once(&format!("{RECOVER_FROM}="))?;
    offered.split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the person reads what the operator says, and nothing else. Method: a condition as it is written.
    #[test]
    fn an_offer_is_read() {
        let cluster = |status: &str, said: &str| json!({"status": {"conditions": [{"type": "QuorumLost", "status": status, "message": said}]}});
        let said =
            "If they never come back: kubectl annotate kvc demo -n sim kvorum.io/recover-from=1/00ab@3.17";
        assert_eq!(offer(&cluster("True", said)), Some("1/00ab@3.17".to_owned()));
        assert_eq!(offer(&cluster("False", said)), None);
        assert_eq!(offer(&cluster("True", "No leader is confirmed.")), None);
    }
}
