//! All reads: Kubernetes' objects, uncached, and every node's `admin.v1.Status`.

mod growth;
mod machines;
mod monitor;
mod nodes;
mod owner;
mod read;
pub mod schedule;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::try_join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt as _};
use kvorum_crd::{KvCluster, KvClusterSpec, KvClusterStatus, Node};
use rand::Rng as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Debug;
use tokio::try_join;

use crate::build::{Inputs, Template, bytes, hash};
use crate::levels;
use crate::memory::Memory;
use crate::names;
use crate::observed::{Claim, Observed, Taken, Wanted};
use crate::options::Options;
use crate::refusal;
use crate::step::Risky;

pub(crate) use monitor::POD_MONITOR;
pub use monitor::PodMonitor;
use nodes::Asked;
use owner::Owner;
pub(crate) use read::generation;
pub use watch::Nodes;

/// A namespace has at most so many pods and claims of one cluster: members, and some that left.
const LIST_MAX: u32 = 100;

/// A pod that does not run so long after it was made finds no machine, volume or image.
const PENDING_AFTER: Duration = Duration::from_secs(120);

/// A pod that says why it does not run is in trouble after so long, and until it is ready: a container may be told to
/// start once more, and a scheduler may think again.
const TROUBLED_AFTER: Duration = Duration::from_secs(10);

/// A pod that the StatefulSet has not made for so long cannot be made: that takes less than a second.
const UNMADE_AFTER: Duration = Duration::from_secs(20);

