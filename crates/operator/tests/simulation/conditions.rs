//! Goal: who watches conditions learns what happens, and nothing that does not: in a rolling change each goes there and
//! back once at most.
//!
//! Method: clusters that roll, with elections of a moment, containers that take their time and steps that wait for
//! their turn; the transitions of each condition are counted.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kvorum_crd::{KvCluster, KvClusterSpec, KvClusterStatus};
use kvorum_operator::apply::ApplyError;
use kvorum_operator::build::Template;
use kvorum_operator::observe::{Follow, Seen};
use kvorum_operator::observed::Observed;
use kvorum_operator::plan::{View, plan};
use kvorum_operator::status::status;
use kvorum_operator::step::Step;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::world::World;

/// Rounds within which a cluster is founded, or has rolled; each is a second.
const ROUNDS: u32 = 600;
/// No leader is confirmed for so many rounds at most.
const ELECTION: u64 = 2;

struct Watched {
    rng: StdRng,
    world: World,
    status: KvClusterStatus,
    leaderless: u64,
    /// How often each condition changed.
    transitions: BTreeMap<String, u32>,
}

impl Watched {
    fn round(&mut self) {
        self.world.tick(&mut self.rng, false);
        let mut observed = self.world.observe(&mut self.rng, false);
        for pod in observed.pods.values_mut().filter(|pod| !pod.running) {
            (pod.trouble, pod.starts) = (Some("ContainerCreating".into()), true);
        }
        if self.leaderless < ELECTION && self.rng.random_bool(0.2) {
            observed.nodes.values_mut().for_each(|node| node.confirmed = false);
        }
        let confirmed = View::of(&observed).is_some();
        self.leaderless = if confirmed { 0 } else { self.leaderless + 1 };
        let plan = plan(&observed);
        let held = matches!(plan.step, Step::Act(_)) && self.rng.random_bool(0.3);
        let outcome = match held {
            true => Err(ApplyError::Held("A disruption budget does not let it go now.".into())),
            false => Ok(()),
        };
        if !held {
            let done = self.world.apply(&plan.step);
            if let (true, Step::ApplyAccess { sent }) = (done, &plan.step) {
                self.world.remember(*sent);
            }
        }
        let seen = self.seen(observed);
        let new = status(&seen, &plan, &outcome, Timestamp::UNIX_EPOCH);
        for condition in &new.conditions {
            let before = self.status.conditions.iter().find(|before| before.type_ == condition.type_);
            if before.is_some_and(|before| before.status != condition.status) {
                *self.transitions.entry(condition.type_.clone()).or_default() += 1;
            }
        }
        self.status = new;
    }

    fn seen(&self, observed: Observed) -> Seen {
        let mut cluster = KvCluster::new("demo", KvClusterSpec::default());
        cluster.status = Some(self.status.clone());
        Seen {
            cluster,
            name: "demo".into(),
            namespace: "default".into(),
            observed,
            ways: BTreeMap::new(),
            tls: Default::default(),
            declared: None,
            pinned_image: String::new(),
            template: Template { template: Default::default(), hash: String::new(), inputs: String::new() },
            update_pending: false,
            size: String::new(),
            objects: Vec::new(),
            pod_monitor: None,
            external: None,
            leaderless: Duration::from_secs(self.leaderless),
            follow: Follow::No,
            stopped_at: None,
        }
    }

    fn settle(&mut self) {
        let is = |status: &KvClusterStatus, kind: &str, value: &str| {
            status.conditions.iter().any(|c| c.type_ == kind && c.status == value)
        };
        for _ in 0..ROUNDS {
            self.round();
            if self.world.unwanted().is_empty()
                && is(&self.status, "Ready", "True")
                && is(&self.status, "Progressing", "False")
            {
                return;
            }
        }
        panic!("it did not settle: {:?}, {:?}", self.world.unwanted(), self.status.conditions);
    }
}

#[test]
fn conditions_change_once_in_a_roll() {
    for seed in 0..200 {
        let mut rng = StdRng::seed_from_u64(seed);
        let world = World::of([3, 5][seed as usize % 2], &mut rng);
        let (status, transitions) = Default::default();
        let mut watched = Watched { rng, world, status, leaderless: 0, transitions };
        watched.settle();
        watched.transitions.clear();
        watched.world.change_template();
        watched.settle();
        let there_and_back: BTreeMap<String, u32> =
            [("Progressing", 2), ("Ready", 2)].map(|(kind, times)| (kind.to_owned(), times)).into();
        assert_eq!(watched.transitions, there_and_back, "seed {seed}");
    }
}
