//! All reads: Kubernetes' objects, uncached, and every node's `admin.v1.Status`.

mod access;
mod growth;
mod lasting;
#[cfg(test)]
mod life;
mod machines;
mod made;
mod monitor;
mod nodes;
mod objects;
mod outside;
mod owner;
mod policy;
mod read;
pub mod schedule;
mod secrets;
mod tls;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client, ResourceExt as _};
use kvorum_crd::{KvCluster, KvClusterSpec, Node, TlsMode};
use rand::Rng as _;

use crate::access::Declared;
use crate::build::{Inputs, Template, bytes};
use crate::levels;
use crate::memory::Memory;
use crate::names;
use crate::observed::{Growth, Observed, Taken, Wanted};
use crate::options::Options;
use crate::plan::View;
use crate::step::Risky;

use made::Made;
pub use made::{Applied, Follow};
pub(crate) use monitor::POD_MONITOR;
pub use monitor::PodMonitor;
use nodes::Asked;
pub use nodes::Way;
pub use objects::ObserveError;
pub(crate) use objects::{DISRUPTION_BUDGET, NETWORK_POLICY, STATEFUL_SET};
use objects::{Objects, reading};
pub(crate) use outside::{CERTIFICATE, kind as certificate_kind};
pub use outside::{Outside, OutsideStep};
use owner::Owner;
pub(crate) use read::generation;
pub use secrets::Secrets;
use secrets::read_secrets;
pub use tls::{Tls, plain_clients};
pub use watch::Nodes;

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
    /// How pods are reached, by ordinal.
    pub ways: BTreeMap<u32, Way>,
    /// What was seen of TLS.
    pub tls: Tls,
    /// What is declared of users and rights.
    pub declared: Option<Declared>,
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
    /// Where clients outside connect, once the Service's balancer has an address.
    pub external: Option<String>,
    /// How long no quorum has confirmed a leader.
    pub leaderless: Duration,
    /// Whether it takes over this operator's own image and template now.
    pub follow: Follow,
    /// The cluster at which those that follow this operator have stopped, if they have.
    pub stopped_at: Option<String>,
}

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
    let (objects, mut taken) = objects::read_objects(client, namespace, name).await?.of(&owner);
    if cluster.spec.network_policy.enabled == Some(true) {
        taken.extend(objects.others_policy.clone());
    }
    let pinned = pinned(&cluster, &objects, options, follow);
    let image = cluster.spec.image.as_ref().unwrap_or(&pinned);
    let now = Timestamp::now().as_second();
    let secrets = match memory.keeps_certificates() && tls::concerns(&cluster, &objects) {
        true => {
            let users = tls::users(&cluster);
            Some(read_secrets(client, namespace, &owner, &options.cluster_domain, &users).await)
        }
        false => None,
    };
    if let Some(secrets) = &secrets {
        memory.renew_own(&secrets.content, now);
    }
    let asked = nodes::ask(&objects.pods, namespace, name, memory).await;
    let mut tls = tls::look(&cluster, &objects, &asked.nodes, secrets, now, memory);
    let auth = access::mode(&cluster, &objects, tls.mode());
    let inputs = Inputs {
        cluster: &cluster,
        name,
        namespace,
        uid: &uid,
        image,
        pinned: &pinned,
        pull_policy: options.pull_policy.as_deref(),
        incarnation: objects::incarnation(cluster.status.as_ref(), &objects),
        tls: tls.mode(),
        auth: auth.unwrap_or_default(),
        policy: policy::wanted(&cluster, &objects, options.policies_for.is_some()),
    };
    // Also where the cluster speaks no TLS any more: what cert-manager was asked for goes.
    if memory.keeps_certificates() {
        tls.outside = outside::look(client, &inputs, &owner, memory).await;
    }
    let made = made::made(&inputs, &objects, &taken, follow, options.policies_for.as_deref(), memory);
    let own_image = cluster.spec.image.as_ref().unwrap_or(&options.image);
    let update_pending = made.outdated || image != own_image;
    let ways = asked.ways.clone();
    let mut around = look_around(client, machines, &inputs, &objects, &made.template, asked, memory).await;
    around.endpoints = objects::endpoints(client, namespace, name, &taken).await;
    let mut observed = observed(&inputs, &objects, taken, &made, update_pending, around, memory);
    // Members that are there go on, whatever becomes of their certificates.
    let founded = observed.cluster_id.is_some();
    let bare = tls.mode() != TlsMode::Disabled && !tls.next.ready && !founded;
    let (declared, access) =
        access::look(&cluster, auth, namespace, name, &observed.nodes, memory).await.unzip();
    observed.access = access;
    observed.tls_waits = bare.then(|| "the certificates".to_owned());
    let confirmed = View::of(&observed).is_some();
    let leaderless = memory.lasts("leaderless", observed.cluster_id.is_some() && !confirmed);
    Ok(Some(Seen {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        observed,
        ways,
        tls,
        declared: declared.flatten(),
        template: made.template,
        update_pending,
        size: made.size,
        objects: made.objects,
        pod_monitor: made.pod_monitor,
        external: objects.service.as_ref().and_then(read::external),
        leaderless,
        follow,
        stopped_at: None,
        pinned_image: pinned.clone(),
        cluster,
    }))
}

