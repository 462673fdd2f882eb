//! The whole CA is replaced.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kvorum_e2e::{Cluster, cluster, ensure, run, tls};
use serde_json::json;

const STEP: Duration = Duration::from_secs(300);

/// Goal: the whole CA is replaced without a request that fails, a restart or another leader, also where it was deleted.
/// Method: clients with TLS at work, a short overlap, a token; then the Secret is deleted.
#[test]
#[ignore = "needs a Kubernetes: make e2e-full"]
fn a_ca_is_replaced_under_load() {
    run("tls_rotated", Duration::from_secs(900), async |test| {
        let mut spec = cluster::spec(3);
        spec["tls"] = json!({"mode": "Required", "overlap": "5s"});
        let cluster = Cluster::create(test, "demo", spec).await?;
        cluster.settled(STEP).await?;
        let secrets = test.api::<Secret>();
        let ca =
            async || Ok::<_, kvorum_e2e::Failure>(secrets.get("demo-ca").await?.data.unwrap_or_default());
        let (lives, leader, before) = (cluster.lives().await?, cluster.leader().await?, ca().await?);
        let writing = tls::Writing::start(&cluster).await?;
        tls::annotate(&cluster, json!({"kvorum.io/rotate-ca": "1"})).await?;
        for phase in ["Trust", "Issue", "Drop", "Required"] {
            tls::phase(&cluster, phase, STEP).await?;
            test.say(phase);
        }
        let after = ca().await?;
        ensure!(before.get("tls.crt") != after.get("tls.crt"), "the CA is the same");
        secrets.delete("demo-ca", &Default::default()).await?;
        for phase in ["Trust", "Issue", "Required"] {
            tls::phase(&cluster, phase, STEP).await?;
        }
        ensure!(ca().await?.get("tls.crt") != after.get("tls.crt"), "the CA is the same");
        test.say(format!("two CAs were replaced beside {}", writing.finish().await?));
        ensure!(cluster.lives().await? == lives, "a member was restarted");
        ensure!(cluster.leader().await? == leader, "another member leads");
        Ok(())
    });
}
