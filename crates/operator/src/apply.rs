//! One idempotent effect for each step. What a step is planned for fences it: a resource version, a
//! uid, the membership's log id, a node id.

use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{DeleteParams, EvictParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt as _};
use kvorum_client::admin::{AdminClient, v1};
use kvorum_crd::KvCluster;
use serde_json::{Value, json};

use crate::access::{Sent, mode};
use crate::build::{Inputs, hash, tls_word};
use crate::fence::{Disk, LogId, Retired, Version};
use crate::memory::Memory;
use crate::names::{self, CLIENT_PORT, FIELD_MANAGER, PEER_PORT};
use crate::observe::{
    Applied, DISRUPTION_BUDGET, NETWORK_POLICY, POD_MONITOR, PodMonitor, STATEFUL_SET, Seen, generation,
};
use crate::plan::View;
use crate::refusal;
use crate::step::{Risky, Step};

/// The code by which an eviction is refused that a disruption budget does not allow now.
const TOO_MANY_REQUESTS: u16 = 429;
/// A change of the membership commits two log entries, and a new learner joins first.
const CHANGE_MAX: Duration = Duration::from_secs(10);
/// A node that is to recover asks the other voters for longer than an election takes, before and after which it
/// waits for a quorum's answer: together so many election timeouts, beside what a change takes.
const RECOVER_ELECTION_TIMEOUTS: u32 = 6;
/// A node's election timeout where the spec has none.
const ELECTION_TIMEOUT_MS: i64 = 1_000;

/// Why a step had no effect, or none that is known.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// What it was planned for has changed; a new look tells.
    #[error("{0} has changed meanwhile")]
    Outdated(String),
    /// Kubernetes refused.
    #[error("Kubernetes refused to {context}: {}", refusal::said(.source))]
    Kubernetes {
        /// Verb and object.
        context: String,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// Kubernetes refuses an object as the spec has it, and will until that changes.
    #[error("{0}")]
    Refused(String),
    /// A node refused, or did not answer.
    #[error("a member refused to {context}, or did not answer: {source}")]
    Node {
        /// Verb and object.
        context: String,
        /// What it said.
        source: kvorum_client::Error,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
    /// It is not its turn yet: a drain has taken another member, for example.
    #[error("{0}")]
    Held(String),
    /// The answer was lost, as may be expected: no reason to worry anybody.
    #[error("{0}; a new look tells what came of it")]
    Unknown(String),
}

/// Takes a step. Steps that only write the status are taken when the status is written.
pub async fn apply(client: &Client, seen: &Seen, step: &Step, memory: &mut Memory) -> Result<(), ApplyError> {
    let effects = Effects { client, seen };
    match step {
        Step::Rest
        | Step::Wait
        | Step::Latch { .. }
        | Step::RaiseIncarnation { .. }
        | Step::Record(_)
        | Step::Forget(_) => Ok(()),
        Step::ApplyObjects => effects.apply_objects(memory).await,
        Step::ApplyAccess { sent } => effects.declare(*sent, memory).await,
        Step::ApplyMonitor => effects.apply_monitor(memory).await,
        Step::DeleteMonitor { version } => {
            effects.delete::<PodMonitor>(&seen.name, version, DeleteParams::background()).await
        }
        Step::DeletePolicy { version } => {
            effects.delete::<NetworkPolicy>(&seen.name, version, DeleteParams::background()).await
        }
        Step::AddFinalizer => effects.set_finalizers(&[names::FINALIZER]).await,
        Step::RemoveFinalizer => effects.set_finalizers(&[]).await,
        Step::CreateStatefulSet { replicas } => effects.create_stateful_set(*replicas).await,
        Step::UpdateStatefulSet { version } => {
            let replicas = seen.observed.stateful_set.as_ref().map_or(0, |set| set.replicas);
            effects.apply_stateful_set(replicas, version, memory).await
        }
        Step::Grow { replicas, version } => effects.apply_stateful_set(*replicas, version, memory).await,
        Step::RecordDisk { ordinal, version, disk, incarnation } => {
            effects.record_disk(*ordinal, version, disk, *incarnation).await
        }
        Step::Retire { ordinal, version, retired } => effects.retire(*ordinal, version, *retired).await,
        Step::GrowClaim { ordinal } => effects.grow_claim(*ordinal).await,
        Step::Initialize { ordinal, node_id, cluster_id, closed } => {
            let node = effects.node(*ordinal)?;
            let founded = node.initialize(*cluster_id, Some(*node_id), *closed).await;
            founded.map(drop).map_err(|source| node_error("found the cluster", source))
        }
        Step::TransferLeader { to } => {
            let transferred = effects.leader()?.transfer_leader(Some(*to)).await;
            transferred.map(drop).map_err(|source| node_error("hand leadership over", source))
        }
        Step::DropToken => {
            let none = json!({"metadata": {"annotations": {names::RECOVER_FROM: null}}});
            effects.merge::<KvCluster>(&seen.name, &none).await
        }
        Step::DeleteStatefulSet { version } => {
            effects.delete::<StatefulSet>(&seen.name, version, DeleteParams::background()).await
        }
        Step::Act(risky) => effects.act(risky, memory).await,
        Step::Abandon(risky) => effects.fence(risky).await,
    }
}

struct Effects<'a> {
    client: &'a Client,
    seen: &'a Seen,
}

