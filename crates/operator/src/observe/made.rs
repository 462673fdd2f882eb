//! A cluster's objects as they should be, beside those that are there.

use kube::ResourceExt as _;
use serde_json::Value;

use super::monitor::{self, POD_MONITOR};
use super::objects::{DISRUPTION_BUDGET, NETWORK_POLICY, Objects, PEERS_SERVICE, SERVICE, STATEFUL_SET};
use super::owner::Owner;
use super::read;
use crate::build::{Inputs, Template, hash};
use crate::fence::Version;
use crate::memory::Memory;
use crate::names;
use crate::observed::{Monitor, Refused, StatefulSet, Taken};

/// What is wanted, and how far it is there.
pub struct Made {
    /// The pod template that is wanted.
    pub template: Template,
    /// This operator would make another one, though nothing in the spec has changed.
    pub outdated: bool,
    /// Services and the like as they should be; without those whose name somebody else has.
    pub objects: Vec<Applied>,
    /// They are as they should be, or refused.
    pub objects_current: bool,
    /// What Kubernetes refuses of it, and of the StatefulSet.
    pub refused: Vec<Refused>,
    /// The PodMonitor, where the spec asks for one.
    pub pod_monitor: Option<Applied>,
    /// What is to be done about it.
    pub monitor: Monitor,
    /// The NetworkPolicy that is there and not wanted.
    pub unwanted_policy: Option<Version>,
    /// The StatefulSet's claim size, as text.
    pub size: String,
    /// The StatefulSet that is there.
    pub stateful_set: Option<StatefulSet>,
}

/// An object beside the StatefulSet.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The key under which it is remembered.
    pub kind: &'static str,
    /// As it should be.
    pub object: Value,
    /// The uid of the one that is there, which is this cluster's.
    pub uid: Option<String>,
}

/// Whether a cluster takes over this operator's own image and template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Now.
    Yes,
    /// Not yet, or never: nobody is restarted by a new operator alone.
    No,
}

/// Makes them.
pub fn made(
    inputs: &Inputs<'_>,
    objects: &Objects,
    taken: &[Taken],
    follow: Follow,
    operator_namespace: Option<&str>,
    memory: &Memory,
) -> Made {
    let spec = &inputs.cluster.spec;
    let (template, outdated) = wanted_template(inputs.template(), objects, follow);
    let applied = applied(inputs, objects, taken, operator_namespace);
    let mut refused = Vec::new();
    // One that is refused is not asked for until that is due.
    let mut is_refused = |kind: &'static str, hash: &str| {
        let Some((said, due)) = memory.refusal(kind, hash) else { return false };
        refused.push(Refused { kind, said: said.to_owned(), due });
        !due
    };
    let mut objects_current = true;
    for Applied { kind, object, .. } in &applied {
        let (version, hash) = (objects.version(kind), hash(object));
        let current = version.is_some_and(|version| memory.is_applied(kind, &hash, &version));
        objects_current &= current || is_refused(kind, &hash);
    }
    let pod_monitor = spec.metrics.pod_monitor.then(|| inputs.pod_monitor());
    let owner = Owner { name: inputs.name, uid: inputs.uid };
    let monitor = monitor::judge(pod_monitor.as_ref(), &objects.monitor, &owner, memory);
    let pod_monitor = pod_monitor.map(|object| {
        let uid = objects.monitor.as_ref().ok().and_then(|monitor| monitor.uid());
        Applied { kind: POD_MONITOR, object, uid }
    });
    let size = objects.set.as_ref().and_then(read::claim_size);
    let size = size.unwrap_or_else(|| spec.storage.size.0.clone());
    let stateful_set = objects.set.as_ref().map(|set| {
        let hash = hash(&inputs.stateful_set(0, &template, &size));
        let current = memory.is_applied(STATEFUL_SET, &hash, &read::generation(set));
        _ = !current && is_refused(STATEFUL_SET, &hash);
        read::stateful_set(set, current)
    });
    Made {
        template,
        outdated,
        objects: applied,
        refused,
        objects_current,
        pod_monitor,
        monitor,
        unwanted_policy: unwanted_policy(inputs, objects),
        size,
        stateful_set,
    }
}

/// Services and the like as they should be, without those whose name somebody else has.
fn applied(
    inputs: &Inputs<'_>,
    objects: &Objects,
    taken: &[Taken],
    operator_namespace: Option<&str>,
) -> Vec<Applied> {
    let mut wanted = vec![
        (SERVICE, inputs.client_service()),
        (PEERS_SERVICE, inputs.peers_service()),
        (DISRUPTION_BUDGET, inputs.disruption_budget()),
    ];
    if let (Some(namespace), true) = (operator_namespace, inputs.policy) {
        wanted.push((NETWORK_POLICY, inputs.network_policy(namespace)));
    }
    let free = wanted.into_iter().filter(|(kind, _)| taken.iter().all(|taken| taken.kind != *kind));
    free.map(|(kind, object)| Applied { kind, object, uid: objects.uid(kind) }).collect()
}

/// The NetworkPolicy that is there and not wanted.
fn unwanted_policy(inputs: &Inputs<'_>, objects: &Objects) -> Option<Version> {
    let policy = objects.policy.as_ref().ok()?.as_ref()?;
    (!inputs.policy).then(|| read::version(policy))
}

/// The template that is wanted; and whether this operator would make another one, though nothing in
/// the spec has changed: that alone replaces no pod.
fn wanted_template(made: Template, objects: &Objects, follow: Follow) -> (Template, bool) {
    let Some(set) = &objects.set else { return (made, false) };
    let same_inputs = set.annotations().get(names::INPUTS) == Some(&made.inputs);
    match read::template(set) {
        Some(there) if same_inputs && there.hash != made.hash && follow == Follow::No => {
            (Template { inputs: made.inputs, ..there }, true)
        }
        _ => (made, false),
    }
}
