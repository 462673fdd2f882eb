//! A KvCluster, as `kubectl` and the API server show it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use kvorum_client::admin::AdminClient;
use kvorum_client::{Connecting, Connector, Tcp};
use kvorum_crd::KvCluster;
use kvorum_operator::memory::peer_address;
use kvorum_operator::names::{self, PEER_PORT};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::command::kubectl;
use crate::{Context as _, Result, Test, ensure, proofs, wait};

/// How long a change may take that nothing is promised about: images are there, disks are small.
pub const CHANGE_LIMIT: Duration = Duration::from_secs(120);
/// How long a member may take to answer on its peer port.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// A KvCluster of a test.
pub struct Cluster<'t> {
    test: &'t Test,
    name: String,
}

/// Which pods there are, by ordinal, and how often each container was started again: what differs
/// after a restart of any kind.
pub type Lives = BTreeMap<u32, (String, i32)>;

/// A small spec: disks that go with the cluster, and requests that leave room for many on a machine. Members that are
/// told to stop serve on for a second, not five, since the tests' clients do not come by the Service.
pub fn spec(members: u32) -> Value {
    let mut spec = spec_for_services(members);
    spec["pod"]["env"] = json!([{"name": "KVORUM_SHUTDOWN_DELAY", "value": "1s"}]);
    spec
}

/// The same for tests whose clients do.
pub fn spec_for_services(members: u32) -> Value {
    json!({
        "members": members,
        "storage": {"size": "1Gi", "whenDeleted": "Delete"},
        "pod": {"resources": {
            "requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "704Mi"},
        }},
    })
}

/// The same without TLS, for tests whose clients speak none.
pub fn plain(mut spec: Value) -> Value {
    spec["tls"] = json!({"mode": "Disabled"});
    spec
}