/// A pod that is still there so long after its deletion began is stuck: its grace period is 30 s.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// What was seen, and what it was seen of.
#[derive(Debug)]
pub struct Seen {
    /// The KvCluster as it was read; its resource version fences what is written back.
    pub cluster: KvCluster,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The plan's input.
    pub observed: Observed,
    /// The pods' addresses, by ordinal.
    pub addresses: BTreeMap<u32, String>,
    /// The image that is on record for a spec that names none.
    pub pinned_image: String,
    /// The pod template that is wanted.
    pub template: Template,
    /// A newer template waits until somebody wants pods to be replaced.
    pub update_pending: bool,
    /// The StatefulSet's claim size, as text.
    pub size: String,
    /// Services and the like as they should be; without those whose name somebody else has.
    pub objects: Vec<Applied>,
    /// The PodMonitor, where the spec asks for one.
    pub pod_monitor: Option<Applied>,
    /// How long no quorum has confirmed a leader.
    pub leaderless: Duration,
    /// Whether it takes over this operator's own image and template now.
    pub follow: Follow,
    /// The cluster at which those that follow this operator have stopped, if they have.
    pub stopped_at: Option<String>,
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

/// Kubernetes could not be read.
#[derive(Debug, thiserror::Error)]
#[error("read {what}: {}", refusal::said(.source))]
pub struct ObserveError {
    what: &'static str,
    source: Box<kube::Error>,
}

/// Adds what was read to an error.
fn reading(what: &'static str) -> impl FnOnce(kube::Error) -> ObserveError {
    move |source| ObserveError { what, source: Box::new(source) }
}

/// The keys under which applied objects are remembered.
pub(crate) const STATEFUL_SET: &str = "StatefulSet";
const SERVICE: &str = "Service";
const PEERS_SERVICE: &str = "Service for members";
pub(crate) const DISRUPTION_BUDGET: &str = "PodDisruptionBudget";

/// Looks at everything that belongs to a KvCluster; `None` when it is gone.
pub async fn observe(
    client: &Client,
    options: &Options,
    machines: &Nodes,
    namespace: &str,
    name: &str,
    follow: Follow,
    memory: &mut Memory,
) -> Result<Option<Seen>, ObserveError> {
    let clusters: Api<KvCluster> = Api::namespaced(client.clone(), namespace);
    let Some(cluster) = clusters.get_opt(name).await.map_err(reading("the KvCluster"))? else {
        return Ok(None);
    };
    let uid = cluster.uid().unwrap_or_default();
    let owner = Owner { name, uid: &uid };
    let (objects, taken) = read_objects(client, namespace, name).await?.of(&owner);
    let pinned = pinned_image(&objects).filter(|_| follow == Follow::No);
    let ran = cluster.spec.image.as_deref().filter(|image| runs(&objects, image)).map(str::to_owned);
    let pinned = ran.or(pinned).unwrap_or_else(|| options.image.clone());
    let image = cluster.spec.image.as_ref().unwrap_or(&pinned);
    let incarnation = incarnation(cluster.status.as_ref(), &objects);
    let inputs = Inputs {
        cluster: &cluster,
        name,
        namespace,
        uid: &uid,
        image,
        pinned: &pinned,
        pull_policy: options.pull_policy.as_deref(),
        incarnation,
    };
    let own_image = cluster.spec.image.as_ref().unwrap_or(&options.image);
    let (template, outdated) = wanted_template(inputs.template(), &objects, follow);
    let update_pending = outdated || image != own_image;
    let applied = applied(&inputs, &objects, &taken);
    let objects_current = applied.iter().all(|Applied { kind, object, .. }| {
        let version = objects.version(kind);
        version.is_some_and(|version| memory.is_applied(kind, &hash(object), &version))
    });
    let pod_monitor = cluster.spec.metrics.pod_monitor.then(|| inputs.pod_monitor());
    let monitor = monitor::judge(pod_monitor.as_ref(), &objects.monitor, &owner, memory);
    let pod_monitor = pod_monitor.map(|object| {
        let uid = objects.monitor.as_ref().ok().and_then(|monitor| monitor.uid());
        Applied { kind: POD_MONITOR, object, uid }
    });
    let size = objects.set.as_ref().and_then(read::claim_size);
    let size = size.unwrap_or_else(|| cluster.spec.storage.size.0.clone());
    let stateful_set = objects.set.as_ref().map(|set| {
        let hash = hash(&inputs.stateful_set(0, &template, &size));
        let current = memory.is_applied(STATEFUL_SET, &hash, &read::generation(set));
        read::stateful_set(set, current)
    });

    let Asked { nodes, addresses, reached } = nodes::ask(&objects.pods, namespace, name, memory).await;
    let made = serde_json::from_value(template.template["spec"].clone()).unwrap_or_default();
    let silent = nodes.len() < objects.pods.len();
    let machines = machines::look(client, machines, &objects, &made, silent, memory).await;
    let endpoints = endpoints(client, namespace, name, &taken).await;
    let wanted = wanted(&cluster.spec);
    let growth = growth::allowed(client, objects.claims.values(), wanted.storage_bytes).await;
    let level = nodes.values().map(|node| node.feature_level).max().unwrap_or_default();
    let status = cluster.status.clone().unwrap_or_default();
    let mut observed = Observed {
        name: name.to_owned(),
        wanted,
        growth,
        image_refused: levels::too_old(image, level),
        cluster_id: status.cluster_id.as_deref().and_then(names::unhex),
        step: status.step.as_ref().and_then(Risky::read),
        deleting: cluster.metadata.deletion_timestamp.is_some(),
        finalizer: cluster.finalizers().iter().any(|finalizer| finalizer == names::FINALIZER),
        incarnation,
        recovery: status.recovery,
        recover_from: cluster.annotations().get(names::RECOVER_FROM).cloned(),
        pinned_image: pinned.clone(),
        fresh_id: rand::rng().next_u64().max(1),
        objects_current,
        taken,
        monitor,
        update_pending,
        stateful_set,
        pods: objects.pods.iter().map(|(ordinal, pod)| (*ordinal, read::pod(pod))).collect(),
        claims: objects.claims.iter().map(|(ordinal, claim)| (*ordinal, read::claim(claim))).collect(),
        unmade: BTreeSet::new(),
        endpoints,
        nodes,
        reached,
        cordoned: machines.cordoned.clone(),
        machines_forbidden: machines.forbidden,
    };
    add_machines(&mut observed, machines, memory);
    add_growth(&mut observed, &objects, memory);
    observed.unmade = unmade(&observed, memory);
    let confirmed = crate::plan::View::of(&observed).is_some();
    let leaderless = memory.lasts("leaderless", observed.cluster_id.is_some() && !confirmed);
    Ok(Some(Seen {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        observed,
        addresses,
        template,
        update_pending,
        size,
        objects: applied,
        pod_monitor,
        leaderless,
        follow,
        stopped_at: None,
        pinned_image: pinned.clone(),
        cluster,
    }))
}

/// Services and the like as they should be, without those whose name somebody else has.
fn applied(inputs: &Inputs<'_>, objects: &Objects, taken: &[Taken]) -> Vec<Applied> {
    let wanted = [
        (SERVICE, inputs.client_service()),
        (PEERS_SERVICE, inputs.peers_service()),
        (DISRUPTION_BUDGET, inputs.disruption_budget()),
    ];
    let free = wanted.into_iter().filter(|(kind, _)| taken.iter().all(|taken| taken.kind != *kind));
    free.map(|(kind, object)| Applied { kind, object, uid: objects.uid(kind) }).collect()
}

/// Ordinals whose pod should be there, and has not been for a while.
fn unmade(observed: &Observed, memory: &mut Memory) -> BTreeSet<u32> {
    let set = observed.stateful_set.as_ref().filter(|set| !set.deleting && !observed.deleting);
    let wanted = 0..set.map_or(0, |set| set.replicas);
    let mut lasts = |ordinal: &u32| {
        let absent = !observed.pods.contains_key(ordinal);
        memory.lasts(&format!("absence of pod {ordinal}"), absent) > UNMADE_AFTER
    };
    wanted.filter(|ordinal| lasts(ordinal)).collect()
}

/// Adds which file systems wait for another pod, where they have had the time to do without.
fn add_growth(observed: &mut Observed, objects: &Objects, memory: &mut Memory) {
    for (ordinal, claim) in &mut observed.claims {
        let waits = objects
            .claims
            .get(ordinal)
            .is_some_and(|claim| growth::waits_for_next_pod(claim, objects.pods.get(ordinal)));
        let what = format!("growth of claim {}", claim.version.uid);
        claim.grows_on_restart = memory.lasts(&what, waits) > growth::GROWS_WITHIN;
    }
}

/// Adds what is known of machines, and how long what waits has waited.
fn add_machines(observed: &mut Observed, machines: machines::Machines, memory: &mut Memory) {
    for pod in observed.pods.values_mut() {
        let lasts = memory.lasts(&format!("deletion of pod {}", pod.version.uid), pod.deleting);
        pod.stuck = lasts > STUCK_AFTER;
        let waits = !pod.running && !pod.deleting;
        pod.pending = memory.lasts(&format!("start of pod {}", pod.version.uid), waits) > PENDING_AFTER;
        let what = format!("trouble of pod {}", pod.version.uid);
        let says = (pod.trouble.is_some() && !pod.starts) || memory.holds(&what);
        let troubled = memory.lasts(&what, says && !pod.ready && !pod.deleting) > TROUBLED_AFTER;
        pod.troubled = troubled || pod.pending;
        pod.machine_ready = pod.machine.as_ref().is_some_and(|machine| machines.ready.contains(machine));
    }
    for (ordinal, claim) in &mut observed.claims {
        claim.standby = machines.standby.contains(ordinal);
        let what = format!("deletion of claim {}", claim.version.uid);
        claim.deleting_for = memory.lasts(&what, claim.deleting);
    }
    for (ordinal, place) in machines.of_claims {
        if let Some(claim) = observed.claims.get_mut(&ordinal) {
            (claim.machine, claim.home) = (place.machine, place.home);
        }
    }
}

fn wanted(spec: &KvClusterSpec) -> Wanted {
    Wanted {
        members: spec.members.max(1) as u32,
        paused: spec.paused,
        storage_bytes: bytes(&spec.storage.size.0).unwrap_or_default(),
        silent_ms_max: silent_ms_max(&spec.node),
        when_scaled: spec.storage.when_scaled,
        when_deleted: spec.storage.when_deleted,
    }
}

/// A second, or three of the leader's heartbeats where they are slower.
fn silent_ms_max(node: &Node) -> u64 {
    let election = node.election_timeout_ms.unwrap_or_default();
    let heartbeat = node.heartbeat_interval_ms.unwrap_or(election / 5);
    1_000.max(3 * heartbeat.max(0) as u64)
}

/// The objects that belong to a KvCluster, as Kubernetes has them.
struct Objects {
    set: Option<StatefulSet>,
    pods: BTreeMap<u32, Pod>,
    claims: BTreeMap<u32, PersistentVolumeClaim>,
    service: Option<Service>,
    peers: Option<Service>,
    budget: Option<PodDisruptionBudget>,
    /// An error is no obstacle to anything else.
    monitor: Result<PodMonitor, kube::Error>,
}

impl Objects {
    /// What of this is the KvCluster's, and what is somebody else's.
    fn of(mut self, owner: &Owner) -> (Objects, Vec<Taken>) {
        let mut taken = Vec::new();
        self.set = owner.own(self.set, STATEFUL_SET, &mut taken);
        self.service = owner.own(self.service, SERVICE, &mut taken);
        self.peers = owner.own(self.peers, PEERS_SERVICE, &mut taken);
        self.budget = owner.own(self.budget, DISRUPTION_BUDGET, &mut taken);
        self.pods.retain(|_, pod| owner.own_made(pod, "Pod", &mut taken));
        self.claims.retain(|_, claim| owner.own_made(claim, "PersistentVolumeClaim", &mut taken));
        (self, taken)
    }

