//! Many clusters that want nothing.

use std::time::Duration;

use kube::ResourceExt as _;
use kvorum_e2e::cluster::spec;
use kvorum_e2e::command::kubectl;
use kvorum_e2e::{Cluster, Context as _, Result, Test, ensure, operator, run_alone};
use serde_json::Value;
use tokio::time::{Instant, sleep};

const CLUSTERS: usize = 50;
/// How long they are idle: `IDLE_SECONDS`, ten minutes without it.
const IDLE_SECONDS: u64 = 600;
/// What the operator may use meanwhile.
const MEMORY_BYTES: u64 = 100 << 20;
const CORE_PERCENT: f64 = 5.0;

/// Goal: an operator of 50 idle clusters costs next to nothing. Method: the kubelet's figures of the
/// container, which are those of its control group, before and after.
#[test]
#[ignore = "needs a Kubernetes: make e2e-full"]
fn fifty_idle_clusters_cost_next_to_nothing() {
    run_alone("idle", Duration::from_secs(1500), async |test| {
        let begun = Instant::now();
        let mut clusters = Vec::new();
        for n in 0..CLUSTERS {
            clusters.push(Cluster::create(test, &format!("idle-{n}"), spec(1)).await?);
        }
        for cluster in &clusters {
            cluster.settled(Duration::from_secs(300)).await?;
        }
        test.say(format!("{CLUSTERS} clusters ready after {:.0} s", begun.elapsed().as_secs_f64()));
        sleep(Duration::from_secs(20)).await;
        let idle = Duration::from_secs(kvorum_e2e::settings::idle_seconds(IDLE_SECONDS));
        let (before, since) = (usage(test).await?, Instant::now());
        sleep(idle).await;
        let (after, lasted) = (usage(test).await?, since.elapsed());
        let percent = (after.0 - before.0) / lasted.as_secs_f64() * 100.0;
        let memory = after.1.max(before.1);
        test.say(format!(
            "in {:.0} s all operators used {percent:.2}% of a core, the largest {} MiB",
            lasted.as_secs_f64(),
            memory >> 20
        ));
        ensure!(percent < CORE_PERCENT && memory < MEMORY_BYTES, "that is too much");
        Ok(())
    });
}

/// CPU seconds of all operators since their start, and the working set of the largest one.
async fn usage(test: &Test) -> Result<(f64, u64)> {
    let (mut seconds, mut bytes) = (0.0, 0);
    for pod in operator::pods(&test.client).await? {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).context("it runs nowhere")?;
        let summary = kubectl(["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/stats/summary")]).await?;
        let summary: Value = serde_json::from_str(&summary)?;
        let pods = summary["pods"].as_array().cloned().unwrap_or_default();
        let name = pod.name_any();
        let found = pods.into_iter().find(|pod| pod["podRef"]["name"] == name.as_str());
        let container =
            found.context(format!("the kubelet says nothing of {name}"))?["containers"][0].clone();
        let used = container["cpu"]["usageCoreNanoSeconds"].as_f64().context("no CPU time")?;
        seconds += used / 1e9;
        bytes = bytes.max(container["memory"]["workingSetBytes"].as_u64().context("no memory")?);
    }
    Ok((seconds, bytes))
}