impl Effects<'_> {
    async fn act(&self, risky: &Risky, memory: &mut Memory) -> Result<(), ApplyError> {
        let name = &self.seen.name;
        match risky {
            Risky::AddLearner { node_id, ordinal, membership } => {
                let address = |port| names::address(name, &self.seen.namespace, *ordinal, port);
                let (peer_address, client_address) = (address(PEER_PORT), address(CLIENT_PORT));
                let node = v1::Node { node_id: *node_id, peer_address, client_address };
                let added = self.leader()?.add_learner(node, wire(membership)).await;
                added.map(drop).map_err(|source| node_error("add a learner", source))
            }
            Risky::RemoveLearner { node_id, membership } => {
                let removed = self.leader()?.remove_learner(*node_id, wire(membership)).await;
                removed.map(drop).map_err(|source| node_error("remove a learner", source))
            }
            Risky::ChangeVoters { voters, membership } => {
                let voters = voters.iter().copied().collect();
                let changed = self.leader()?.change_membership(voters, wire(membership)).await;
                changed.map(drop).map_err(|source| node_error("change the voters", source))
            }
            Risky::DeletePod { ordinal, version } => self.remove_pod(*ordinal, version).await,
            Risky::DeleteClaim { ordinal, version } => {
                let claim = names::claim(name, *ordinal);
                self.delete::<PersistentVolumeClaim>(&claim, version, DeleteParams::background()).await
            }
            Risky::Shrink { replicas, version } => self.apply_stateful_set(*replicas, version, memory).await,
            Risky::Recover { ordinal, token, to } => {
                let request = v1::RecoverRequest {
                    node_id: token.node_id,
                    last_log_id: wire(&token.last_log),
                    from_incarnation: token.incarnation,
                    to_incarnation: *to,
                };
                let recovered = self.node_within(*ordinal, self.recover_max())?.recover(request).await;
                recovered.map_err(|source| recover_error(&names::pod(name, *ordinal), source))
            }
            Risky::RecreateStatefulSet { version } => {
                self.delete::<StatefulSet>(name, version, DeleteParams::orphan()).await
            }
        }
    }

    /// Evicts a pod that is ready, so that the disruption budget lets go of one at a time, whoever asks: a drain too.
    /// What is not ready takes nothing from the budget, and may be what keeps it spent.
    async fn remove_pod(&self, ordinal: u32, version: &Version) -> Result<(), ApplyError> {
        let name = names::pod(&self.seen.name, ordinal);
        let ready = self.seen.observed.pods.get(&ordinal).is_some_and(|pod| pod.ready);
        if !ready || self.seen.observed.deleting {
            return self.delete::<Pod>(&name, version, DeleteParams::default()).await;
        }
        let delete = DeleteParams::default().preconditions(exactly(version));
        let params = EvictParams { delete_options: Some(delete), ..EvictParams::default() };
        match self.api::<Pod>().evict(&name, &params).await {
            Err(kube::Error::Api(status)) if status.code == TOO_MANY_REQUESTS => {
                Err(ApplyError::Held(format!(
                    "A disruption budget does not let pod {name} go now ({}). It is tried again; `kubectl get pdb` shows \
                 which.",
                    refusal::said(&kube::Error::Api(status))
                )))
            }
            evicted => evicted.map(drop).map_err(|error| kubernetes(&format!("evict {name}"), error)),
        }
    }

    /// Raises the resource version of what a step was to delete: whoever is about to take the step
    /// cannot any more.
    async fn fence(&self, risky: &Risky) -> Result<(), ApplyError> {
        let now = self.seen.cluster.resource_version().unwrap_or_default();
        let mark = json!({"metadata": {"annotations": {names::STEP_ABANDONED: now}}});
        let name = &self.seen.name;
        let marked = match risky {
            Risky::DeletePod { ordinal, .. } => self.merge::<Pod>(&names::pod(name, *ordinal), &mark).await,
            Risky::DeleteClaim { ordinal, .. } => {
                self.merge::<PersistentVolumeClaim>(&names::claim(name, *ordinal), &mark).await
            }
            Risky::Shrink { .. } | Risky::RecreateStatefulSet { .. } => {
                self.merge::<StatefulSet>(name, &mark).await
            }
            // The log ids and the incarnation refuse whoever is late.
            Risky::AddLearner { .. }
            | Risky::RemoveLearner { .. }
            | Risky::ChangeVoters { .. }
            | Risky::Recover { .. } => Ok(()),
        };
        match marked {
            Err(ApplyError::Outdated(_)) => Ok(()),
            other => other,
        }
    }

    /// One that is refused keeps no other from being applied.
    async fn apply_objects(&self, memory: &mut Memory) -> Result<(), ApplyError> {
        let mut outcome = Ok(());
        for applied in &self.seen.objects {
            let (name, hash) =
                (applied.object["metadata"]["name"].as_str().unwrap_or_default(), hash(&applied.object));
            let over = over(applied);
            let version = match applied.kind {
                DISRUPTION_BUDGET => self
                    .server_side_apply::<PodDisruptionBudget>(name, &over)
                    .await
                    .map(|budget| budget.metadata.generation.map(|generation| generation.to_string())),
                NETWORK_POLICY => self
                    .server_side_apply::<NetworkPolicy>(name, &over)
                    .await
                    .map(|policy| policy.metadata.generation.map(|generation| generation.to_string())),
                _ => {
                    let service = self.server_side_apply::<Service>(name, &over).await;
                    service.map(|service| service.resource_version())
                }
            };
            match version {
                Ok(version) => memory.applied(applied.kind, hash, version.unwrap_or_default()),
                Err(error) => outcome = outcome.and(Err(remembered(applied.kind, name, hash, error, memory))),
            }
        }
        outcome
    }

    /// Declares users and rights to the leader. What it refuses keeps no other step from being taken.
    async fn declare(&self, sent: Sent, memory: &mut Memory) -> Result<(), ApplyError> {
        let Some(declared) = &self.seen.declared else { return Ok(()) };
        match self.leader()?.apply_access(declared.request()).await {
            Ok(()) => {
                memory.was_declared(sent);
                Ok(())
            }
            Err(source) => {
                let error = node_error("take what is declared of users and rights", source);
                let said = error.to_string();
                let said = said.trim_end_matches('.');
                memory.was_not_declared(
                    sent.fingerprint,
                    format!("Users and rights are not declared: {said}. It is tried again."),
                );
                Err(error)
            }
        }
    }

    async fn apply_monitor(&self, memory: &mut Memory) -> Result<(), ApplyError> {
        let Some(monitor) = &self.seen.pod_monitor else { return Ok(()) };
        let applied = self.server_side_apply::<PodMonitor>(&self.seen.name, &over(monitor)).await?;
        memory.applied(POD_MONITOR, hash(&monitor.object), generation(&applied));
        Ok(())
    }

    /// Makes a StatefulSet where there is none, and fails where there is one. It is not remembered as
    /// applied: the next look applies it, so that its fields are owned as those of all other objects are.
    async fn create_stateful_set(&self, replicas: u32) -> Result<(), ApplyError> {
        let set = self.stateful_set(replicas);
        let typed = serde_json::from_value(set).expect("the object is built by these rules");
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let made: Result<StatefulSet, kube::Error> = self.api().create(&params, &typed).await;
        made.map(drop).map_err(|error| kubernetes("create the StatefulSet", error))
    }

    /// Applies the StatefulSet, as long as it is the one that was seen: its replicas decide which pods
    /// there are.
    async fn apply_stateful_set(
        &self,
        replicas: u32,
        version: &Version,
        memory: &mut Memory,
    ) -> Result<(), ApplyError> {
        let own = self.own_what_was_made(version).await?;
        let mut set = self.stateful_set(replicas);
        set["metadata"]["uid"] = json!(version.uid);
        set["metadata"]["resourceVersion"] = json!(own.as_ref().unwrap_or(&version.resource_version));
        match self.server_side_apply::<StatefulSet>(&self.seen.name, &set).await {
            Ok(applied) => self.remember(&applied, memory),
            Err(error) => {
                let hash = hash(&self.stateful_set(0));
                return Err(remembered(STATEFUL_SET, &self.seen.name, hash, error, memory));
            }
        }
        Ok(())
    }

    /// Fields that were made by a POST count as updated, not applied, and would stay for ever once the spec
    /// has them no more: a node selector, say. So they are declared applied, while the object is still in
    /// the version that was seen; answers the version after that.
    async fn own_what_was_made(&self, version: &Version) -> Result<Option<String>, ApplyError> {
        let read = |error| kubernetes("read the StatefulSet", error);
        let set = self.api::<StatefulSet>().get(&self.seen.name).await.map_err(read)?;
        let Some(fields) = applied_fields(set.metadata.managed_fields.unwrap_or_default()) else {
            return Ok(None);
        };
        let owned = json!({"metadata": {
            "managedFields": fields, "uid": version.uid, "resourceVersion": version.resource_version,
        }});
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let patched = self.api::<StatefulSet>().patch(&self.seen.name, &params, &Patch::Merge(&owned)).await;
        let patched = patched.map_err(|error| kubernetes("own the StatefulSet's fields", error))?;
        Ok(patched.resource_version())
    }

    fn remember(&self, set: &StatefulSet, memory: &mut Memory) {
        memory.applied(STATEFUL_SET, hash(&self.stateful_set(0)), generation(set));
    }

    fn stateful_set(&self, replicas: u32) -> Value {
        let cluster = &self.seen.cluster;
        let uid = cluster.uid().unwrap_or_default();
        let inputs = Inputs {
            cluster,
            name: &self.seen.name,
            namespace: &self.seen.namespace,
            uid: &uid,
            image: &self.seen.pinned_image,
            pinned: &self.seen.pinned_image,
            pull_policy: None,
            incarnation: 1,
            tls: self.seen.tls.mode(),
            auth: self.seen.observed.auth,
            policy: self.seen.observed.policy,
        };
        inputs.stateful_set(replicas, &self.seen.template, &self.seen.size)
    }

    async fn record_disk(
        &self,
        ordinal: u32,
        version: &Version,
        disk: &Disk,
        incarnation: u64,
    ) -> Result<(), ApplyError> {
        let mut annotations = json!({
            names::CLUSTER_ID: names::hex(disk.cluster_id),
            names::NODE_ID: names::hex(disk.node_id),
            names::IMAGE: self.seen.pinned_image,
            names::INCARNATION: incarnation.to_string(),
        });
        self.add_security(&mut annotations);
        if disk.founder {
            annotations[names::FOUNDER] = json!("true");
        }
        self.annotate_claim(ordinal, version, annotations).await
    }

    async fn retire(&self, ordinal: u32, version: &Version, retired: Retired) -> Result<(), ApplyError> {
        let retired = match retired {
            Retired::Behind { incarnation } => format!("{}{incarnation}", names::RETIRED_BEHIND),
            Retired::Left | Retired::No => "true".into(),
        };
        let claim = self.seen.observed.claims.get(&ordinal);
        let disk = claim.and_then(|claim| claim.disk).unwrap_or_default();
        let mut annotations = json!({
            names::CLUSTER_ID: names::hex(disk.cluster_id),
            names::NODE_ID: names::hex(disk.node_id),
            names::IMAGE: self.seen.pinned_image,
            names::RETIRED: retired,
        });
        self.add_security(&mut annotations);
        if let Some(claim) = claim.filter(|claim| claim.incarnation > 0) {
            annotations[names::INCARNATION] = json!(claim.incarnation.to_string());
        }
        self.annotate_claim(ordinal, version, annotations).await
    }

    /// What pods speak, whether rights count and whether there is a NetworkPolicy is on record with their disks: a KvCluster
    /// that is made again over them does not become plain.
    fn add_security(&self, annotations: &mut Value) {
        if let Some(word) = tls_word(self.seen.tls.mode()) {
            annotations[names::TLS] = json!(word);
        }
        if let Some(word) = mode::word(self.seen.observed.auth) {
            annotations[names::AUTH] = json!(word);
        }
        if self.seen.observed.policy {
            annotations[names::POLICY] = json!(names::POLICY_ENABLED);
        }
    }

    /// Applied as a whole: annotations of ours that are not among these go.
    async fn annotate_claim(
        &self,
        ordinal: u32,
        version: &Version,
        annotations: Value,
    ) -> Result<(), ApplyError> {
        let name = names::claim(&self.seen.name, ordinal);
        let claim = json!({
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": name, "namespace": self.seen.namespace, "annotations": annotations,
                "uid": version.uid, "resourceVersion": version.resource_version,
            },
        });
        self.server_side_apply::<PersistentVolumeClaim>(&name, &claim).await.map(drop)
    }

    async fn grow_claim(&self, ordinal: u32) -> Result<(), ApplyError> {
        let size = &self.seen.cluster.spec.storage.size.0;
        let patch = json!({"spec": {"resources": {"requests": {"storage": size}}}});
        self.merge::<PersistentVolumeClaim>(&names::claim(&self.seen.name, ordinal), &patch).await
    }

    async fn set_finalizers(&self, ours: &[&str]) -> Result<(), ApplyError> {
        let others = self.seen.cluster.finalizers().iter().map(String::as_str);
        let all: Vec<&str> =
            others.filter(|finalizer| *finalizer != names::FINALIZER).chain(ours.iter().copied()).collect();
        let patch = json!({"metadata": {
            "finalizers": all, "resourceVersion": self.seen.cluster.resource_version(),
        }});
        self.merge::<KvCluster>(&self.seen.name, &patch).await
    }

    /// Fields are taken from others by force only on the very object that was seen to be this cluster's. What somebody
    /// made since then under the same name refuses by a conflict, and the next look tells whose it is.
    async fn server_side_apply<K: Object>(&self, name: &str, object: &Value) -> Result<K, ApplyError> {
        let params = PatchParams::apply(FIELD_MANAGER);
        let params = if object["metadata"]["uid"].is_string() { params.force() } else { params };
        let applied = self.api::<K>().patch(name, &params, &Patch::Apply(object)).await;
        applied.map_err(|error| kubernetes(&format!("apply {name}"), error))
    }

    async fn merge<K: Object>(&self, name: &str, patch: &Value) -> Result<(), ApplyError> {
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let patched = self.api::<K>().patch(name, &params, &Patch::Merge(patch)).await;
        patched.map(drop).map_err(|error| kubernetes(&format!("change {name}"), error))
    }

    async fn delete<K: Object>(
        &self,
        name: &str,
        version: &Version,
        params: DeleteParams,
    ) -> Result<(), ApplyError> {
        let params = params.preconditions(exactly(version));
        let deleted = self.api::<K>().delete(name, &params).await;
        deleted.map(drop).map_err(|error| kubernetes(&format!("delete {name}"), error))
    }

    fn api<K: Object>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.seen.namespace)
    }

    /// The node of an ordinal, with the patience that a change takes.
    fn node(&self, ordinal: u32) -> Result<AdminClient, ApplyError> {
        self.node_within(ordinal, CHANGE_MAX)
    }

    /// How long a node may take to find out that it is alone.
    fn recover_max(&self) -> Duration {
        let election = self.seen.cluster.spec.node.election_timeout_ms.unwrap_or(ELECTION_TIMEOUT_MS);
        let election = Duration::from_millis(election.max(ELECTION_TIMEOUT_MS).unsigned_abs());
        CHANGE_MAX + election * RECOVER_ELECTION_TIMEOUTS
    }

    fn node_within(&self, ordinal: u32, patience: Duration) -> Result<AdminClient, ApplyError> {
        let way = self.seen.ways.get(&ordinal);
        let way =
            way.ok_or_else(|| ApplyError::Outdated(format!("pod {}", names::pod(&self.seen.name, ordinal))))?;
        let node = AdminClient::new(&way.peer_address, patience);
        let node = node.map_err(|source| node_error("connect to a node", source))?;
        Ok(node.connect_options(way.options.clone()))
    }

    fn leader(&self) -> Result<AdminClient, ApplyError> {
        let view = View::of(&self.seen.observed);
        let leader = view.and_then(|view| view.ordinal(view.leader.node_id));
        self.node(leader.ok_or_else(|| ApplyError::Outdated("the leader".into()))?)
    }
}

