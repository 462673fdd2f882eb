//! One test: its namespace, its time, and what is kept when it fails.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use kvorum_crd::KvCluster;
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::turns::{Needs, Turn};
use crate::{Context as _, Failure, Result, gather, operator, wait};

/// How long clusters may take to go after a test.
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(60);

/// A test that runs.
pub struct Test {
    /// The API server's client.
    pub client: Client,
    /// A namespace of its own, in which pods must be restricted.
    pub namespace: String,
    name: &'static str,
    begun: Instant,
}

/// Runs a test that shares the operator, installed as users have it, with others. It fails when it takes longer than
/// `limit`; then, as after every failure, `target/e2e/NAME` has what one needs, and the namespace stays.
///
/// # Panics
///
/// When the test fails.
pub fn run(name: &'static str, limit: Duration, body: impl AsyncFnOnce(&Test) -> Result<()>) {
    run_with(Needs::Operator, name, limit, async |test| {
        operator::ensure_installed().await?;
        body(test).await
    });
}

/// The same for a test that does something to machines or operators: no other runs beside it. The operator is
/// installed.
///
/// # Panics
///
/// When the test fails.
pub fn run_alone(name: &'static str, limit: Duration, body: impl AsyncFnOnce(&Test) -> Result<()>) {
    run_with(Needs::Everything, name, limit, async |test| {
        operator::ensure_installed().await?;
        body(test).await
    });
}

/// The same for a test that sees to the operator itself.
///
/// # Panics
///
/// When the test fails.
pub fn run_with(
    needs: Needs,
    name: &'static str,
    limit: Duration,
    body: impl AsyncFnOnce(&Test) -> Result<()>,
) {
    let mut turn = Turn::wait(needs);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("a process may have a few file descriptors");
    let outcome = runtime.block_on(async {
        let test = Test::open(name).await?;
        let ended = timeout(limit, body(&test)).await;
        match ended.unwrap_or_else(|_| Err(Failure::new(format!("it took longer than {limit:?}")))) {
            Ok(()) => {
                test.say(format!("passed in {:.1} s", test.begun.elapsed().as_secs_f64()));
                turn.leave();
                test.clean_up().await
            }
            Err(failure) => {
                let kept = gather::everything(&test.namespace, name).await;
                Err(Failure::new(format!("{name}: {failure}\nwhat was gathered is in {}", kept.display())))
            }
        }
    });
    drop(turn);
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

impl Test {
    async fn open(name: &'static str) -> Result<Test> {
        let client = Client::try_default().await.context("reach the API server that KUBECONFIG names")?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let wanted = serde_json::from_value(json!({"metadata": {
            "generateName": format!("e2e-{}-", name.replace('_', "-")),
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        }}))?;
        let made = namespaces.create(&PostParams::default(), &wanted).await.context("make a namespace")?;
        Ok(Test { client, namespace: made.name_any(), name, begun: Instant::now() })
    }

    /// Prints a line for whoever watches the run; the figures are in such lines.
    pub fn say(&self, line: impl std::fmt::Display) {
        eprintln!("e2e {:>7.1} s {}: {line}", self.begun.elapsed().as_secs_f64(), self.name);
    }

    /// Objects of the test's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The clusters go with their disks, and then the namespace goes by itself.
    async fn clean_up(&self) -> Result<()> {
        self.end_clusters().await?;
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Deletes all clusters with their disks, and waits until they are gone. A test with operators of its own does it
    /// while it still has one.
    pub async fn end_clusters(&self) -> Result<()> {
        let clusters = self.api::<KvCluster>();
        let with_disks =
            Patch::Merge(json!({"spec": {"paused": false, "storage": {"whenDeleted": "Delete"}}}));
        for cluster in clusters.list(&ListParams::default()).await? {
            clusters.patch(&cluster.name_any(), &PatchParams::default(), &with_disks).await?;
            clusters.delete(&cluster.name_any(), &DeleteParams::default()).await?;
        }
        wait::until("the end of the test's clusters", CLEAN_UP_LIMIT, async || {
            let left = clusters.list(&ListParams::default()).await?.items.len();
            crate::ensure!(left == 0, "{left} are left");
            Ok(())
        })
        .await
    }
}
