//! The same name again and again: what is deleted and made anew, twenty times each.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use kvorum_e2e::cluster::spec;
use kvorum_e2e::command::{helm, kubectl, kubectl_with};
use kvorum_e2e::{Cluster, Needs, Result, Test, ensure, operator, run, run_with, wait};
use serde_json::json;
use tokio::time::Instant;

const TIMES: usize = 20;
/// From a deletion to a cluster that is ready again.
const AGAIN_LIMIT: Duration = Duration::from_secs(90);
/// A namespace is gone by then, with all that was in it.
const GONE_LIMIT: Duration = Duration::from_secs(90);

/// Goal: a KvCluster that is deleted and made again at once never meets the claims of the one before. Method: `kubectl
/// replace --force`, with disks that go with the cluster; each is another cluster, without the data of before.
#[test]
#[ignore = "needs a Kubernetes: make e2e-full"]
fn a_cluster_is_replaced_by_force_twenty_times() {
    run("replaced", Duration::from_secs(1200), async |test| {
        let cluster = Cluster::ready(test, "demo", 1).await?;
        let object = json!({
            "apiVersion": "kvorum.io/v1alpha1", "kind": "KvCluster", "metadata": {"name": "demo"}, "spec": spec(1),
        });
        let (mut before, mut slowest) = (cluster.id().await?, Duration::ZERO);
        for round in 0..TIMES {
            cluster.tool(0, ["set", "round", &round.to_string()]).await?;
            let begun = Instant::now();
            let namespace = test.namespace.as_str();
            kubectl_with(["replace", "--force", "-n", namespace, "-f", "-"], &object.to_string()).await?;
            cluster.settled(AGAIN_LIMIT).await?;
            slowest = slowest.max(begun.elapsed());
            let now = cluster.id().await?;
            ensure!(now != before, "round {round}: it is the cluster of before, whose disks were to go");
            ensure!(
                cluster.tool(0, ["get", "round"]).await.is_err(),
                "round {round}: it has the data of before"
            );
            before = now;
        }
        test.say(format!("replaced {TIMES} times, ready again after {:.1} s at most", slowest.as_secs_f64()));
        Ok(())
    });
}

/// Goal: `helm test` passes however often it is run. Method: twenty times, one right after the other.
#[test]
#[ignore = "needs a Kubernetes: make e2e-full"]
fn helm_test_passes_twenty_times() {
    run_with(Needs::Everything, "helm_tests", Duration::from_secs(1200), async |test| {
        operator::ensure_installed().await?;
        for _ in 0..TIMES {
            helm(["test", operator::RELEASE, "-n", operator::NAMESPACE, "--timeout", "90s"]).await?;
        }
        test.say(format!("passed {TIMES} times"));
        Ok(())
    });
}

/// Goal: a namespace with a cluster goes whenever it is deleted, whatever its disks' policy. Method: twenty namespaces,
/// one after the other, deleted with a cluster that is ready or still being made.
#[test]
#[ignore = "needs a Kubernetes: make e2e-full"]
fn a_namespace_with_a_cluster_goes_twenty_times() {
    run("namespaces", Duration::from_secs(1200), async |test| {
        let mut slowest = Duration::ZERO;
        for round in 0..TIMES {
            slowest = slowest.max(one_namespace(test, round).await?);
        }
        test.say(format!("{TIMES} namespaces gone, after {:.1} s at most", slowest.as_secs_f64()));
        Ok(())
    });
}

async fn one_namespace(test: &Test, round: usize) -> Result<Duration> {
    let name = format!("{}-{round}", test.namespace);
    let namespaces: Api<Namespace> = Api::all(test.client.clone());
    namespaces.create(&PostParams::default(), &namespace(&name)?).await?;
    let mut spec = spec(1);
    spec["storage"]["whenDeleted"] = json!(if round.is_multiple_of(2) { "Delete" } else { "Retain" });
    let object = json!({
        "apiVersion": "kvorum.io/v1alpha1", "kind": "KvCluster", "metadata": {"name": "demo"}, "spec": spec,
    });
    kubectl_with(["apply", "-n", &name, "-f", "-"], &object.to_string()).await?;
    // Every third goes while its cluster is being made.
    if round % 3 != 2 {
        kubectl(["wait", "-n", &name, "kvc/demo", "--for=condition=Ready", "--timeout=90s"]).await?;
    }
    gone(test, &name).await
}

fn namespace(name: &str) -> Result<Namespace> {
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    Ok(serde_json::from_value::<Namespace>(json!({"metadata": {"name": name, "labels": labels}}))?)
}

/// Deletes a namespace, and answers after how long it was gone.
async fn gone(test: &Test, name: &str) -> Result<Duration> {
    let namespaces: Api<Namespace> = Api::all(test.client.clone());
    let begun = Instant::now();
    namespaces.delete(name, &DeleteParams::default()).await?;
    wait::until(&format!("the end of namespace {name}"), GONE_LIMIT, async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let left = namespaces.get_opt(name).await?;
        let conditions =
            left.as_ref().and_then(|left| left.status.clone()).and_then(|status| status.conditions);
        ensure!(left.is_none(), "it is there: {:?}", conditions.unwrap_or_default());
        Ok(())
    })
    .await?;
    Ok(begun.elapsed())
}

/// Goal: where an operator's rights end with the namespace that it watches, a KvCluster there goes with it all the same.
/// Method: a release that watches one namespace, which is deleted with clusters of either policy; five times.
#[test]
#[ignore = "needs a Kubernetes: make e2e-full"]
fn a_namespace_goes_with_its_operators_rights() {
    run_with(Needs::Everything, "rights_end", Duration::from_secs(900), async |test| {
        operator::ensure_none(&test.client).await?;
        for round in 0..5 {
            let name = format!("{}-{round}", test.namespace);
            let namespaces: Api<Namespace> = Api::all(test.client.clone());
            namespaces.create(&PostParams::default(), &namespace(&name)?).await?;
            let watched = format!("watchNamespaces={{{name}}}");
            operator::install(&test.namespace, &[&watched, "crds.install=false", "replicas=1"]).await?;
            for (cluster, policy) in [("a", "Delete"), ("b", "Retain")] {
                let mut spec = spec(1);
                spec["storage"]["whenDeleted"] = json!(policy);
                let object = json!({
                    "apiVersion": "kvorum.io/v1alpha1", "kind": "KvCluster", "metadata": {"name": cluster}, "spec": spec,
                });
                kubectl_with(["apply", "-n", &name, "-f", "-"], &object.to_string()).await?;
            }
            for cluster in ["kvc/a", "kvc/b"] {
                kubectl(["wait", "-n", &name, cluster, "--for=condition=Ready", "--timeout=90s"]).await?;
            }
            let took = gone(test, &name).await?;
            test.say(format!("gone with its operator's rights after {:.1} s", took.as_secs_f64()));
            operator::uninstall(&test.namespace).await?;
        }
        Ok(())
    });
}
