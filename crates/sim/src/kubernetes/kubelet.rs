//! The kubelets: pods that have a machine run on their ordinal's host, and say how they are.

use rand::RngExt as _;
use serde_json::{Value, json};

use super::Kubernetes;
use super::controllers::{PODS, pod_name, set_condition};
use super::objects::goes;
use crate::cluster::{Cluster, Violation};
use crate::world::World;
use crate::world::clock::{MILLISECOND, Micros, SECOND};

/// How long a pod takes to start.
const START: (Micros, Micros) = (100 * MILLISECOND, 2 * SECOND);
/// How long a pod that is to go may take before it is killed.
const GRACE: Micros = 30 * SECOND;
/// Between two probes, and how many must fail until a pod is not ready.
const PROBE: Micros = SECOND;
const FAILURES_MAX: u32 = 2;

/// A pod as its host knows it.
#[derive(Debug, Default)]
pub struct Pod {
    /// The pod that has the host; empty: none.
    uid: String,
    starts_at: Micros,
    has_started: bool,
    /// When it is killed, if it is to go.
    kill_at: Option<Micros>,
    next_probe: Micros,
    failures: u32,
    is_ready: bool,
}

impl Kubernetes {
    /// Starts, stops and probes what runs on hosts, and says in the pods' status how that is.
    pub(super) fn run_pods(&mut self, cluster: &mut Cluster, world: &mut World) -> Result<(), Violation> {
        for ordinal in 0..self.pods.len() {
            let pod = self.server.with(|state| state.objects.get(PODS, &pod_name(ordinal)).cloned());
            let uid = pod.as_ref().and_then(|pod| pod["metadata"]["uid"].as_str()).unwrap_or_default();
            if self.pods[ordinal].uid != uid && !self.pods[ordinal].uid.is_empty() {
                // It was taken away without waiting for its end.
                cluster.end_pod(world, ordinal)?;
                self.pods[ordinal] = Pod::default();
            }
            if let Some(pod) = pod {
                self.run_pod(cluster, world, ordinal, &pod)?;
            }
        }
        Ok(())
    }

    fn run_pod(
        &mut self,
        cluster: &mut Cluster,
        world: &mut World,
        ordinal: usize,
        object: &Value,
    ) -> Result<(), Violation> {
        let now = world.clock.now();
        let machine = object["spec"]["nodeName"].as_str().unwrap_or_default();
        if goes(object)
            && (machine.is_empty() || self.pods[ordinal].uid.is_empty() && self.machines.is_well(machine))
        {
            // It never ran.
            self.server.with(|state| drop(state.objects.remove(PODS, &pod_name(ordinal))));
            return Ok(());
        }
        if machine.is_empty() || !self.machines.is_well(machine) {
            return Ok(());
        }
        if self.pods[ordinal].uid.is_empty() {
            let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            let starts_at = now + self.random.random_range(START.0..=START.1);
            self.pods[ordinal] = Pod { uid, starts_at, ..Pod::default() };
        }
        let pod = &mut self.pods[ordinal];
        if goes(object) {
            let kill_at = *pod.kill_at.get_or_insert_with(|| {
                cluster.stop_pod(ordinal);
                now + GRACE
            });
            if !pod.has_started || !cluster.runs(world, ordinal) || now >= kill_at {
                cluster.end_pod(world, ordinal)?;
                self.pods[ordinal] = Pod::default();
                self.server.with(|state| drop(state.objects.remove(PODS, &pod_name(ordinal))));
            }
            return Ok(());
        }
        if !pod.has_started && now >= pod.starts_at {
            pod.has_started = true;
            cluster.start_pod(world, ordinal, arguments(object, &pod_name(ordinal)))?;
        }
        let (has_started, runs) = (pod.has_started, cluster.runs(world, ordinal));
        if now >= pod.next_probe {
            pod.next_probe = now + PROBE;
            pod.failures = if runs && cluster.is_ready(world, ordinal) { 0 } else { pod.failures + 1 };
            pod.is_ready = pod.failures == 0 || pod.is_ready && pod.failures < FAILURES_MAX;
        }
        let (is_ready, address) = (pod.is_ready && runs, cluster.address(world, ordinal));
        self.server
            .with(|state| {
                if is_ready {
                    state.taken.remove(&(ordinal as u32));
                }
                state.objects.change(PODS, &pod_name(ordinal), |object| {
                    tell(object, has_started, runs, is_ready, &address);
                })
            })
            .map_err(|refusal| format!("the simulation itself failed: {refusal:?}"))
            .map(drop)
    }

    /// A host has no pod any more, because its machine is dead.
    pub(super) fn forget_pod(&mut self, ordinal: usize) {
        self.pods[ordinal] = Pod::default();
    }
}

/// The flags of the node's container.
fn arguments(pod: &Value, name: &str) -> Vec<String> {
    let arguments = pod["spec"]["containers"][0]["args"].as_array();
    let arguments = arguments.into_iter().flatten().filter_map(Value::as_str);
    arguments.map(|argument| argument.replace("$(POD_NAME)", name)).collect()
}

/// What the kubelet says of a pod.
fn tell(pod: &mut Value, has_started: bool, runs: bool, is_ready: bool, address: &str) {
    let state = match (runs, has_started) {
        (true, _) => json!({"running": {}}),
        (false, true) => json!({"waiting": {"reason": "CrashLoopBackOff"}}),
        (false, false) => json!({"waiting": {"reason": "ContainerCreating"}}),
    };
    pod["status"]["containerStatuses"] = json!([{
        "name": "node", "image": "kvorum:sim", "imageID": "", "ready": is_ready, "restartCount": 0, "state": state,
    }]);
    pod["status"]["phase"] = json!(if runs { "Running" } else { "Pending" });
    if has_started {
        pod["status"]["podIP"] = json!(address);
    }
    set_condition(pod, "Ready", is_ready, "");
}
