//! The machines: which volumes can still be used somewhere, and whether one stands by.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, PodSpec};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use super::objects::Objects;
use super::schedule::{fits_any, home, is_bound_to_one, is_cordoned, is_ready, lets_on};
use super::watch::{Known, Nodes, PAGE_NODES};
use crate::memory::Memory;
use crate::observed::Machine;

/// A machine that no Node object has named for so long is gone.
const GONE_AFTER: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Default)]
pub struct Machines {
    /// Of claims whose pod does not run: where their volumes can be used.
    pub of_claims: BTreeMap<u32, Place>,
    /// For these ordinals' pods a Ready machine without a member stands by.
    pub standby: BTreeSet<u32>,
    /// Machines that are Ready. Where machines cannot be read, all that run pods count as Ready: nobody
    /// is passed over whose machine may be.
    pub ready: BTreeSet<String>,
    /// Machines that are cordoned.
    pub cordoned: Vec<String>,
    /// The operator lacks the right to read machines or volumes.
    pub forbidden: bool,
}

/// Where a volume can be used.
pub struct Place {
    /// The one machine, where there is only one.
    pub home: Option<String>,
    /// Whether it exists, or another one that fits.
    pub machine: Machine,
}

/// Looks at machines and volumes, if some pod does not run or is silent. Where that is not allowed, as in an
/// operator of one namespace, nothing is known, and nothing is done about machines. `made` is what pods are made
/// of from now on.
pub async fn look(
    client: &Client,
    nodes: &Nodes,
    objects: &Objects,
    made: &PodSpec,
    silent: bool,
    memory: &mut Memory,
) -> Machines {
    let machines = objects.pods.values().filter_map(|pod| pod.spec.as_ref()?.node_name.clone());
    let unknown = Machines { ready: machines.collect(), ..Machines::default() };
    let unused = unused_volumes(objects);
    forget_used(objects, &unused, memory);
    if unused.is_empty() && !silent {
        return unknown;
    }
    let nodes = match nodes.known().await {
        Known::All(nodes) => nodes,
        Known::Forbidden => return Machines { forbidden: true, ..unknown },
        Known::Nothing => return unknown,
    };
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let volumes = unused.iter().map(|(ordinal, volume)| {
        let api = &api;
        async move { Ok::<_, kube::Error>((*ordinal, api.get_opt(volume).await?)) }
    });
    let volumes = match try_join_all(volumes).await {
        Ok(volumes) => volumes,
        Err(error) => return Machines { forbidden: is_forbidden(&error), ..unknown },
    };
    let standby: BTreeSet<u32> =
        objects.claims.keys().copied().filter(|i| stands_by(objects, made, *i, &nodes)).collect();
    let mut of_claims = BTreeMap::new();
    for (ordinal, volume) in volumes {
        let Some(volume) = volume else { continue };
        let mut place = place(&volume, &nodes, objects.claims.get(&ordinal), memory);
        // A disk may be given up for that: then a watch that is late is not enough.
        if place.machine == Machine::Gone && standby.contains(&ordinal) && !is_gone(client, &volume).await {
            place.machine = Machine::Missing;
        }
        of_claims.insert(ordinal, place);
    }
    Machines {
        of_claims,
        standby,
        ready: nodes.iter().filter(|node| is_ready(node)).map(|node| node.name_any()).collect(),
        cordoned: nodes.iter().filter(|node| is_cordoned(node)).map(|node| node.name_any()).collect(),
        forbidden: false,
    }
}

/// Asks Kubernetes itself whether the volume's machine is gone. What cannot be asked is not gone.
async fn is_gone(client: &Client, volume: &PersistentVolume) -> bool {
    let api: Api<Node> = Api::all(client.clone());
    if let Some(home) = home(volume) {
        return matches!(api.get_metadata_opt(&home).await, Ok(None));
    }
    let mut page = ListParams::default().limit(PAGE_NODES);
    loop {
        let Ok(nodes) = api.list(&page).await else { return false };
        if fits_any(volume, &nodes.items) {
            return false;
        }
        match nodes.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return true,
        }
    }
}

fn place(
    volume: &PersistentVolume,
    nodes: &[Node],
    claim: Option<&PersistentVolumeClaim>,
    memory: &mut Memory,
) -> Place {
    let (fits, bound) = (fits_any(volume, nodes), is_bound_to_one(volume));
    let lasts = memory.lasts(&missing_machine(claim), !fits && bound);
    let machine = match fits {
        true => Machine::Exists,
        false if !bound => Machine::Unfit,
        false if lasts < GONE_AFTER => Machine::Missing,
        false => Machine::Gone,
    };
    Place { home: home(volume), machine }
}

/// A Ready machine without a member would take this ordinal's pod, both as it is and as it is made again.
fn stands_by(objects: &Objects, made: &PodSpec, ordinal: u32, nodes: &[Node]) -> bool {
    let taken: BTreeSet<&str> =
        objects.pods.values().filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref()).collect();
    let pod = objects.pods.get(&ordinal).and_then(|pod| pod.spec.as_ref());
    let takes = |node: &&Node| {
        let free = is_ready(node) && !taken.contains(node.name_any().as_str());
        free && lets_on(made, node) && pod.is_none_or(|pod| lets_on(pod, node))
    };
    nodes.iter().any(|node| takes(&node))
}

fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_forbidden())
}

/// The machine of a pod that runs is there: if it is missing later, that begins then.
fn forget_used(objects: &Objects, unused: &BTreeMap<u32, String>, memory: &mut Memory) {
    for (_, claim) in objects.claims.iter().filter(|(ordinal, _)| !unused.contains_key(ordinal)) {
        memory.lasts(&missing_machine(Some(claim)), false);
    }
}

/// What is remembered of a claim whose machine is missing.
fn missing_machine(claim: Option<&PersistentVolumeClaim>) -> String {
    format!("machine of claim {}", claim.and_then(|claim| claim.uid()).unwrap_or_default())
}

/// The volumes of claims whose pod does not run.
fn unused_volumes(objects: &Objects) -> BTreeMap<u32, String> {
    let unused = objects.claims.iter().filter_map(|(ordinal, claim)| {
        let runs = objects.pods.get(ordinal).is_some_and(|pod| super::read::pod(pod).running);
        let volume = claim.spec.as_ref()?.volume_name.clone()?;
        (!runs).then_some((*ordinal, volume))
    });
    unused.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    /// Goal: a zone without a machine for a while costs nobody a disk. Method: the same look at two volumes, one
    /// minute after their machine was last seen.
    #[test]
    fn a_volume_that_others_may_use_is_waited_for() {
        let volume = |key: &str| -> PersistentVolume {
            let term = json!({"matchExpressions": [{"key": key, "operator": "In", "values": ["a"]}]});
            let required = json!({"nodeSelectorTerms": [term]});
            from_value(json!({"spec": {"nodeAffinity": {"required": required}}})).unwrap()
        };
        let claim: PersistentVolumeClaim = from_value(json!({"metadata": {"uid": "c"}})).unwrap();
        let long_ago = std::time::Instant::now().checked_sub(GONE_AFTER * 2).unwrap();
        let seen = |key: &str| {
            let mut memory = Memory::default();
            memory.since(&missing_machine(Some(&claim)), long_ago);
            place(&volume(key), &[], Some(&claim), &mut memory).machine
        };
        assert_eq!(seen("kubernetes.io/hostname"), Machine::Gone);
        assert_eq!(seen("topology.kubernetes.io/zone"), Machine::Unfit);
    }

    /// Goal: no disk is given up for a machine that the member could not use. Method: a free machine, and pods
    /// that it does and does not take, as they are and as they are made again.
    #[test]
    fn a_machine_stands_by_for_this_very_pod() {
        let free: Node = from_value(json!({
            "metadata": {"name": "free", "labels": {"pool": "kv"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap();
        let spec = |pool: &str| json!({"containers": [], "nodeSelector": {"pool": pool}});
        let stands = |made: &str, is: &str| {
            let pod = from_value(json!({"spec": spec(is)})).unwrap();
            let objects = Objects { pods: [(0, pod)].into(), ..objects() };
            stands_by(&objects, &from_value(spec(made)).unwrap(), 0, std::slice::from_ref(&free))
        };
        assert!(stands("kv", "kv"));
        assert!(!stands("other", "kv") && !stands("kv", "other"));
        let mut member: k8s_openapi::api::core::v1::Pod = from_value(json!({"spec": spec("kv")})).unwrap();
        member.spec.as_mut().unwrap().node_name = Some("free".into());
        let objects = Objects { pods: [(1, member)].into(), ..objects() };
        assert!(!stands_by(&objects, &from_value(spec("kv")).unwrap(), 0, &[free]), "a member is on it");
    }

    fn objects() -> Objects {
        Objects {
            set: None,
            pods: BTreeMap::new(),
            claims: BTreeMap::new(),
            service: None,
            peers: None,
            budget: None,
            policy: Ok(None),
            others_policy: None,
            monitor: Err(kube::Error::LinesCodecMaxLineLengthExceeded),
        }
    }

    /// Goal: a machine that is missing for a second is not called gone because it was missing once before.
    #[test]
    fn a_pod_that_runs_ends_the_time_without_its_machine() {
        let claim = from_value(json!({"metadata": {"uid": "c"}, "spec": {"volumeName": "v"}})).unwrap();
        let mut objects = Objects { claims: [(0, claim)].into(), ..objects() };
        let mut memory = Memory::default();
        memory.lasts("machine of claim c", true);
        std::thread::sleep(Duration::from_millis(2));
        forget_used(&objects, &unused_volumes(&objects), &mut memory);
        assert!(memory.lasts("machine of claim c", true) > Duration::ZERO, "its pod does not run");
        let running = json!({"status": {"containerStatuses": [{
            "name": "node", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {}},
        }]}});
        objects.pods.insert(0, from_value(running).unwrap());
        forget_used(&objects, &unused_volumes(&objects), &mut memory);
        assert_eq!(memory.lasts("machine of claim c", true), Duration::ZERO);
    }
}