    fn uid(&self, kind: &str) -> Option<String> {
        match kind {
            SERVICE => self.service.as_ref()?.uid(),
            PEERS_SERVICE => self.peers.as_ref()?.uid(),
            _ => self.budget.as_ref()?.uid(),
        }
    }

    fn version(&self, kind: &str) -> Option<String> {
        match kind {
            SERVICE => self.service.as_ref()?.resource_version(),
            PEERS_SERVICE => self.peers.as_ref()?.resource_version(),
            // Its status changes all the time; its generation follows its spec.
            _ => self.budget.as_ref()?.metadata.generation.map(|generation| generation.to_string()),
        }
    }
}

async fn read_objects(client: &Client, namespace: &str, name: &str) -> Result<Objects, ObserveError> {
    async fn get<K>(client: &Client, namespace: &str, name: &str) -> Result<Option<K>, kube::Error>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        Api::<K>::namespaced(client.clone(), namespace).get_opt(name).await
    }
    let list = ListParams::default().labels(&names::selector_text(name)).limit(LIST_MAX);
    let peers = names::peers_service(name);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let monitors: Api<PodMonitor> = Api::namespaced(client.clone(), namespace);
    let (set, pods, claims, service, peers, budget, monitor) = try_join!(
        async { get(client, namespace, name).await.map_err(reading("the StatefulSet")) },
        async { pods.list(&list).await.map_err(reading("pods")) },
        async { claims.list(&list).await.map_err(reading("claims")) },
        async { get(client, namespace, name).await.map_err(reading("the Service")) },
        async { get(client, namespace, &peers).await.map_err(reading("the peers' Service")) },
        async { get(client, namespace, name).await.map_err(reading("the disruption budget")) },
        async { Ok(monitors.get(name).await) },
    )?;
    let claim_prefix = format!("data-{name}");
    Ok(Objects {
        set,
        pods: by_ordinal(pods.items, name),
        claims: by_ordinal(claims.items, &claim_prefix),
        service,
        peers,
        budget,
        monitor,
    })
}

