//! The machines: which volumes can still be used somewhere, and whether one stands by.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim,
};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use super::{Objects, all};
use crate::memory::Memory;
use crate::observed::Machine;

/// A machine that no Node object has named for so long is gone.
const GONE_AFTER: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Default)]
pub struct Machines {
    /// Where it is not known that the machine exists.
    pub of_claims: BTreeMap<u32, Machine>,
    /// A Ready, schedulable machine without a member.
    pub standby: bool,
    /// Machines that are Ready. Where machines cannot be read, all that run pods count as Ready: nobody
    /// is passed over whose machine may be.
    pub ready: BTreeSet<String>,
    /// The operator lacks the right to read machines or volumes.
    pub forbidden: bool,
}

/// Looks at machines and volumes, if some pod does not run or is silent. Where that is not allowed, as in an
/// operator of one namespace, nothing is known, and nothing is done about machines.
pub async fn look(client: &Client, objects: &Objects, silent: bool, memory: &mut Memory) -> Machines {
    let machines = objects.pods.values().filter_map(|pod| pod.spec.as_ref()?.node_name.clone());
    let unknown = Machines { ready: machines.collect(), ..Machines::default() };
    let unused = unused_volumes(objects);
    forget_used(objects, &unused, memory);
    if unused.is_empty() && !silent {
        return unknown;
    }
    let nodes = match Api::<Node>::all(client.clone()).list(&ListParams::default()).await {
        Ok(nodes) => nodes,
        Err(error) => return Machines { forbidden: is_forbidden(&error), ..unknown },
    };
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let volumes = unused.iter().map(|(ordinal, volume)| {
        let api = &api;
        async move { Ok::<_, kube::Error>((*ordinal, api.get_opt(volume).await?)) }
    });
    let volumes = match all(volumes.collect()).await {
        Ok(volumes) => volumes,
        Err(error) => return Machines { forbidden: is_forbidden(&error), ..unknown },
    };
    let of_claims = volumes.into_iter().map(|(ordinal, volume)| {
        let missing = volume.is_some_and(|volume| !fits_any(&volume, &nodes.items));
        let lasts = memory.lasts(&missing_machine(objects.claims.get(&ordinal)), missing);
        let machine = match missing {
            false => Machine::Exists,
            true if lasts < GONE_AFTER => Machine::Missing,
            true => Machine::Gone,
        };
        (ordinal, machine)
    });
    let of_claims = of_claims.collect();
    let taken: BTreeSet<&str> =
        objects.pods.values().filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref()).collect();
    let standby = nodes.items.iter().any(|node| is_free(node) && !taken.contains(node.name_any().as_str()));
    let ready = nodes.items.iter().filter(|node| is_ready(node)).map(|node| node.name_any()).collect();
    Machines { of_claims, standby, ready, forbidden: false }
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

fn fits_any(volume: &PersistentVolume, nodes: &[Node]) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()?.required.as_ref());
    affinity.is_none_or(|required| {
        required.node_selector_terms.iter().any(|term| nodes.iter().any(|node| fits(term, node)))
    })
}

fn fits(term: &NodeSelectorTerm, node: &Node) -> bool {
    let label = |key: &str| node.labels().get(key).cloned();
    let field = |key: &str| (key == "metadata.name").then(|| node.name_any());
    let labels = term.match_expressions.iter().flatten().all(|wanted| holds(wanted, label(&wanted.key)));
    let fields = term.match_fields.iter().flatten().all(|wanted| holds(wanted, field(&wanted.key)));
    labels && fields
}

fn holds(wanted: &NodeSelectorRequirement, found: Option<String>) -> bool {
    let listed =
        || found.as_ref().is_some_and(|found| wanted.values.iter().flatten().any(|value| value == found));
    match wanted.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        // Comparisons are not used by volumes; a machine is not called gone for one.
        _ => true,
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn is_free(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    let cordoned = spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
    let taints = spec.and_then(|spec| spec.taints.as_ref());
    let tainted = taints.into_iter().flatten().any(|taint| taint.effect != "PreferNoSchedule");
    is_ready(node) && !cordoned && !tainted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    /// Goal: a machine counts as gone only when no machine could use the volume.
    #[test]
    fn volumes_fit_the_machines_they_name() {
        let node = |name: &str| -> Node {
            from_value(json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}))
                .unwrap()
        };
        let volume = |key: &str, operator: &str| -> PersistentVolume {
            let term = json!({"key": key, "operator": operator, "values": ["a"]});
            from_value(json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [term]}
            ]}}}}))
            .unwrap()
        };
        let host = "kubernetes.io/hostname";
        assert!(fits_any(&volume(host, "In"), &[node("b"), node("a")]));
        assert!(!fits_any(&volume(host, "In"), &[node("b")]));
        assert!(fits_any(&volume(host, "NotIn"), &[node("b")]));
        assert!(!fits_any(&volume("zone", "Exists"), &[node("a")]));
        assert!(fits_any(&from_value(json!({"spec": {}})).unwrap(), &[]), "a network volume");
    }

    /// Goal: a machine that is missing for a second is not called gone because it was missing once before.
    #[test]
    fn a_pod_that_runs_ends_the_time_without_its_machine() {
        let claim = from_value(json!({"metadata": {"uid": "c"}, "spec": {"volumeName": "v"}})).unwrap();
        let mut objects = Objects {
            set: None,
            pods: BTreeMap::new(),
            claims: [(0, claim)].into(),
            service: None,
            peers: None,
            budget: None,
            monitor: Err(kube::Error::LinesCodecMaxLineLengthExceeded),
        };
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
