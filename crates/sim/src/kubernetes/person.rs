//! What people and machines do to the world of an operator.

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::json;

use super::Kubernetes;
use super::controllers::{CLAIMS, PODS, claim_name, pod_name};
use super::server::CLUSTER;
use crate::cluster::{Cluster, Violation};
use crate::plan::What;
use crate::world::World;
use crate::world::clock::{Micros, SECOND};
use crate::world::random::stream;

/// How long it takes until a dead machine is no more for Kubernetes.
const GONE_AFTER: (Micros, Micros) = (SECOND, 60 * SECOND);
/// How long a machine that comes back is away: a minute proves that it does not.
const AWAY: (Micros, Micros) = (SECOND, 50 * SECOND);
/// The same of those that are away while a person says something of another's disk, and when that is said: operators have
/// seen by then who is there.
const OTHERS_AWAY: (Micros, Micros) = (20 * SECOND, 40 * SECOND);
const SAID_AFTER: Micros = 12 * SECOND;
/// On a claim, by a person: its uid, where its disk is lost.
const DISK_LOST: &str = "kvorum.io/disk-lost";
/// In the spec, by a person: when members were last told to restart.
const RESTARTED_AT: &str = "kvorum.io/restarted-at";

/// What a person says of a claim whose pod may run.
#[derive(Clone, Copy, Debug)]
pub enum Saying {
    /// It is deleted, which its pod holds up.
    Delete,
    /// Its disk is lost.
    Lost,
}