/// The image that a spec without one means.
fn pinned(cluster: &KvCluster, objects: &Objects, options: &Options, follow: Follow) -> String {
    let ran = cluster.spec.image.as_deref().filter(|image| objects::runs(objects, image)).map(str::to_owned);
    let pinned = objects::pinned_image(objects).filter(|_| follow == Follow::No);
    ran.or(pinned).unwrap_or_else(|| options.image.clone())
}

/// What is asked of others than the objects themselves.
struct Around {
    /// What the nodes say.
    asked: Asked,
    /// What is known of machines.
    machines: machines::Machines,
    /// Members to which the Service sends clients.
    endpoints: Option<usize>,
    /// Whether the volumes can grow.
    growth: Growth,
    /// The namespace is being deleted.
    namespace_ends: bool,
}

async fn look_around(
    client: &Client,
    machines: &Nodes,
    inputs: &Inputs<'_>,
    objects: &Objects,
    template: &Template,
    asked: Asked,
    memory: &mut Memory,
) -> Around {
    let pod = serde_json::from_value(template.template["spec"].clone()).unwrap_or_default();
    let silent = asked.nodes.len() < objects.pods.len();
    let machines = machines::look(client, machines, objects, &pod, silent, memory).await;
    let storage_bytes = wanted(&inputs.cluster.spec).storage_bytes;
    let growth = growth::allowed(client, objects.claims.values(), storage_bytes).await;
    let namespace_ends = objects::namespace_ends(client, inputs.cluster, objects).await;
    Around { asked, machines, endpoints: None, growth, namespace_ends }
}

/// All of it as the plan's plain data.
fn observed(
    inputs: &Inputs<'_>,
    objects: &Objects,
    taken: Vec<Taken>,
    made: &Made,
    update_pending: bool,
    around: Around,
    memory: &mut Memory,
) -> Observed {
    let cluster = inputs.cluster;
    let Around { asked: Asked { nodes, reached, .. }, machines, endpoints, growth, namespace_ends } = around;
    let level = nodes.values().map(|node| node.feature_level).max().unwrap_or_default();
    let status = cluster.status.clone().unwrap_or_default();
    let mut observed = Observed {
        name: inputs.name.to_owned(),
        wanted: wanted(&cluster.spec),
        growth,
        tls: inputs.tls,
        auth: inputs.auth,
        policy: inputs.policy,
        tls_waits: None,
        access: None,
        image_refused: levels::too_old(inputs.image, level),
        cluster_id: status.cluster_id.as_deref().and_then(names::unhex),
        step: status.step.as_ref().and_then(Risky::read),
        deleting: cluster.metadata.deletion_timestamp.is_some(),
        finalizer: cluster.finalizers().iter().any(|finalizer| finalizer == names::FINALIZER),
        namespace_ends,
        incarnation: inputs.incarnation,
        recovery: status.recovery,
        recover_from: cluster.annotations().get(names::RECOVER_FROM).cloned(),
        pinned_image: inputs.pinned.to_owned(),
        fresh_id: rand::rng().next_u64().max(1),
        objects_current: made.objects_current,
        taken,
        refused: made.refused.clone(),
        unwanted_policy: made.unwanted_policy.clone(),
        monitor: made.monitor.clone(),
        update_pending,
        stateful_set: made.stateful_set.clone(),
        pods: objects.pods.iter().map(|(ordinal, pod)| (*ordinal, read::pod(pod))).collect(),
        claims: objects.claims.iter().map(|(ordinal, claim)| (*ordinal, read::claim(claim))).collect(),
        unmade: BTreeSet::new(),
        endpoints,
        nodes,
        reached,
        cordoned: machines.cordoned.clone(),
        machines_forbidden: machines.forbidden,
    };
    lasting::add_machines(&mut observed, machines, memory);
    lasting::add_growth(&mut observed, objects, memory);
    observed.unmade = lasting::unmade(&observed, memory);
    observed
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