/// The object in the version that was seen, and no other.
fn exactly(version: &Version) -> Preconditions {
    let Version { uid, resource_version } = version.clone();
    Preconditions { uid: Some(uid), resource_version: Some(resource_version) }
}

/// The object, for the very one that was seen and no other of its name.
fn over(Applied { object, uid, .. }: &Applied) -> Value {
    let mut object = object.clone();
    if let Some(uid) = uid {
        object["metadata"]["uid"] = json!(uid);
    }
    object
}

/// What the effects need of a kind of object.
trait Object:
    kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
    + Clone
    + serde::de::DeserializeOwned
    + std::fmt::Debug
    + serde::Serialize
{
}

impl<K> Object for K where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + serde::Serialize
{
}

fn wire(at: &LogId) -> Option<v1::LogId> {
    Some(v1::LogId { term: at.term, index: at.index })
}

fn node_error(context: &str, source: kvorum_client::Error) -> ApplyError {
    ApplyError::Node { context: context.into(), source }
}

/// The owners of an object's fields once what the operator made by a POST counts as applied; `None` where
/// nothing does not.
fn applied_fields(mut entries: Vec<ManagedFieldsEntry>) -> Option<Vec<ManagedFieldsEntry>> {
    let ours = |entry: &ManagedFieldsEntry, operation: &str| {
        entry.manager.as_deref() == Some(FIELD_MANAGER)
            && entry.subresource.is_none()
            && entry.operation.as_deref() == Some(operation)
    };
    let made = entries.iter().position(|entry| ours(entry, "Update"))?;
    match entries.iter().any(|entry| ours(entry, "Apply")) {
        // What was applied since is the whole of what is wanted.
        true => _ = entries.remove(made),
        false => entries[made].operation = Some("Apply".into()),
    }
    Some(entries)
}

