//! The objects that belong to a KvCluster, as Kubernetes has them: read at once, and uncached.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt as _};
use kvorum_crd::{Keep, KvCluster, KvClusterStatus};
use serde::de::DeserializeOwned;
use tokio::try_join;

use super::monitor::PodMonitor;
use super::owner::Owner;
use super::read;
use crate::names;
use crate::observed::{Claim, Taken};
use crate::refusal;

/// A namespace has at most so many pods and claims of one cluster: members, and some that left.
const LIST_MAX: u32 = 100;

/// The keys under which applied objects are remembered.
pub const STATEFUL_SET: &str = "StatefulSet";
pub const SERVICE: &str = "Service";
pub const PEERS_SERVICE: &str = "Service for members";
pub const DISRUPTION_BUDGET: &str = "PodDisruptionBudget";
pub const NETWORK_POLICY: &str = "NetworkPolicy";

/// Kubernetes could not be read.
#[derive(Debug, thiserror::Error)]
#[error("read {what}: {}", refusal::said(.source))]
pub struct ObserveError {
    what: &'static str,
    source: Box<kube::Error>,
}

/// Adds what was read to an error.
pub(super) fn reading(what: &'static str) -> impl FnOnce(kube::Error) -> ObserveError {
    move |source| ObserveError { what, source: Box::new(source) }
}

/// The objects that belong to a KvCluster, as Kubernetes has them.
pub struct Objects {
    pub set: Option<StatefulSet>,
    pub pods: BTreeMap<u32, Pod>,
    pub claims: BTreeMap<u32, PersistentVolumeClaim>,
    pub service: Option<Service>,
    pub peers: Option<Service>,
    pub budget: Option<PodDisruptionBudget>,
    /// An error is no obstacle to anything else.
    pub policy: Result<Option<NetworkPolicy>, kube::Error>,
    /// Somebody else's NetworkPolicy of that name, which may well be for these very pods.
    pub others_policy: Option<Taken>,
    /// An error is no obstacle to anything else.
    pub monitor: Result<PodMonitor, kube::Error>,
}

impl Objects {
    /// What of this is the KvCluster's, and what is somebody else's.
    pub fn of(mut self, owner: &Owner) -> (Objects, Vec<Taken>) {
        let mut taken = Vec::new();
        self.set = owner.own(self.set, STATEFUL_SET, &mut taken);
        self.service = owner.own(self.service, SERVICE, &mut taken);
        self.peers = owner.own(self.peers, PEERS_SERVICE, &mut taken);
        self.budget = owner.own(self.budget, DISRUPTION_BUDGET, &mut taken);
        let mut others = Vec::new();
        self.policy = self.policy.map(|policy| owner.own(policy, NETWORK_POLICY, &mut others));
        self.others_policy = others.pop();
        self.pods.retain(|_, pod| owner.own_made(pod, "Pod", &mut taken));
        self.claims.retain(|_, claim| owner.own_made(claim, "PersistentVolumeClaim", &mut taken));
        (self, taken)
    }

    /// The claims whose disks are members', as far as that is on record; where there are none, those whose disks once
    /// were. Those that are going are an earlier life's.
    pub fn disks(&self) -> Vec<Claim> {
        let claims = self.claims.values().map(read::claim);
        let disks: Vec<Claim> = claims.filter(|claim| claim.disk.is_some() && !claim.deleting).collect();
        let members: Vec<Claim> = disks.iter().filter(|claim| claim.is_members()).cloned().collect();
        if members.is_empty() { disks } else { members }
    }

    pub fn uid(&self, kind: &str) -> Option<String> {
        match kind {
            SERVICE => self.service.as_ref()?.uid(),
            PEERS_SERVICE => self.peers.as_ref()?.uid(),
            NETWORK_POLICY => self.policy.as_ref().ok()?.as_ref()?.uid(),
            _ => self.budget.as_ref()?.uid(),
        }
    }

    pub fn version(&self, kind: &str) -> Option<String> {
        match kind {
            SERVICE => self.service.as_ref()?.resource_version(),
            PEERS_SERVICE => self.peers.as_ref()?.resource_version(),
            NETWORK_POLICY => {
                let policy = self.policy.as_ref().ok()?.as_ref()?;
                policy.metadata.generation.map(|generation| generation.to_string())
            }
            // Its status changes all the time; its generation follows its spec.
            _ => self.budget.as_ref()?.metadata.generation.map(|generation| generation.to_string()),
        }
    }
}

/// Reads all of them at once.
pub async fn read_objects(client: &Client, namespace: &str, name: &str) -> Result<Objects, ObserveError> {
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
    let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), namespace);
    let (set, pods, claims, service, peers, budget, policy, monitor) = try_join!(
        async { get(client, namespace, name).await.map_err(reading("the StatefulSet")) },
        async { pods.list(&list).await.map_err(reading("pods")) },
        async { claims.list(&list).await.map_err(reading("claims")) },
        async { get(client, namespace, name).await.map_err(reading("the Service")) },
        async { get(client, namespace, &peers).await.map_err(reading("the peers' Service")) },
        async { get(client, namespace, name).await.map_err(reading("the disruption budget")) },
        async { Ok(policies.get_opt(name).await) },
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
        policy,
        others_policy: None,
        monitor,
    })
}

fn by_ordinal<K: Resource>(items: Vec<K>, prefix: &str) -> BTreeMap<u32, K> {
    let ordinal = |item: &K| names::ordinal(item.meta().name.as_deref()?, prefix);
    items.into_iter().filter_map(|item| Some((ordinal(&item)?, item))).collect()
}

/// The incarnation that pods are made for: what the status says, or what is written on its cluster's claims, of which
/// a recovery raises both.
pub fn incarnation(status: Option<&KvClusterStatus>, objects: &Objects) -> u64 {
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
pub fn runs(objects: &Objects, image: &str) -> bool {
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
pub fn pinned_image(objects: &Objects) -> Option<String> {
    let of_set = objects.set.as_ref().and_then(|set| set.annotations().get(names::IMAGE).cloned());
    of_set
        .or_else(|| objects.claims.values().find_map(|claim| claim.annotations().get(names::IMAGE).cloned()))
}

/// The namespace is being deleted. Asked only where that matters for our finalizer: where the KvCluster has it or is to
/// have it, and something goes or is yet to come. Not every operator may read that.
pub async fn namespace_ends(client: &Client, cluster: &KvCluster, objects: &Objects) -> bool {
    let finalizer = cluster.finalizers().iter().any(|finalizer| finalizer == names::FINALIZER);
    let goes = |meta: &ObjectMeta| meta.deletion_timestamp.is_some();
    let going = goes(&cluster.metadata)
        || objects.pods.values().any(|pod| goes(&pod.metadata))
        || objects.claims.values().any(|claim| goes(&claim.metadata));
    let wanted = cluster.spec.storage.when_deleted == Keep::Delete;
    if !(finalizer && going || wanted && !finalizer) {
        return false;
    }
    let name = cluster.namespace().unwrap_or_default();
    let namespace = Api::<Namespace>::all(client.clone()).get_metadata_opt(&name).await;
    namespace.is_ok_and(|namespace| namespace.is_some_and(|namespace| goes(&namespace.metadata)))
}

/// Members to which the Service sends clients. Not every operator may read that, and nothing but the condition Ready
/// needs it; a Service of somebody else says nothing of this cluster.
pub async fn endpoints(client: &Client, namespace: &str, name: &str, taken: &[Taken]) -> Option<usize> {
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