/// Members to which the Service sends clients. Not every operator may read that, and nothing but the condition Ready
/// needs it; a Service of somebody else says nothing of this cluster.
async fn endpoints(client: &Client, namespace: &str, name: &str, taken: &[Taken]) -> Option<usize> {
    if taken.iter().any(|taken| taken.kind == SERVICE) {
        return None;
    }
    let of_service =
        ListParams::default().labels(&format!("kubernetes.io/service-name={name}")).limit(LIST_MAX);
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), namespace).list(&of_service).await.ok()?;
    let endpoints = slices.items.iter().flat_map(|slice| &slice.endpoints);
    // Not known counts as ready there.
    let ready = |endpoint: &&Endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
    Some(endpoints.filter(ready).count())
}

fn by_ordinal<K: Resource>(items: Vec<K>, prefix: &str) -> BTreeMap<u32, K> {
    let ordinal = |item: &K| names::ordinal(item.meta().name.as_deref()?, prefix);
    items.into_iter().filter_map(|item| Some((ordinal(&item)?, item))).collect()
}

/// The incarnation that pods are made for: what the status says, or what is written on its cluster's claims, of which
/// a recovery raises both.
fn incarnation(status: Option<&KvClusterStatus>, objects: &Objects) -> u64 {
    let cluster_id = status.and_then(|status| names::unhex(status.cluster_id.as_deref()?));
    let ours = |claim: &Claim| {
        let disk = claim.disk.filter(|disk| cluster_id.is_none_or(|id| id == disk.cluster_id));
        disk.is_some() && !claim.deleting
    };
    let claims = objects.claims.values().map(read::claim).filter(ours).map(|claim| claim.incarnation);
    let said = status.and_then(|status| status.incarnation).unwrap_or_default().max(0) as u64;
    claims.chain([said]).max().unwrap_or_default().max(1)
}

/// All members run this image, and are ready: from then on it is what a spec without an image means, so that whoever
/// takes `spec.image` out goes back to nothing older.
fn runs(objects: &Objects, image: &str) -> bool {
    let Some(set) = &objects.set else { return false };
    let Some(template) = read::template(set) else { return false };
    let containers = template.template["spec"]["containers"].as_array();
    let node = containers.into_iter().flatten().find(|container| container["name"] == names::CONTAINER);
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default().max(0) as u32;
    let member = |ordinal: u32| {
        let pod = objects.pods.get(&ordinal).map(read::pod);
        pod.is_some_and(|pod| pod.ready && !pod.deleting && pod.template == template.hash)
    };
    node.is_some_and(|node| node["image"] == image) && replicas > 0 && (0..replicas).all(member)
}

/// The image that the cluster was made with.
fn pinned_image(objects: &Objects) -> Option<String> {
    let of_set = objects.set.as_ref().and_then(|set| set.annotations().get(names::IMAGE).cloned());
    of_set
        .or_else(|| objects.claims.values().find_map(|claim| claim.annotations().get(names::IMAGE).cloned()))
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

/// Waits for all and gives up with the first error.
async fn all<T, E>(futures: Vec<impl Future<Output = Result<T, E>>>) -> Result<Vec<T>, E> {
    try_join_all(futures).await
}
