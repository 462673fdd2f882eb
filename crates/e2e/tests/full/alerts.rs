//! Alerts fire on a real cluster. Those that want a broken disk or minutes of overload are shown to fire
//! by promtool (charts/kvorum-operator/ci/rules_test.yaml), which has a case for every one.

use std::time::Duration;

use kvorum_e2e::cluster::spec;
use kvorum_e2e::prometheus::Prometheus;
use kvorum_e2e::{Cluster, Load, ensure, operator, run_alone};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

/// Goal: what an alert is about makes it fire, by what the chart ships. Method: each trouble in turn, with
/// a Prometheus that loses patience at once.
#[test]
#[ignore = "needs a Kubernetes: make e2e-full"]
fn alerts_fire_when_they_should() {
    run_alone("alerts", Duration::from_secs(600), async |test| {
        let Some(prometheus) = Prometheus::start().await? else { return Ok(()) };
        let mut with_quota = spec(3);
        with_quota["node"] = json!({"quotaBytes": 2_000_000});
        with_quota["storage"]["whenScaled"] = json!("Retain");
        let cluster = Cluster::create(test, "demo", with_quota).await?;
        cluster.settled(LIMIT).await?;
        prometheus.discover(test).await?;

        let load = Load::start(&cluster, 3).await?;
        let client = load.client().await?;
        for n in 0..18 {
            client.set(format!("bulk/{n}"), vec![0; 100_000]).await?;
        }
        prometheus.fires(test, "KvorumQuotaNearlyReached", LIMIT).await?;
        load.finish().await?;

        for n in 0..8 {
            let led = cluster.leader().await?;
            let heir = cluster.node_id((led + 1) % 3).await?;
            cluster.tool(led, ["leader", "transfer", &heir]).await?;
            cluster
                .until("another leader", LIMIT, |cluster| {
                    let leader = cluster.status.clone().unwrap_or_default().leader;
                    ensure!(
                        leader.is_some_and(|leader| leader != format!("demo-{led}")),
                        "change {n} is not seen"
                    );
                    Ok(())
                })
                .await?;
            prometheus.discover(test).await?;
        }
        prometheus.fires(test, "KvorumLeaderChanges", LIMIT).await?;

        cluster.scale(1).await?;
        cluster.change(json!({"members": 3})).await?;
        prometheus.fires(test, "KvorumStorageProblem", LIMIT).await?;
        prometheus.fires(test, "KvorumMembersNotReady", LIMIT).await?;
        cluster.scale(1).await?;

        cluster.change(json!({"image": "localhost/kvorum:no-such-tag"})).await?;
        prometheus.fires(test, "KvorumDegraded", LIMIT).await?;
        prometheus.fires(test, "KvorumQuorumLost", LIMIT).await?;
        cluster.change(json!({"image": null})).await?;
        cluster.settled(LIMIT).await?;

        operator::stand_by(&test.client, 0).await?;
        prometheus.fires(test, "KvorumOperatorDown", LIMIT).await?;
        operator::ensure_installed().await
    });
}
