//! Kubernetes' objects as the plan's plain data. The wire types stop here.

use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::core::v1 as core;
use kube::{Resource, ResourceExt as _};

use super::tls;
use crate::access::mode;
use crate::build::{Template, bytes};
use crate::fence::{Disk, Retired, Version};
use crate::memory::host_port;
use crate::names::{self, CLIENT_PORT};
use crate::observed::{Claim, Machine, Pod, StatefulSet};

/// More of what a process said last is not put into a condition.
const SAID_MAX: usize = 400;

pub fn stateful_set(set: &apps::StatefulSet, current: bool) -> StatefulSet {
    let spec = set.spec.as_ref();
    StatefulSet {
        version: version(set),
        deleting: set.metadata.deletion_timestamp.is_some(),
        replicas: spec.and_then(|spec| spec.replicas).unwrap_or(1).max(0) as u32,
        current,
        template: template(set).map(|template| template.hash).unwrap_or_default(),
        storage_bytes: claim_size(set).and_then(|size| bytes(&size)).unwrap_or_default(),
    }
}

/// The size of the claims that a StatefulSet makes.
pub fn claim_size(set: &apps::StatefulSet) -> Option<String> {
    let claim = set.spec.as_ref()?.volume_claim_templates.as_ref()?.first()?.spec.as_ref()?;
    Some(claim.resources.as_ref()?.requests.as_ref()?.get("storage")?.0.clone())
}

/// Its generation, which follows its spec and nothing else.
pub fn generation(object: &impl Resource) -> String {
    object.meta().generation.unwrap_or_default().to_string()
}

/// The pod template that a StatefulSet has.
pub fn template(set: &apps::StatefulSet) -> Option<Template> {
    let template = &set.spec.as_ref()?.template;
    let hash = template.metadata.as_ref()?.annotations.as_ref()?.get(names::TEMPLATE)?.clone();
    let inputs = set.annotations().get(names::INPUTS).cloned().unwrap_or_default();
    let template = serde_json::to_value(template).expect("a template is plain data");
    Some(Template { template, hash, inputs })
}

/// Where clients outside of Kubernetes connect, once a balancer has said so.
pub fn external(service: &core::Service) -> Option<String> {
    let balanced = service.spec.as_ref()?.type_.as_deref() == Some("LoadBalancer");
    let status = service.status.as_ref().filter(|_| balanced)?;
    let ingress = status.load_balancer.as_ref()?.ingress.as_ref()?.first()?;
    let host = ingress.ip.clone().or_else(|| ingress.hostname.clone())?;
    Some(host_port(&host, CLIENT_PORT))
}

pub fn pod(pod: &core::Pod) -> Pod {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten();
    // Others may have been put beside it, a proxy for example, and Kubernetes lists them by name.
    let node = containers.clone().find(|container| container.name == names::CONTAINER);
    let running = node.and_then(|container| container.state.as_ref()?.running.as_ref()).is_some();
    let init = status.and_then(|status| status.init_container_statuses.as_ref()).into_iter().flatten();
    let others = init.filter(|container| !has_succeeded(container)).chain(containers);
    let others = others.filter(|container| container.name != names::CONTAINER);
    let condition = |kind: &str| {
        let conditions = status.and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().find(|condition| condition.type_ == kind)
    };
    let unscheduled = || {
        let scheduled = condition("PodScheduled").filter(|scheduled| scheduled.status == "False")?;
        Some(format!("it is not scheduled: {}", scheduled.message.as_deref().unwrap_or_default()))
    };
    // A node that waits for what comes before it says only that it waits.
    let of_node = node.filter(|container| !waits_for_others(container)).and_then(trouble);
    let of_others = || {
        others.into_iter().filter(|container| !waits_for_others(container)).find_map(|container| {
            Some(format!("its container {} does not run: {}", container.name, trouble(container)?))
        })
    };
    let waits = || node.filter(|container| waits_for_others(container)).and_then(trouble);
    let trouble = of_node.or_else(of_others).or_else(waits);
    let starts =
        trouble.is_some() && containers_of(pod).all(|container| is_fine(container) || starts(container));
    Pod {
        version: version(pod),
        deleting: pod.metadata.deletion_timestamp.is_some(),
        running,
        ready: condition("Ready").is_some_and(|ready| ready.status == "True"),
        template: pod.annotations().get(names::TEMPLATE).cloned().unwrap_or_default(),
        machine: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        // How long anything lasts is for whoever looks again and again.
        troubled: false,
        stuck: false,
        pending: false,
        // Neither does the pod know its machine's state.
        machine_ready: false,
        starts,
        trouble: trouble.or_else(unscheduled),
    }
}