impl<'t> Cluster<'t> {
    /// Makes a KvCluster.
    pub async fn create(test: &'t Test, name: &str, spec: Value) -> Result<Cluster<'t>> {
        let wanted = serde_json::from_value(json!({
            "apiVersion": "kvorum.io/v1alpha1", "kind": "KvCluster", "metadata": {"name": name}, "spec": spec,
        }))?;
        test.api::<KvCluster>().create(&PostParams::default(), &wanted).await.context("make a KvCluster")?;
        Ok(Cluster::named(test, name))
    }

    /// Makes a KvCluster and waits until it is ready.
    pub async fn ready(test: &'t Test, name: &str, members: u32) -> Result<Cluster<'t>> {
        let cluster = Cluster::create(test, name, spec(members)).await?;
        let took = cluster.settled(CHANGE_LIMIT).await?;
        test.say(format!("{name}: {members} members ready after {:.1} s", took.as_secs_f64()));
        Ok(cluster)
    }

    /// One that exists, or will.
    pub fn named(test: &'t Test, name: &str) -> Cluster<'t> {
        Cluster { test, name: name.to_owned() }
    }

    /// Its test.
    pub fn test(&self) -> &'t Test {
        self.test
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// KvClusters of the test's namespace.
    pub fn api(&self) -> Api<KvCluster> {
        self.test.api()
    }

    /// The object.
    pub async fn get(&self) -> Result<KvCluster> {
        Ok(self.api().get(&self.name).await?)
    }

    /// Changes the spec by a merge patch.
    pub async fn change(&self, spec: Value) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.api().patch(&self.name, &PatchParams::default(), &patch).await.context("change the spec")?;
        Ok(())
    }

    /// `kubectl scale`, and the wait until it is done.
    pub async fn scale(&self, members: u32) -> Result<Duration> {
        let (object, replicas) = (format!("kvc/{}", self.name), format!("--replicas={members}"));
        kubectl(["scale", "-n", &self.test.namespace, &object, &replicas]).await?;
        let took = self.settled(CHANGE_LIMIT).await?;
        let members_now = self.voters().await?.len();
        ensure!(members_now == members as usize, "{members_now} vote after a scale to {members}");
        self.test.say(format!("{members} members after {:.1} s", took.as_secs_f64()));
        Ok(took)
    }

    /// Waits until the status says that all is as the present spec wants it.
    pub async fn settled(&self, within: Duration) -> Result<Duration> {
        self.until("the cluster to be as its spec says", within, |cluster| {
            let status = cluster.status.clone().unwrap_or_default();
            let ready = condition(cluster, "Ready")?;
            let progressing = condition(cluster, "Progressing")?;
            let current = status.observed_generation == cluster.metadata.generation;
            let full = status.ready_members == cluster.spec.members;
            ensure!(
                current && full && ready.status == "True" && progressing.status == "False",
                "{} of {} are ready; {}: {}; {}: {}",
                status.ready_members,
                cluster.spec.members,
                ready.reason,
                ready.message,
                progressing.reason,
                progressing.message
            );
            Ok(())
        })
        .await
    }

    /// Waits until a condition has this status, and answers the condition.
    pub async fn condition(&self, kind: &str, status: &str, within: Duration) -> Result<Condition> {
        self.until(&format!("{kind}={status}"), within, |cluster| {
            let found = condition(cluster, kind)?;
            ensure!(found.status == status, "it is {}: {}: {}", found.status, found.reason, found.message);
            Ok(())
        })
        .await?;
        condition(&self.get().await?, kind)
    }

    /// Waits until the object is as wanted, and answers how long that took.
    pub async fn until(
        &self,
        what: &str,
        within: Duration,
        wanted: impl Fn(&KvCluster) -> Result<()>,
    ) -> Result<Duration> {
        let begun = Instant::now();
        let look = async || {
            // A look ten times a second is plenty, and leaves the API server alone.
            tokio::time::sleep(Duration::from_millis(80)).await;
            wanted(&self.get().await?)
        };
        wait::until(&format!("{}: {what}", self.name), within, look).await?;
        Ok(begun.elapsed())
    }

    /// Its pods by ordinal.
    pub async fn pods(&self) -> Result<BTreeMap<u32, Pod>> {
        let selected = ListParams::default().labels(&names::selector_text(&self.name));
        let pods = self.test.api::<Pod>().list(&selected).await?;
        let by_ordinal = pods.into_iter().filter_map(|pod| {
            let ordinal = names::ordinal(&pod.name_any(), &self.name)?;
            Some((ordinal, pod))
        });
        Ok(by_ordinal.collect())
    }

    /// A pod that must be there.
    pub async fn pod(&self, ordinal: u32) -> Result<Pod> {
        Ok(self.test.api::<Pod>().get(&names::pod(&self.name, ordinal)).await?)
    }

    /// A claim that must be there.
    pub async fn claim(&self, ordinal: u32) -> Result<PersistentVolumeClaim> {
        Ok(self.test.api::<PersistentVolumeClaim>().get(&names::claim(&self.name, ordinal)).await?)
    }

    /// The directory of a member's volume, where machines keep theirs on this one.
    pub async fn volume(&self, ordinal: u32) -> Result<PathBuf> {
        let name = self.claim(ordinal).await?.spec.and_then(|spec| spec.volume_name);
        let volumes: Api<PersistentVolume> = Api::all(self.test.client.clone());
        let spec = volumes.get(&name.context("the claim has no volume")?).await?.spec.unwrap_or_default();
        let path = spec.local.map(|local| local.path).or(spec.host_path.map(|host| host.path));
        let path = PathBuf::from(
            path.context(format!("the disk of member {ordinal} is no directory of a machine"))?,
        );
        ensure!(path.is_dir(), "{} is on another machine than this one", path.display());
        Ok(path)
    }

    /// The machine that a member runs on.
    pub async fn machine(&self, ordinal: u32) -> Result<String> {
        let pod = self.pod(ordinal).await?;
        pod.spec.and_then(|spec| spec.node_name).context(format!("member {ordinal} runs nowhere"))
    }

    /// Who lives, and for how long.
    pub async fn lives(&self) -> Result<Lives> {
        let lives = self.pods().await?.into_iter().map(|(ordinal, pod)| {
            let status = pod.status.as_ref();
            let containers = status.and_then(|status| status.container_statuses.as_ref());
            let container = containers.into_iter().flatten().find(|one| one.name == names::CONTAINER);
            (
                ordinal,
                (pod.uid().unwrap_or_default(), container.map_or(0, |container| container.restart_count)),
            )
        });
        Ok(lives.collect())
    }

    /// The leader's ordinal, as the status has it.
    pub async fn leader(&self) -> Result<u32> {
        let status = self.get().await?.status.unwrap_or_default();
        let leader = status.leader.as_deref().and_then(|pod| names::ordinal(pod, &self.name));
        leader.context("the status names no leader")
    }

    /// The id of a member's disk, as the status has it.
    pub async fn node_id(&self, ordinal: u32) -> Result<String> {
        let (status, pod) = (self.get().await?.status.unwrap_or_default(), names::pod(&self.name, ordinal));
        let member = status.members.into_iter().find(|member| member.pod == pod);
        member.and_then(|member| member.node_id).context(format!("{pod} has not said its node id"))
    }

    /// The ids of the first `count` members' disks, by ordinal.
    pub async fn node_ids(&self, count: u32) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for ordinal in 0..count {
            ids.push(self.node_id(ordinal).await?);
        }
        Ok(ids)
    }

    /// Waits until a member has another disk than the one with this id.
    pub async fn has_another_disk(&self, ordinal: u32, node_id: &str, within: Duration) -> Result<()> {
        wait::until(&format!("another disk for member {ordinal}"), within, async || {
            ensure!(self.node_id(ordinal).await? != node_id, "it has the old one");
            Ok(())
        })
        .await
    }

    /// The cluster's id, which the status has latched.
    pub async fn id(&self) -> Result<String> {
        self.get().await?.status.and_then(|status| status.cluster_id).context("no cluster id is latched")
    }

    /// The voters, by node id, as a confirmed leader has them.
    pub async fn voters(&self) -> Result<BTreeSet<u64>> {
        let leader = self.admin(self.leader().await?).await?.confirmed_status().await?;
        ensure!(leader.confirmed, "the leader is not confirmed");
        let membership = leader.membership.context("the leader has no membership")?;
        Ok(membership.configs.iter().flat_map(|config| config.node_ids.iter().copied()).collect())
    }

    /// The administration of a member, for checks that ask no operator; wants pods that are reached from
    /// here.
    pub async fn admin(&self, ordinal: u32) -> Result<AdminClient> {
        let address = self.pod(ordinal).await?.status.and_then(|status| status.pod_ip);
        let address = address.context(format!("pod {ordinal} has no address"))?;
        let options = proofs::root(self).await?.options().connector(At(peer_address(&address)));
        let name = names::address(&self.name, &self.test.namespace, ordinal, PEER_PORT);
        Ok(AdminClient::new(&name, ANSWER_LIMIT)?.connect_options(options))
    }

    /// Deletes a pod, as `kubectl delete pod` does.
    pub async fn delete_pod(&self, ordinal: u32) -> Result<()> {
        let name = names::pod(&self.name, ordinal);
        self.test.api::<Pod>().delete(&name, &DeleteParams::default()).await.context("delete a pod")?;
        Ok(())
    }

    /// Deletes a claim and its pod: the disk is lost.
    pub async fn lose_disk(&self, ordinal: u32) -> Result<()> {
        let claim = names::claim(&self.name, ordinal);
        let claims = self.test.api::<PersistentVolumeClaim>();
        claims.delete(&claim, &DeleteParams::default()).await.context("delete a claim")?;
        self.delete_pod(ordinal).await
    }

    /// Runs the tool in a member's pod.
    pub async fn tool<const N: usize>(&self, ordinal: u32, arguments: [&str; N]) -> Result<String> {
        let pod = names::pod(&self.name, ordinal);
        let fixed = ["exec", "-n", &self.test.namespace, &pod, "--", "kvorum"];
        crate::command::output("kubectl", fixed.into_iter().chain(arguments)).await
    }

    /// The reasons of its events so far.
    pub async fn event_reasons(&self) -> Result<Vec<String>> {
        Ok(self.events().await?.into_iter().filter_map(|event| event.reason).collect())
    }

    /// What people are told by its events so far.
    pub async fn event_texts(&self) -> Result<Vec<String>> {
        Ok(self.events().await?.into_iter().filter_map(|event| event.message).collect())
    }

    async fn events(&self) -> Result<Vec<Event>> {
        let about = format!("involvedObject.kind=KvCluster,involvedObject.name={}", self.name);
        let events = self.test.api::<Event>().list(&ListParams::default().fields(&about)).await?;
        Ok(events.items)
    }
}

/// Connects to this address, whatever name it is called by: that is for its certificate.
#[derive(Debug)]
pub(crate) struct At(pub(crate) String);

impl Connector for At {
    fn connect(&self, _name: &str) -> Connecting {
        Tcp.connect(&self.0)
    }
}

/// A condition of a KvCluster.
pub fn condition(cluster: &KvCluster, kind: &str) -> Result<Condition> {
    let conditions = cluster.status.iter().flat_map(|status| &status.conditions);
    let mut found = conditions.filter(|condition| condition.type_ == kind);
    found.next().cloned().context(format!("there is no condition {kind}"))
}
