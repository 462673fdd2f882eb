//! More members, fewer members, larger disks.

use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::ListParams;
use kvorum_e2e::{Cluster, Load, ensure, run, wait};
use serde_json::json;

/// Goal: members come and go under load, the leader among them, and no write fails. Method: `kubectl
/// scale`, one size after the other.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn members_come_and_go_under_load() {
    run("scale", Duration::from_secs(240), async |test| {
        let cluster = Cluster::ready(test, "demo", 3).await?;
        let load = Load::start(&cluster, 5).await?;
        for members in [5, 3, 1, 3] {
            cluster.scale(members).await?;
        }
        wait::until("the end of what is no longer wanted", Duration::from_secs(30), async || {
            let claims = test.api::<PersistentVolumeClaim>().list(&ListParams::default()).await?.items.len();
            ensure!(claims == 3, "{claims} claims are left");
            Ok(())
        })
        .await?;
        let report = load.finish().await?;
        report.check_no_failure()?;
        test.say(report);
        Ok(())
    });
}

/// Goal: volumes grow without a restart. Method: the capacities follow the spec, and every pod is the
/// one it was.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn claims_grow_and_no_pod_restarts() {
    run("grow", Duration::from_secs(120), async |test| {
        let cluster = Cluster::ready(test, "demo", 3).await?;
        let lives = cluster.lives().await?;
        let load = Load::start(&cluster, 3).await?;
        cluster.change(json!({"storage": {"size": "2Gi"}})).await?;
        let took = cluster.settled(Duration::from_secs(60)).await?;
        for ordinal in 0..3 {
            let status = cluster.claim(ordinal).await?.status.unwrap_or_default();
            let capacity = status.capacity.and_then(|capacity| capacity.get("storage").cloned());
            ensure!(capacity.as_ref().is_some_and(|c| c.0 == "2Gi"), "claim {ordinal} has {capacity:?}");
        }
        ensure!(cluster.lives().await? == lives, "a pod was restarted");
        let report = load.finish().await?;
        report.check_no_failure()?;
        test.say(format!("1 to 2 GiB in {:.1} s; {report}", took.as_secs_f64()));
        Ok(())
    });
}