/// All of them, and those that come before.
fn containers_of(pod: &core::Pod) -> impl Iterator<Item = &core::ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    init.into_iter().chain(status.and_then(|status| status.container_statuses.as_ref())).flatten()
}

/// It runs, or has done what it was to do.
fn is_fine(container: &core::ContainerStatus) -> bool {
    has_succeeded(container) || container.state.as_ref().is_some_and(|state| state.running.is_some())
}

/// It waits for what every container waits for at first: its volume, its image, and those before it.
fn starts(container: &core::ContainerStatus) -> bool {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
    let ended = container.last_state.as_ref().is_some_and(|last| last.terminated.is_some());
    matches!(reason, Some("ContainerCreating" | "PodInitializing")) && !ended
}

/// It is one that has to end before the others begin, and has.
fn has_succeeded(container: &core::ContainerStatus) -> bool {
    let ended = container.state.as_ref().and_then(|state| state.terminated.as_ref());
    ended.is_some_and(|ended| ended.exit_code == 0)
}

/// Containers that come first are not done.
fn waits_for_others(container: &core::ContainerStatus) -> bool {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some("PodInitializing"))
}

/// The last of what a process said, as much of it as fits a condition.
fn last_line(message: Option<&str>) -> Option<String> {
    let line = message?.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().take(SAID_MAX).collect())
}

/// Why a container does not run.
fn trouble(container: &core::ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    let said = |reason: &Option<String>, message: &Option<String>| {
        let parts: Vec<&str> = [reason.as_deref(), message.as_deref()].into_iter().flatten().collect();
        parts.join(": ")
    };
    let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    match (&state.waiting, &state.terminated, last) {
        (Some(waiting), _, Some(last)) => {
            let ended = said(&last.reason, &last_line(last.message.as_deref()));
            Some(format!(
                "{} (it ended last with {ended}, code {})",
                said(&waiting.reason, &waiting.message),
                last.exit_code
            ))
        }
        (Some(waiting), _, None) => Some(said(&waiting.reason, &waiting.message)),
        (None, Some(ended), _) => {
            let message = last_line(ended.message.as_deref());
            Some(format!("it ended with {}, code {}", said(&ended.reason, &message), ended.exit_code))
        }
        _ => None,
    }
}

pub fn claim(claim: &core::PersistentVolumeClaim) -> Claim {
    let annotation = |key: &str| claim.annotations().get(key).map(String::as_str);
    let id = |key: &str| annotation(key).and_then(names::unhex);
    let storage = |sizes: Option<&std::collections::BTreeMap<String, _>>| {
        let size: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity> = sizes?.get("storage");
        bytes(&size?.0)
    };
    let requested = claim.spec.as_ref().and_then(|spec| storage(spec.resources.as_ref()?.requests.as_ref()));
    let capacity = claim.status.as_ref().and_then(|status| storage(status.capacity.as_ref()));
    let founder = annotation(names::FOUNDER) == Some("true");
    // A person means this very claim, and not the next one of its name.
    let names_uid = |key: &str| annotation(key).is_some_and(|uid| Some(uid) == claim.uid().as_deref());
    let disk = id(names::CLUSTER_ID).zip(id(names::NODE_ID));
    Claim {
        version: version(claim),
        deleting: claim.metadata.deletion_timestamp.is_some(),
        // How long anything lasts is for whoever looks again and again.
        deleting_for: std::time::Duration::ZERO,
        disk: disk.map(|(cluster_id, node_id)| Disk { cluster_id, node_id, founder }),
        incarnation: annotation(names::INCARNATION).and_then(|text| text.parse().ok()).unwrap_or_default(),
        image: annotation(names::IMAGE).unwrap_or_default().to_owned(),
        tls: annotation(names::TLS).map(tls::mode).unwrap_or_default(),
        auth: annotation(names::AUTH).map(mode::read).unwrap_or_default(),
        policy: annotation(names::POLICY) == Some(names::POLICY_ENABLED),
        retired: retired(annotation(names::RETIRED)),
        requested_bytes: requested.unwrap_or_default(),
        capacity_bytes: capacity.unwrap_or_default(),
        grows_on_restart: false,
        declared_lost: names_uid(names::DISK_LOST),
        released: names_uid(names::RELEASE),
        volume: claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default(),
        // Where the volume is, the claim does not know.
        home: None,
        machine: Machine::Exists,
        standby: false,
    }
}