/// Whoever was told to recover restarts for that, maybe while it is told once more.
fn recover_error(member: &str, source: kvorum_client::Error) -> ApplyError {
    use kvorum_client::Error::{OutcomeUnknown, Unanswered};
    match source {
        Unanswered { .. } | OutcomeUnknown { .. } => {
            ApplyError::Unknown(format!("member {member} did not answer, since it restarts for the recovery"))
        }
        source => node_error("recover the cluster", source),
    }
}

/// Remembers a refusal that only another spec, or another right, can change: nothing else is to wait for that.
fn remembered(
    kind: &'static str,
    name: &str,
    hash: String,
    error: ApplyError,
    memory: &mut Memory,
) -> ApplyError {
    let ApplyError::Kubernetes { source, .. } = &error else { return error };
    if !is_final(source) {
        return error;
    }
    let said = format!(
        "Kubernetes refuses {kind} {name} as the spec has it: {}. Correct the spec. What is there stays as it is, members \
         are looked after as before, and it is tried again every half minute.",
        refusal::said(source)
    );
    memory.refused(kind, hash, said.clone());
    ApplyError::Refused(said)
}

/// The API server has looked at the object, and says no.
fn is_final(error: &kube::Error) -> bool {
    const NOW_AND_THEN: [u16; 3] = [401, 408, TOO_MANY_REQUESTS];
    matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code) && !NOW_AND_THEN.contains(&status.code))
}

