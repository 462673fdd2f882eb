//! TLS: founded with it, and come to.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kvorum_crd::TlsMode;
use kvorum_e2e::{Cluster, cluster, ensure, run, tls, wait};
use serde_json::{Value, json};

const CHANGE: Duration = Duration::from_secs(180);

fn spec(mode: &str) -> Value {
    let mut spec = cluster::spec(3);
    spec["tls"] = json!({"mode": mode});
    spec
}

/// Goal: a cluster that is founded with TLS speaks nothing else, `kubectl exec` works as before, and its members are
/// replaced without a request that fails. Method: clients with TLS at work during a rolling restart; a plain client; the
/// tool in a member's pod.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn a_cluster_is_founded_with_tls() {
    run("tls_founded", Duration::from_secs(300), async |test| {
        let cluster = Cluster::create(test, "demo", spec("Required")).await?;
        let took = cluster.settled(CHANGE).await?;
        test.say(format!("3 members ready after {:.1} s", took.as_secs_f64()));
        test.api::<NetworkPolicy>().get("demo").await?;
        let said = cluster.tool(0, ["status"]).await?;
        ensure!(said.contains("3 members, 3 voting"), "kvorum in the pod says: {said}");
        ensure!(tls::plain(&cluster).await?.set("a", "b").await.is_err(), "a plain client was served");
        let writing = tls::Writing::start(&cluster).await?;
        cluster.change(json!({"node": {"logLevel": "warn"}})).await?;
        cluster.settled(CHANGE).await?;
        test.say(format!("a rolling restart with TLS beside {}", writing.finish().await?));
        // What somebody deletes is made anew; members go on with what they have.
        let lives = cluster.lives().await?;
        let secrets = test.api::<Secret>();
        secrets.delete("demo-root-tls", &Default::default()).await?;
        wait::until("root's certificate", CHANGE, async || {
            secrets.get("demo-root-tls").await?;
            Ok(())
        })
        .await?;
        ensure!(cluster.lives().await? == lives, "a member was restarted");
        tls::phase(&cluster, "Required", CHANGE).await
    });
}

/// Goal: a plain cluster comes to speak TLS only, and goes back, without a request that fails. Method: plain clients at
/// work until there are others with TLS; the mode that is wanted is the last one at once, so that the operator has to find
/// the way.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn a_plain_cluster_comes_to_speak_tls_and_goes_back() {
    run("tls_moved", Duration::from_secs(420), async |test| {
        let cluster = Cluster::create(test, "demo", spec("Disabled")).await?;
        cluster.settled(CHANGE).await?;
        let plain = tls::Writing::plain(&cluster).await?;
        cluster.change(json!({"tls": {"mode": "Optional"}})).await?;
        tls::speaks(&cluster, TlsMode::Optional, CHANGE).await?;
        let writing = tls::Writing::start(&cluster).await?;
        test.say(format!("plain to Optional beside {}", plain.finish().await?));
        cluster.change(json!({"tls": {"mode": "Required"}})).await?;
        tls::speaks(&cluster, TlsMode::Required, CHANGE).await?;
        ensure!(tls::plain(&cluster).await?.set("a", "b").await.is_err(), "a plain client was served");
        test.say(format!("Optional to Required beside {}", writing.finish().await?));
        cluster.change(json!({"tls": {"mode": "Disabled"}})).await?;
        tls::speaks(&cluster, TlsMode::Disabled, CHANGE).await?;
        tls::plain(&cluster).await?.set("a", "b").await?;
        Ok(())
    });
}