fn retired(annotation: Option<&str>) -> Retired {
    let behind = annotation.and_then(|text| text.strip_prefix(names::RETIRED_BEHIND)?.parse().ok());
    match (annotation, behind) {
        (_, Some(incarnation)) => Retired::Behind { incarnation },
        (Some("true"), None) => Retired::Left,
        _ => Retired::No,
    }
}

pub fn version(object: &impl Resource) -> Version {
    let meta = object.meta();
    Version {
        uid: meta.uid.clone().unwrap_or_default(),
        resource_version: meta.resource_version.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    /// Goal: where clients outside connect is said once it is known, and not what a balancer of before had. Method: a
    /// table of Services.
    #[test]
    fn a_balancers_address_is_read() {
        let at = |kind: &str, ingress: Value| {
            let status = json!({"loadBalancer": {"ingress": ingress}});
            external(&from_value(json!({"spec": {"type": kind}, "status": status})).unwrap())
        };
        assert_eq!(at("LoadBalancer", json!([])), None);
        assert_eq!(at("LoadBalancer", json!([{"ip": "192.0.2.7"}])), Some("192.0.2.7:2379".into()));
        assert_eq!(at("LoadBalancer", json!([{"ip": "2001:db8::7"}])), Some("[2001:db8::7]:2379".into()));
        assert_eq!(at("LoadBalancer", json!([{"hostname": "kv.test"}])), Some("kv.test:2379".into()));
        assert_eq!(at("ClusterIP", json!([{"ip": "192.0.2.7"}])), None);
    }

    /// Goal: a crashing proxy makes nobody believe that the node does not run, and a node that does not run is not
    /// taken for one that does, wherever Kubernetes lists them. Method: a table of containers beside the node's.
    #[test]
    fn the_nodes_container_is_known_by_its_name() {
        let running = || json!({"running": {}});
        let crashed = || json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let done = || json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
        let waits = || json!({"waiting": {"reason": "PodInitializing"}});
        let container = |(name, state): &(&str, Value)| json!({"name": name, "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state});
        let seen = |init: &[(&str, Value)], containers: &[(&str, Value)]| {
            let of = |list: &[(&str, Value)]| list.iter().map(container).collect::<Vec<_>>();
            let status = json!({"initContainerStatuses": of(init), "containerStatuses": of(containers)});
            let pod = pod(&from_value(json!({"status": status})).unwrap());
            (pod.running, pod.trouble)
        };
        let proxy = "istio-proxy";
        let said =
            |container: &str| Some(format!("its container {container} does not run: CrashLoopBackOff"));
        assert_eq!(seen(&[], &[("node", running())]), (true, None));
        assert_eq!(seen(&[], &[("istio-proxy", crashed()), ("node", running())]), (true, said(proxy)));
        assert_eq!(seen(&[], &[("node", running()), ("zipkin", running())]), (true, None));
        let crash = Some("CrashLoopBackOff".into());
        assert_eq!(seen(&[], &[("istio-proxy", running()), ("node", crashed())]), (false, crash));
        assert_eq!(seen(&[], &[("istio-proxy", running())]), (false, None), "there is no node yet");
        assert_eq!(seen(&[("init", done())], &[("node", running())]), (true, None));
        assert_eq!(seen(&[("init", crashed())], &[("node", waits())]), (false, said("init")));
        assert_eq!(
            seen(&[("init", running())], &[("node", waits())]),
            (false, Some("PodInitializing".into()))
        );
        let begins = |state: Value| {
            let status = json!({"containerStatuses": [container(&("node", state))]});
            pod(&from_value(json!({"status": status})).unwrap()).starts
        };
        assert!(begins(json!({"waiting": {"reason": "ContainerCreating"}})) && begins(waits()));
        assert!(!begins(crashed()) && !begins(running()));
        assert_eq!(seen(&[("sidecar", running())], &[("node", running())]), (true, None), "a native sidecar");
    }
}