impl Kubernetes {
    /// Something happens. Answers how it counts; what the cluster cannot survive does not happen.
    pub fn begin(
        &mut self,
        cluster: &mut Cluster,
        world: &mut World,
        what: What,
    ) -> Result<&'static str, Violation> {
        match what {
            What::PodDeleted(ordinal) => {
                self.server.with(|state| drop(state.begin_deletion(PODS, &pod_name(ordinal))));
                Ok("pod")
            }
            What::DiskLost(ordinal) if self.may_lose(ordinal) => {
                cluster.lose_disk(world, ordinal)?;
                self.disks.is_new(ordinal);
                Ok("disk")
            }
            What::ClaimDeleted(ordinal) if self.may_lose(ordinal) => {
                self.claims += 1;
                let mut random = stream(self.seed, &format!("claim {}", self.claims));
                let saying = [Some(Saying::Delete), Some(Saying::Lost), None][random.random_range(0..3)];
                if let Some(saying) = saying {
                    self.miss_others(world, ordinal, &mut random);
                    self.sayings.push((world.clock.now() + SAID_AFTER, ordinal, saying));
                    return Ok("claim");
                }
                self.disks.lose(ordinal);
                self.server.with(|state| {
                    drop(state.begin_deletion(CLAIMS, &claim_name(ordinal)));
                    drop(state.begin_deletion(PODS, &pod_name(ordinal)));
                });
                Ok("claim")
            }
            What::MachineLost(ordinal) => self.lose_machine(cluster, world, ordinal),
            What::MachineAway(ordinal) => Ok(self.miss_machine(world, ordinal)),
            What::Resized(members) => {
                self.change_spec(|spec| spec["members"] = json!(members));
                Ok("scale")
            }
            What::Restarted => {
                self.restarts += 1;
                let restarts = self.restarts.to_string();
                self.change_spec(|spec| spec["pod"]["annotations"][RESTARTED_AT] = json!(restarts));
                Ok("roll")
            }
            What::ServerAway => {
                self.server.with(|state| state.is_hard_to_reach = true);
                Ok("server")
            }
            What::WatchesEnd => {
                self.server.with(|state| state.broken_off += 1);
                Ok("watches")
            }
            _ => Ok("none"),
        }
    }

    /// What a person wants in the end: one member, so that whoever leads hands over to those who stay, that all restart, or
    /// another disk; where most disks are lost then, nothing.
    pub fn wish(&self) -> Option<What> {
        let mut random = stream(self.seed, "wish");
        let voter = self.disks.voters().choose(&mut random).copied().unwrap_or_default();
        let wishes = [What::Resized(1), What::Restarted, What::ClaimDeleted(voter)];
        wishes.choose(&mut random).copied().filter(|_| !self.loses_most)
    }

    /// It is over.
    pub fn end(&mut self, what: What) {
        if what == What::ServerAway {
            self.server.with(|state| state.is_hard_to_reach = false);
        }
    }

    fn change_spec(&self, change: impl FnOnce(&mut serde_json::Value)) {
        self.server.with(|state| {
            drop(state.objects.change("kvclusters", CLUSTER, |cluster| change(&mut cluster["spec"])))
        });
    }

    /// The members change their parts just then: which disks are needed is not clear.
    fn may_lose(&self, ordinal: usize) -> bool {
        !self.step.starts_with("\"ChangeVoters") && self.disks.can_lose(ordinal)
    }

    /// So many others' machines have no Node for a while that without one more there is no quorum.
    fn miss_others(&mut self, world: &World, but: usize, random: &mut StdRng) {
        let voters = self.disks.voters();
        let others: Vec<usize> = voters.iter().copied().filter(|other| *other != but).collect();
        for other in others.sample(random, voters.len().saturating_sub(1) / 2) {
            let Some(machine) = self.machine_of(*other) else { continue };
            let until = world.clock.now() + random.random_range(OTHERS_AWAY.0..=OTHERS_AWAY.1);
            world
                .trace
                .tell("kubernetes", format!("machine {machine} of pod {other} has no Node for a while"));
            self.machines.miss(&self.server, &machine, until);
        }
    }

    /// A person says what is to become of disks, which may be whole and vote: each is to be replaced once the others can do
    /// without it.
    pub(super) fn follow_sayings(&mut self, now: Micros) {
        let due: Vec<_> = self.sayings.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, ordinal, saying) in due {
            if !self.may_lose(ordinal) {
                continue;
            }
            self.disks.lose(ordinal);
            self.server.with(|state| {
                state.tell(format!("a person says of the claim of {ordinal}: {saying:?}"));
                let claim = claim_name(ordinal);
                match saying {
                    Saying::Delete => drop(state.begin_deletion(CLAIMS, &claim)),
                    Saying::Lost => drop(state.objects.change(CLAIMS, &claim, |claim| {
                        let uid = claim["metadata"]["uid"].clone();
                        claim["metadata"]["annotations"][DISK_LOST] = uid;
                    })),
                }
            });
        }
    }

    /// The machine on which a pod runs, if it does on one that is well.
    fn machine_of(&self, ordinal: usize) -> Option<String> {
        let machine = self.server.with(|state| {
            let pod = state.objects.get(PODS, &pod_name(ordinal))?;
            pod["spec"]["nodeName"].as_str().map(str::to_owned)
        });
        machine.filter(|machine| self.machines.is_well(machine))
    }

    /// The machine of a pod is without a Node object for a while: its pod goes, and nothing is lost.
    fn miss_machine(&mut self, world: &World, ordinal: usize) -> &'static str {
        let Some(machine) = self.machine_of(ordinal) else { return "none" };
        let until = world.clock.now() + self.random.random_range(AWAY.0..=AWAY.1);
        world.trace.tell("kubernetes", format!("machine {machine} of pod {ordinal} has no Node for a while"));
        self.machines.miss(&self.server, &machine, until);
        "away"
    }

    /// The machine of a pod is dead for good, and with it the disk, if that is in it.
    fn lose_machine(
        &mut self,
        cluster: &mut Cluster,
        world: &mut World,
        ordinal: usize,
    ) -> Result<&'static str, Violation> {
        let Some(machine) = self.machine_of(ordinal) else { return Ok("none") };
        if self.machines.are_local && !self.may_lose(ordinal) {
            return Ok("none");
        }
        let gone_at = world.clock.now() + self.random.random_range(GONE_AFTER.0..=GONE_AFTER.1);
        world.trace.tell("kubernetes", format!("machine {machine} of pod {ordinal} is dead"));
        self.machines.lose(&machine, gone_at);
        if self.machines.are_local {
            self.disks.lose(ordinal);
        }
        cluster.lose_power(world, ordinal)?;
        self.forget_pod(ordinal);
        Ok("machine")
    }
}
