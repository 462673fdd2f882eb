//! What a cluster is whose spec says nothing of TLS and rights.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::DeleteParams;
use kvorum_client::Error;
use kvorum_crd::AuthMode;
use kvorum_e2e::doors::Doors;
use kvorum_e2e::{Cluster, Context as _, Failure, Result, cluster, ensure, proofs, run, tls, wait};
use serde_json::{Value, json};
use tokio::time::sleep;

const CHANGE: Duration = Duration::from_secs(120);
/// How long a stranger tries once, and waits then.
const TRY: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(20);

/// Goal: a new cluster lets in nobody who does not say who he is, from its founding on, and those whom its spec
/// names. Method: a spec without a word on TLS and rights; a stranger who believes its CA and tries to write all the while
/// that it is founded; strangers without TLS, and with it; a pod with a token; the tool in a member's pod.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn a_new_cluster_is_secure_without_a_line() {
    run("defaults", Duration::from_secs(180), async |test| {
        proofs::make_account(test, "app").await?;
        let mut spec = cluster::spec(3);
        spec["access"] = json!([{
            "name": "app", "serviceAccounts": [format!("{}/app", test.namespace)],
            "keys": [{"prefix": "app/", "permission": "ReadWrite"}],
        }]);
        let cluster = Cluster::create(test, "demo", spec).await?;
        let doors = Doors::open(test, "demo", 3).await?;
        let nobody = wait::until("a CA", CHANGE, async || proofs::nobody(&cluster, &doors).await).await?;
        let mut refused = BTreeMap::<String, u32>::new();
        let let_in = async {
            loop {
                match nobody.client.set("stranger", "was here").timeout(TRY).await {
                    Ok(_) => return,
                    Err(error) => *refused.entry(error.to_string()).or_default() += 1,
                }
                sleep(PAUSE).await;
            }
        };
        tokio::select! {
            () = let_in => return Err(Failure::new("a stranger wrote while the cluster was founded")),
            ready = cluster.condition("Ready", "True", CHANGE) => drop(ready?),
        }
        eprintln!("a stranger was told until it was ready: {refused:#?}");
        let refused = nobody.client.set("app/a", "b").await;
        ensure!(matches!(refused, Err(Error::Denied { .. })), "a stranger was answered {refused:?}");
        ensure!(tls::plain(&cluster).await?.set("app/a", "b").await.is_err(), "a plain stranger was served");
        let app = proofs::service_account(&cluster, &doors, "app").await?;
        wait::until("a write with a token", CHANGE, async || {
            app.client.set("app/a", "b").await?;
            Ok(())
        })
        .await?;
        ensure!(
            cluster.tool(0, ["get", "app/a"]).await?.trim_end() == "b",
            "root in the pod sees another value"
        );
        let left = cluster.tool(0, ["get", "stranger"]).await;
        ensure!(left.is_err(), "a stranger left {left:?}");
        let policies = test.api::<NetworkPolicy>();
        policies.delete("demo", &DeleteParams::default()).await?;
        wait::until("another NetworkPolicy", CHANGE, async || Ok(policies.get("demo").await?)).await?;
        cluster.settled(CHANGE).await?;
        tls::phase(&cluster, "Required", CHANGE).await?;
        let status = cluster.get().await?.status.unwrap_or_default();
        ensure!(
            status.auth.is_some_and(|auth| auth.mode == AuthMode::Required),
            "status.auth is another one"
        );
        Ok(())
    });
}

/// Goal: a plain cluster stays plain once its line is gone, whatever is deleted around its disks. Method: the line taken
/// out; the StatefulSet deleted with its pods; the KvCluster deleted and made again over its claims. A plain client reads
/// what it wrote each time.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn a_plain_cluster_stays_plain() {
    run("stays_plain", Duration::from_secs(240), async |test| {
        let mut spec = cluster::spec(1);
        spec["storage"]["whenDeleted"] = json!("Retain");
        let cluster = Cluster::create(test, "demo", cluster::plain(spec.clone())).await?;
        cluster.settled(CHANGE).await?;
        tls::plain(&cluster).await?.set("from", "before").await?;
        let lives = cluster.lives().await?;
        cluster.change(json!({"tls": {"mode": Value::Null}})).await?;
        is_plain(&cluster).await?;
        ensure!(cluster.lives().await? == lives, "its member was restarted");

        test.api::<StatefulSet>().delete("demo", &DeleteParams::foreground()).await?;
        wait::until("another pod", CHANGE, async || {
            let now = cluster.lives().await?;
            ensure!(now.len() == 1 && now != lives, "{now:?}");
            Ok(())
        })
        .await?;
        is_plain(&cluster).await?;

        cluster.api().delete("demo", &DeleteParams::default()).await?;
        wait::until("the end of the pod", CHANGE, async || {
            ensure!(cluster.pods().await?.is_empty(), "it is there");
            Ok(())
        })
        .await?;
        let cluster = Cluster::create(test, "demo", spec).await?;
        is_plain(&cluster).await
    });
}

/// A plain client reads what it wrote, and nobody waits for anything.
async fn is_plain(cluster: &Cluster<'_>) -> Result<()> {
    cluster.settled(CHANGE).await?;
    let read = tls::plain(cluster).await?.get("from").await?.kv.context("the key is gone")?;
    ensure!(&read.value[..] == b"before", "it is {read:?}");
    let status = cluster.get().await?.status.unwrap_or_default();
    ensure!(status.tls.is_none() && status.auth.is_none(), "it has {:?} and {:?}", status.tls, status.auth);
    Ok(())
}
