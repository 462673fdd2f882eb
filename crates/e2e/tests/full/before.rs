//! An operator of an earlier release.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kvorum_e2e::cluster::spec;
use kvorum_e2e::{Cluster, Load, Needs, Result, Test, ensure, operator, run_with, settings};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::earlier::{self, Was};

/// Nothing may happen to clusters for so long after another operator has come.
const WATCHED: Duration = Duration::from_secs(30);

/// Goal: the operator of an earlier release is replaced by this one over clusters that it made, of its members: nobody
/// is restarted, no disk is touched and no write fails; told to, the clusters follow one at a time, and are looked after
/// as any other. Method: `scripts/before COMMIT` has made its image and its chart; three clusters, one of them under
/// load, and `helm upgrade` from chart to chart.
#[test]
#[ignore = "needs a Kubernetes: make e2e-full, and an earlier release: scripts/before"]
fn an_earlier_operator_is_replaced_over_what_runs() {
    run_with(Needs::Everything, "before", Duration::from_secs(900), async |test| {
        if !earlier::install().await? {
            return Ok(());
        }
        let mut clusters = Vec::new();
        for (name, members, policy) in [("a", 3, "Delete"), ("b", 3, "Retain"), ("c", 1, "Delete")] {
            let mut spec = spec(members);
            spec["storage"]["whenDeleted"] = json!(policy);
            clusters.push(Cluster::create(test, name, spec).await?);
        }
        let mut was = BTreeMap::new();
        for cluster in &clusters {
            cluster.settled(Duration::from_secs(120)).await?;
            was.insert(cluster.name().to_owned(), Was::of(cluster).await?);
        }
        let load = Load::start(&clusters[0], 5).await?;
        operator::install(operator::NAMESPACE, &[]).await?;
        let begun = Instant::now();
        while begun.elapsed() < WATCHED {
            for cluster in &clusters {
                let now = Was::of(cluster).await?;
                ensure!(now == was[cluster.name()], "{} is not as it was: {now:?}", cluster.name());
            }
            sleep(Duration::from_millis(300)).await;
        }
        for cluster in &clusters {
            cluster.settled(Duration::from_secs(60)).await?;
            cluster.condition("UpdatePending", "True", Duration::from_secs(60)).await?;
        }
        test.say("the operator was replaced; no pod restarted, and every disk is the one it was");
        follow(test, &clusters).await?;
        for cluster in &clusters {
            let disks = Was::of(cluster).await?.disks;
            ensure!(disks == was[cluster.name()].disks, "{} has other disks: {disks:?}", cluster.name());
        }
        clusters[0].scale(5).await?;
        clusters[0].scale(3).await?;
        let report = load.finish().await?;
        test.say(&report);
        report.check_no_failure()
    });
}

/// All take over the new operator's image, one at a time.
async fn follow(test: &Test, clusters: &[Cluster<'_>]) -> Result<()> {
    operator::install(operator::NAMESPACE, &["upgradeClusters=true"]).await?;
    let deadline = Instant::now() + Duration::from_secs(400);
    loop {
        let (mut away, mut pending) = (Vec::new(), 0);
        for cluster in clusters {
            let (pods, now) = (cluster.pods().await?, cluster.get().await?);
            let old = |pod: &&Pod| {
                let image = pod.spec.as_ref().and_then(|spec| spec.containers[0].image.as_ref());
                image != Some(&settings::image())
            };
            pending += pods.values().filter(old).count();
            if now.status.unwrap_or_default().ready_members < now.spec.members {
                away.push(cluster.name());
            }
        }
        ensure!(away.len() <= 1, "{away:?} are changed at once");
        if pending == 0 && away.is_empty() {
            break;
        }
        ensure!(Instant::now() < deadline, "{pending} pods have the earlier image still");
        sleep(Duration::from_millis(300)).await;
    }
    for cluster in clusters {
        cluster.settled(Duration::from_secs(60)).await?;
    }
    operator::forget();
    test.say("told to, all clusters followed, one at a time");
    Ok(())
}
