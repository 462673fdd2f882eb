//! The controller of StatefulSets, the scheduler, and what takes away what is over.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Kubernetes;
use super::machines::Machines;
use super::objects::{goes, name_of};
use super::server::{CLUSTER, State, ordinal};
use crate::cluster::{Cluster, Violation};
use crate::world::World;

/// The kinds, as paths have them.
pub const PODS: &str = "pods";
pub const CLAIMS: &str = "persistentvolumeclaims";
pub const VOLUMES: &str = "persistentvolumes";
pub const SETS: &str = "statefulsets";

/// The name of an ordinal's pod.
pub fn pod_name(ordinal: usize) -> String {
    format!("{CLUSTER}-{ordinal}")
}

/// The name of an ordinal's claim.
pub fn claim_name(ordinal: usize) -> String {
    format!("data-{CLUSTER}-{ordinal}")
}

impl Kubernetes {
    /// There is a pod with a claim for each ordinal below `replicas`, and none beyond.
    pub(super) fn keep_pods(&mut self) {
        self.server.with(|state| {
            let Some(set) = state.objects.get(SETS, CLUSTER).cloned() else { return };
            if goes(&set) {
                for name in names(state, PODS) {
                    drop(state.begin_deletion(PODS, &name));
                }
                drop(state.objects.remove(SETS, CLUSTER));
                return;
            }
            let replicas = set["spec"]["replicas"].as_u64().unwrap_or(1) as usize;
            for ordinal in 0..replicas {
                keep_pod(state, &set, ordinal);
            }
            let beyond = names(state, PODS)
                .into_iter()
                .filter(|name| ordinal(name).is_some_and(|ordinal| ordinal as usize >= replicas));
            state.taken.retain(|ordinal| (*ordinal as usize) < replicas);
            for name in beyond.collect::<Vec<_>>() {
                drop(state.begin_deletion(PODS, &name));
            }
        });
    }

    /// Each pod that has no machine gets one where its volume is, or any that is free.
    pub(super) fn schedule_pods(&mut self) {
        let machines = &mut self.machines;
        self.server.with(|state| {
            for name in names(state, PODS) {
                let Some(pod) = state.objects.get(PODS, &name).cloned() else { continue };
                if goes(&pod) || pod["spec"]["nodeName"].is_string() {
                    continue;
                }
                let Some(ordinal) = ordinal(&name) else { continue };
                let placed = place(state, machines, ordinal as usize);
                let changed = state.objects.change(PODS, &name, |pod| match &placed {
                    Ok(machine) => {
                        pod["spec"]["nodeName"] = json!(machine);
                        set_condition(pod, "PodScheduled", true, "");
                    }
                    Err(why) => set_condition(pod, "PodScheduled", false, why),
                });
                if let (Ok(_), Ok(machine)) = (changed, placed) {
                    state.tell(format!("pod {name} goes to {machine}"));
                }
            }
        });
    }

    /// Pods whose machine is no more are gone, and so are claims that were deleted once no pod holds on to them: the
    /// volume goes with its claim.
    pub(super) fn collect_garbage(
        &mut self,
        cluster: &mut Cluster,
        world: &mut World,
    ) -> Result<(), Violation> {
        let gone = self.server.with(|state| {
            for name in names(state, PODS) {
                let machine = state.objects.get(PODS, &name).and_then(|pod| pod["spec"]["nodeName"].as_str());
                if machine.is_some_and(|machine| state.objects.get("nodes", machine).is_none()) {
                    state.tell(format!("pod {name} is gone with its machine"));
                    drop(state.objects.remove(PODS, &name));
                }
            }
            let mut gone = Vec::new();
            for name in names(state, CLAIMS) {
                let Some(ordinal) = ordinal(&name).map(|ordinal| ordinal as usize) else { continue };
                let is_over = state.objects.get(CLAIMS, &name).is_some_and(goes);
                if is_over && state.objects.get(PODS, &pod_name(ordinal)).is_none() {
                    drop(state.objects.remove(CLAIMS, &name));
                    gone.push(ordinal);
                }
            }
            gone
        });
        for ordinal in gone {
            cluster.end_pod(world, ordinal)?;
            cluster.lose_disk(world, ordinal)?;
            self.disks.is_new(ordinal);
        }
        Ok(())
    }
}