/// A conflict and a missing object mean that the look was too old.
pub(crate) fn kubernetes(context: &str, error: kube::Error) -> ApplyError {
    match &error {
        kube::Error::Api(status)
            if status.is_conflict() || status.is_not_found() || status.is_already_exists() =>
        {
            ApplyError::Outdated(format!("what was there to {context}"))
        }
        _ => ApplyError::Kubernetes { context: context.into(), source: Box::new(error) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what was made by a POST is owned as what is applied, and nobody else's fields change hands.
    /// Method: a table of owners before and after.
    #[test]
    fn what_was_made_counts_as_applied() {
        let entry = |(manager, operation): &(&str, &str)| ManagedFieldsEntry {
            manager: Some(manager.to_string()),
            operation: Some(operation.to_string()),
            ..ManagedFieldsEntry::default()
        };
        let entries = |list: &[(&str, &str)]| list.iter().map(entry).collect::<Vec<_>>();
        let (ours, kubelet) = (FIELD_MANAGER, ("kube-controller-manager", "Update"));
        for (before, after) in [
            (vec![(ours, "Update"), kubelet], Some(vec![(ours, "Apply"), kubelet])),
            (vec![(ours, "Apply"), kubelet, (ours, "Update")], Some(vec![(ours, "Apply"), kubelet])),
            (vec![(ours, "Apply"), kubelet], None),
        ] {
            assert_eq!(applied_fields(entries(&before)), after.map(|after| entries(&after)));
        }
    }
}
