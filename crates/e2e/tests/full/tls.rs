//! The whole CA is replaced.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource, ResourceExt as _};
use kvorum_e2e::cluster::Lives;
use kvorum_e2e::operator::{self, Local};
use kvorum_e2e::{Cluster, Context as _, Needs, Result, Test, cluster, ensure, run, run_with, tls, wait};
use serde_json::json;

const STEP: Duration = Duration::from_secs(300);
/// The whole rotation, with an operator that begins anew again and again.
const KILLED: Duration = Duration::from_secs(600);
/// Writes that a rotation takes at the least: each step one of the CA, and what follows from it.
const WRITES_MIN: usize = 9;

/// Goal: the whole CA is replaced without a request that fails, a restart or another leader, also where it was deleted.
/// Method: clients with TLS at work, a short overlap, a token; then the Secret is deleted.
#[test]
#[ignore = "needs a Kubernetes: make e2e-full"]
fn a_ca_is_replaced_under_load() {
    run("tls_rotated", Duration::from_secs(900), async |test| {
        let rotated = Rotated::begin(test).await?;
        tls::annotate(&rotated.cluster, json!({"kvorum.io/rotate-ca": "1"})).await?;
        for phase in ["Trust", "Issue", "Drop", "Required"] {
            tls::phase(&rotated.cluster, phase, STEP).await?;
            test.say(phase);
        }
        let after = rotated.ca().await?;
        ensure!(rotated.before.get("tls.crt") != after.get("tls.crt"), "the CA is the same");
        rotated.secrets.delete("demo-ca", &Default::default()).await?;
        for phase in ["Trust", "Issue", "Required"] {
            tls::phase(&rotated.cluster, phase, STEP).await?;
        }
        ensure!(rotated.ca().await?.get("tls.crt") != after.get("tls.crt"), "the CA is the same");
        rotated.end(test, "two CAs were replaced beside").await
    });
}

/// Goal: an operator that is killed after every write of a rotation leaves nothing behind that the next one does not finish,
/// and nobody feels it. Method: one that runs here, and is killed as soon as a write of one of the objects is seen.
#[test]
#[ignore = "needs a Kubernetes: make e2e-full"]
fn a_ca_is_replaced_by_operators_that_are_killed() {
    run_with(Needs::OwnOperator, "tls_killed", Duration::from_secs(1200), async |test| {
        operator::ensure_none(&test.client).await?;
        let start = || Local::start(&test.namespace, &test.namespace, "victim");
        let mut operator = start()?;
        let rotated = Rotated::begin(test).await?;

        let mut writes = writes(test).await?.boxed();
        tls::annotate(&rotated.cluster, json!({"kvorum.io/rotate-ca": "1"})).await?;
        let mut over = Box::pin(wait::until("the end of the rotation", KILLED, async || {
            let (status, now) =
                (rotated.cluster.get().await?.status.unwrap_or_default(), rotated.ca().await?);
            let phase = status.tls.unwrap_or_default().phase;
            ensure!(
                now.get("tls.crt") != rotated.before.get("tls.crt"),
                "the CA is the same, in phase {phase}"
            );
            let bundle = test.api::<ConfigMap>().get("demo-ca").await?.data.unwrap_or_default();
            let believed = bundle.get("ca.crt").context("it has no CA")?.matches("BEGIN CERTIFICATE").count();
            ensure!(believed == 1 && phase == "Required", "{believed} CAs are believed, in phase {phase}");
            Ok(())
        }));
        let mut killed = Vec::new();
        loop {
            tokio::select! {
                ended = &mut over => break ended?,
                write = writes.next() => {
                    killed.push(write.context("the watch ended")?);
                    operator.kill(&test.client, &test.namespace).await?;
                    operator = start()?;
                }
            }
        }
        drop(over);
        rotated.end(test, &format!("killed after the writes of {};", killed.join(", "))).await?;
        ensure!(killed.len() >= WRITES_MIN, "it was killed {} times only", killed.len());
        test.end_clusters().await?;
        drop(operator);
        Ok(())
    });
}

/// A cluster of which the CA is replaced, after a short overlap, and how it was before; clients with TLS are at work.
struct Rotated<'t> {
    cluster: Cluster<'t>,
    secrets: Api<Secret>,
    before: Data,
    lives: Lives,
    leader: u32,
    writing: tls::Writing,
}

type Data = BTreeMap<String, ByteString>;

impl<'t> Rotated<'t> {
    async fn begin(test: &'t Test) -> Result<Rotated<'t>> {
        let mut spec = cluster::spec(3);
        spec["tls"] = json!({"mode": "Required", "overlap": "5s"});
        let cluster = Cluster::create(test, "demo", spec).await?;
        cluster.settled(STEP).await?;
        let secrets = test.api::<Secret>();
        let (lives, leader, before) = (cluster.lives().await?, cluster.leader().await?, ca(&secrets).await?);
        let writing = tls::Writing::start(&cluster).await?;
        Ok(Rotated { cluster, secrets, before, lives, leader, writing })
    }

    async fn ca(&self) -> Result<Data> {
        ca(&self.secrets).await
    }

    /// No request has failed, no member was restarted, and the same one leads.
    async fn end(self, test: &Test, said: &str) -> Result<()> {
        test.say(format!("{said} {}", self.writing.finish().await?));
        ensure!(self.cluster.lives().await? == self.lives, "a member was restarted");
        ensure!(self.cluster.leader().await? == self.leader, "another member leads");
        Ok(())
    }
}

async fn ca(secrets: &Api<Secret>) -> Result<Data> {
    Ok(secrets.get("demo-ca").await?.data.unwrap_or_default())
}

/// Each write from now on of an object that holds certificates.
async fn writes(test: &Test) -> Result<impl Stream<Item = String> + use<>> {
    let secrets = changes(test.api::<Secret>(), "Secret").await?;
    let maps = changes(test.api::<ConfigMap>(), "ConfigMap").await?;
    Ok(stream::select(secrets, maps))
}

async fn changes<K>(api: Api<K>, kind: &'static str) -> Result<impl Stream<Item = String> + use<K>>
where
    K: Resource + Clone + std::fmt::Debug + k8s_openapi::serde::de::DeserializeOwned + Send + 'static,
{
    let version = |object: &K| (object.name_any(), object.resource_version().unwrap_or_default());
    let of_cluster = |name: &str| name.starts_with("demo-");
    let listed = api.list(&Default::default()).await?;
    let mut known: HashMap<String, String> = listed.items.iter().map(version).collect();
    let objects = watcher(api, watcher::Config::default()).default_backoff().applied_objects();
    Ok(objects.filter_map(move |object| {
        // A watch that is interrupted comes back by itself.
        let written = object.ok().map(|object| version(&object)).filter(|(name, version)| {
            of_cluster(name) && known.insert(name.clone(), version.clone()).as_ref() != Some(version)
        });
        std::future::ready(written.map(|(name, _)| format!("{kind} {name}")))
    }))
}
