//! A simulated Kubernetes whose pods are the hosts of a cluster, and whose KvCluster real operators look after.
//!
//! The API server answers the operator's own client (`server`, `watch`); controllers, scheduler and kubelets do their
//! part between two windows of the world (`controllers`, `kubelet`). The pod of an ordinal is always the same host, and
//! that host's directory is the disk of the ordinal's claim.

mod controllers;
mod kubelet;
mod machines;
mod objects;
mod patch;
mod person;
mod promises;
mod recovery;
mod request;
mod server;
mod voters;
mod wanted;
mod watch;

use kvorum_operator::controller::{Context, run};
use kvorum_operator::metrics::Metrics;
use kvorum_operator::options::Options;
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::json;

use self::kubelet::Pod;
use self::machines::Machines;
pub use self::objects::NAMESPACE;
use self::person::Saying;
use self::recovery::Person;
use self::server::Effect;
pub use self::server::{CLUSTER, Server};
use self::voters::Disks;
use crate::cluster::{Cluster, Violation};
use crate::world::clock::{MILLISECOND, Micros};
use crate::world::random::stream;
use crate::world::{HostNetwork, World};

/// Members at most: each ordinal has a host.
pub const MEMBERS_MAX: usize = 5;
/// How often controllers, scheduler and kubelets look.
const PASS: Micros = 20 * MILLISECOND;

/// See the module.
#[derive(Debug)]
pub struct Kubernetes {
    server: Server,
    seed: u64,
    random: StdRng,
    machines: Machines,
    /// By ordinal.
    pods: Vec<Pod>,
    disks: Disks,
    next_pass: Micros,
    /// Whether most disks are lost in the end.
    loses_most: bool,
    person: Person,
    /// How often somebody had the members restart.
    restarts: u32,
    /// What the operator had on record last.
    step: String,
    /// What a person is about to say of disks, and when.
    sayings: Vec<(Micros, usize, Saying)>,
    /// How often a claim was to be deleted.
    claims: u64,
}

impl Kubernetes {
    /// With machines, and a KvCluster that somebody has just made.
    pub fn new(seed: u64, world: &World) -> Kubernetes {
        let mut random = stream(seed, "kubernetes");
        let server = Server::new(world.clock.clone(), world.trace.clone());
        let machines = Machines::new(&server, random.random_range(0..3) > 0);
        let members = [1, 3, 3, 3, 5][random.random_range(0..5)];
        server
            .with(|state| {
                let cluster = json!({
                    "apiVersion": "kvorum.io/v1alpha1", "kind": "KvCluster", "metadata": {"name": CLUSTER},
                    "spec": {"members": members, "tls": {"mode": "Disabled"}},
                });
                state.tell(format!("a KvCluster of {members} members is made"));
                state.objects.create("kvclusters", cluster).map(drop)
            })
            .expect("there is none yet");
        Kubernetes {
            server,
            random,
            machines,
            pods: (0..MEMBERS_MAX).map(|_| Pod::default()).collect(),
            disks: Disks::new(MEMBERS_MAX),
            next_pass: 0,
            loses_most: stream(seed, "recovery").random_range(0..3) == 0,
            person: Person::default(),
            restarts: 0,
            step: String::new(),
            sayings: Vec::new(),
            claims: 0,
            seed,
        }
    }

    /// The API server.
    pub fn server(&self) -> Server {
        self.server.clone()
    }

    /// What operators have done is judged, and from time to time all that Kubernetes does by itself is done.
    pub fn step(&mut self, cluster: &mut Cluster, world: &mut World) -> Result<(), Violation> {
        let (effects, violation) =
            self.server.with(|state| (std::mem::take(&mut state.effects), state.violation.take()));
        violation.map_or(Ok(()), Err)?;
        let now = world.clock.now();
        let seen_for = now.saturating_sub(cluster.operators_kept_until());
        for effect in effects {
            self.disks.look(cluster, world);
            match effect {
                Effect::ClaimDeleted(ordinal) => {
                    self.disks.judge_deletion(ordinal as usize)?;
                    self.disks.judge_quorum(ordinal as usize, now, seen_for)?;
                }
                Effect::PodTaken(ordinal) if !self.person.looks() => {
                    self.disks.judge_quorum(ordinal as usize, now, seen_for)?;
                }
                Effect::PodTaken(_) => {}
                Effect::Shrunk(left) => self.disks.judge_shrink(left)?,
            }
        }
        if now < self.next_pass {
            return Ok(());
        }
        self.next_pass = now + PASS;
        self.disks.look(cluster, world);
        self.disks.note_needed(cluster, world);
        self.follow_sayings(now);
        self.keep_pods();
        self.machines.step(&self.server, now);
        self.schedule_pods();
        self.run_pods(cluster, world)?;
        self.collect_garbage(cluster, world)?;
        self.look_for_offer(cluster, now);
        self.tell_step();
        Ok(())
    }

    /// Tells people what operators have on record.
    fn tell_step(&mut self) {
        let step = self.server.with(|state| {
            let cluster = state.objects.get("kvclusters", CLUSTER)?;
            let step = &cluster["status"]["step"];
            Some(if step.is_null() { String::new() } else { format!("{} {}", step["kind"], step["target"]) })
        });
        let step = step.unwrap_or_default();
        if step != self.step {
            if !step.is_empty() {
                self.server.with(|state| state.tell(format!("on record: {}", step.replace('"', ""))));
            }
            self.step = step;
        }
    }
}

/// Runs one process of an operator, for as long as it lives.
pub async fn operate(server: Server, network: HostNetwork, random: StdRng) {
    let client = server.client(random);
    let options = Options { image: "kvorum:sim".to_owned(), ..Options::default() };
    let context = Context::new(client, options, Metrics::new()).through(network);
    run(context, std::future::pending()).await;
}
