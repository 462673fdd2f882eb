//! The machines that pods run on: they are lost for good, and others come in their place.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::objects::NAMESPACE;
use super::server::Server;
use crate::world::clock::{Micros, SECOND};

/// Two more than there are members at most, so that one stands by.
const MACHINES: u32 = 7;
/// The label with a machine's own name.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// How long after a machine is lost another one comes.
const REPLACED_AFTER: Micros = 10 * SECOND;

/// All machines.
#[derive(Debug)]
pub struct Machines {
    /// Volumes are disks of one machine each; otherwise any machine can use them.
    pub are_local: bool,
    made: u32,
    /// Machines that are dead, and when their Node objects go.
    dead: BTreeMap<String, Micros>,
    /// Machines that have no Node object for a while, and until when.
    away: BTreeMap<String, Micros>,
    /// When others come.
    coming: Vec<Micros>,
}

impl Machines {
    /// Some that are well.
    pub fn new(server: &Server, are_local: bool) -> Machines {
        let mut machines =
            Machines { are_local, made: 0, dead: BTreeMap::new(), away: BTreeMap::new(), coming: Vec::new() };
        (0..MACHINES).for_each(|_| machines.add(server));
        machines
    }

    fn add(&mut self, server: &Server) {
        self.made += 1;
        register(server, &format!("m{:03}", self.made));
    }

    /// A machine has no Node object until then, as if its kubelet had never come up, and comes back with all it has.
    pub fn miss(&mut self, server: &Server, machine: &str, until: Micros) {
        self.away.insert(machine.to_owned(), until);
        server.with(|state| drop(state.objects.remove("nodes", machine)));
    }

    /// A machine is dead from now on, which Kubernetes learns later.
    pub fn lose(&mut self, machine: &str, gone_at: Micros) {
        self.dead.insert(machine.to_owned(), gone_at);
        self.coming.push(gone_at + REPLACED_AFTER);
    }

    /// Whether a machine runs pods.
    pub fn is_well(&self, machine: &str) -> bool {
        !self.dead.contains_key(machine) && !self.away.contains_key(machine)
    }

    /// What is known of dead machines, and those that come.
    pub fn step(&mut self, server: &Server, now: Micros) {
        let gone: Vec<String> =
            self.dead.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        for name in gone {
            server.with(|state| {
                if state.objects.remove("nodes", &name).is_ok() {
                    state.tell(format!("machine {name} is no more"));
                }
            });
        }
        let back = |until: &Micros| *until <= now;
        for name in self.away.iter().filter(|(_, until)| back(until)).map(|(name, _)| name) {
            register(server, name);
        }
        self.away.retain(|_, until| !back(until));
        let come = self.coming.iter().filter(|at| **at <= now).count();
        self.coming.retain(|at| *at > now);
        (0..come).for_each(|_| self.add(server));
    }

    /// A volume for whoever runs on a machine.
    pub fn volume(&self, name: &str, machine: &str) -> Value {
        let term = json!({"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [machine]}]});
        let mut volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": name, "annotations": {"of": NAMESPACE}}, "spec": {},
        });
        if self.are_local {
            volume["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [term]}});
        }
        volume
    }

    /// The one machine that can use a volume, if there is only one.
    pub fn home(volume: &Value) -> Option<String> {
        let terms = &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"];
        terms[0]["matchExpressions"][0]["values"][0].as_str().map(str::to_owned)
    }
}

/// There is a Node object for a machine.
fn register(server: &Server, name: &str) {
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {HOSTNAME: name}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    });
    server.with(|state| drop(state.objects.create("nodes", node)));
}
