//! A cluster is founded once.

use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kvorum_e2e::cluster::{CHANGE_LIMIT, spec};
use kvorum_e2e::{Cluster, Load, ensure, operator, run, run_alone, wait};
use serde_json::json;

/// Goal: whatever is lost at once, ordinal 0 never founds a second cluster. Method: its disk goes, the
/// status is erased and every operator is ended at the same moment; the others still have the data.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn a_wiped_first_member_never_founds_a_second_cluster() {
    run_alone("founded_once", Duration::from_secs(180), async |test| {
        let cluster = Cluster::ready(test, "demo", 3).await?;
        let (id, node_id) = (cluster.id().await?, cluster.node_id(0).await?);
        let load = Load::start(&cluster, 3).await?;
        let erased = Patch::Merge(json!({"status": null}));
        let (api, params) = (cluster.api(), PatchParams::default());
        let (lost, restarted, erased) = tokio::join!(
            cluster.lose_disk(0),
            operator::restart(&test.client),
            api.patch_status("demo", &params, &erased),
        );
        lost?;
        restarted?;
        erased?;
        cluster.has_another_disk(0, &node_id, Duration::from_secs(90)).await?;
        cluster.settled(Duration::from_secs(60)).await?;
        ensure!(cluster.id().await? == id, "a second cluster was founded");
        ensure!(cluster.voters().await?.len() == 3, "not all vote");
        let report = load.finish().await?;
        report.check_no_failure()?;
        test.say(report);
        Ok(())
    });
}

/// Goal: a KvCluster that is deleted and made again over its claims is the same cluster, with its data.
/// Method: writers before and after; a key from before is read after.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn retained_claims_are_adopted_with_their_data() {
    run("adopted", Duration::from_secs(300), async |test| {
        let mut retained = spec(3);
        retained["storage"]["whenDeleted"] = json!("Retain");
        let cluster = Cluster::create(test, "demo", retained.clone()).await?;
        cluster.settled(CHANGE_LIMIT).await?;
        let id = cluster.id().await?;
        cluster.tool(0, ["set", "from", "before"]).await?;
        cluster.api().delete("demo", &DeleteParams::default()).await?;
        wait::until("the end of all pods", Duration::from_secs(60), async || {
            let left = cluster.pods().await?.len();
            ensure!(left == 0, "{left} are left");
            Ok(())
        })
        .await?;
        let claims = test.api::<PersistentVolumeClaim>().list(&ListParams::default()).await?.items.len();
        ensure!(claims == 3, "{claims} claims were retained");
        let cluster = Cluster::create(test, "demo", retained).await?;
        cluster.settled(CHANGE_LIMIT).await?;
        ensure!(cluster.id().await? == id, "it is another cluster");
        ensure!(cluster.tool(2, ["get", "from"]).await?.trim_end() == "before", "the data is lost");
        let load = Load::start(&cluster, 3).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        test.say(load.finish().await?);
        Ok(())
    });
}