/// The names of all objects of a kind.
pub fn names(state: &State, kind: &str) -> Vec<String> {
    state.objects.list(kind, &[]).into_iter().map(|object| name_of(object).to_owned()).collect()
}

fn keep_pod(state: &mut State, set: &Value, ordinal: usize) {
    let (pod, claim) = (pod_name(ordinal), claim_name(ordinal));
    if state.objects.get(PODS, &pod).is_some() || state.objects.get(CLAIMS, &claim).is_some_and(goes) {
        return;
    }
    let owner = json!([{
        "apiVersion": "apps/v1", "kind": "StatefulSet", "name": CLUSTER, "uid": set["metadata"]["uid"],
        "controller": true,
    }]);
    if state.objects.get(CLAIMS, &claim).is_none() {
        let wanted = &set["spec"]["volumeClaimTemplates"][0];
        let made = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim, "labels": wanted["metadata"]["labels"]},
            "spec": wanted["spec"], "status": {"phase": "Pending"},
        });
        drop(state.objects.create(CLAIMS, made));
    }
    let template = &set["spec"]["template"];
    let mut meta = template["metadata"].clone();
    meta["name"] = json!(pod);
    meta["ownerReferences"] = owner;
    meta["creationTimestamp"] = json!(state.timestamp());
    let made = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"],
        "status": {"phase": "Pending"},
    });
    drop(state.objects.create(PODS, made));
}

/// The machine on which an ordinal's pod is to run; no two members run on one. Its claim has a volume from then on.
fn place(state: &mut State, machines: &Machines, ordinal: usize) -> Result<String, String> {
    let claim = claim_name(ordinal);
    let found = state.objects.get(CLAIMS, &claim).filter(|claim| !goes(claim)).cloned();
    let Some(found) = found else { return Err("its claim is not there".to_owned()) };
    let taken: Vec<String> = state
        .objects
        .list(PODS, &[])
        .into_iter()
        .filter_map(|pod| pod["spec"]["nodeName"].as_str().map(str::to_owned))
        .collect();
    let volume = found["spec"]["volumeName"].as_str().and_then(|volume| state.objects.get(VOLUMES, volume));
    let home = volume.and_then(Machines::home);
    let is_free = |machine: &String| machines.is_well(machine) && !taken.contains(machine);
    let machine = match home {
        Some(home) => Some(home).filter(is_free),
        None => names(state, "nodes").into_iter().find(is_free),
    };
    let machine = machine.ok_or_else(|| "no machine takes it".to_owned())?;
    if found["spec"].get("volumeName").is_none() {
        let volume = format!("pv-{}", found["metadata"]["uid"].as_str().unwrap_or_default());
        drop(state.objects.create(VOLUMES, machines.volume(&volume, &machine)));
        drop(state.objects.change(CLAIMS, &claim, |claim| {
            claim["spec"]["volumeName"] = json!(volume);
            let capacity = claim["spec"]["resources"]["requests"].clone();
            claim["status"] = json!({"phase": "Bound", "capacity": capacity});
        }));
    }
    Ok(machine)
}

/// Sets a condition of a pod.
pub fn set_condition(pod: &mut Value, kind: &str, holds: bool, message: &str) {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let mut by_kind: BTreeMap<String, Value> = conditions
        .into_iter()
        .map(|one| (one["type"].as_str().unwrap_or_default().to_owned(), one))
        .collect();
    let status = if holds { "True" } else { "False" };
    by_kind.insert(kind.to_owned(), json!({"type": kind, "status": status, "message": message}));
    pod["status"]["conditions"] = by_kind.into_values().collect();
}
