//! Rolling changes: no write fails, followers first, the leader last.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{Cluster, Load, Result, ensure, settings};

/// What a rolling change may cost a single write.
const SLOWEST: Duration = Duration::from_secs(1);

/// Changes an image, then a configuration, with clients at work; the pods' uids tell the order in which
/// they were replaced.
pub async fn rollouts(cluster: &Cluster<'_>, members: u32) -> Result<()> {
    let test = cluster.test();
    let changes = [
        ("image", json!({"image": settings::image_next()})),
        ("configuration", json!({"node": {"logLevel": "warn"}})),
    ];
    for (what, change) in changes {
        let load = Load::start(cluster, members).await?;
        let begun = Instant::now();
        roll(cluster, change).await?;
        let took = begun.elapsed();
        let report = load.finish().await?;
        test.say(format!("{what} of {members} members in {:.1} s; {report}", took.as_secs_f64()));
        report.check_no_failure()?;
        report.check_slowest(SLOWEST)?;
    }
    Ok(())
}

/// Changes the spec, and watches that followers are replaced first and one at a time.
async fn roll(cluster: &Cluster<'_>, change: Value) -> Result<()> {
    let leader = cluster.leader().await?;
    let before = uids(&cluster.pods().await?);
    cluster.change(change).await?;
    let mut order = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(120);
    while order.len() < before.len() {
        ensure!(Instant::now() < deadline, "only {order:?} were replaced in two minutes");
        let pods = cluster.pods().await?;
        for (ordinal, uid) in uids(&pods) {
            if before.get(&ordinal).is_some_and(|old| *old != uid) && !order.contains(&ordinal) {
                order.push(ordinal);
            }
        }
        let away = pods.values().filter(|pod| !is_ready(pod)).count();
        ensure!(away <= 1, "{away} members are away at a time");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ensure!(order.last() == Some(&leader), "member {leader} led, and {order:?} was the order");
    cluster.settled(Duration::from_secs(60)).await?;
    Ok(())
}

fn uids(pods: &BTreeMap<u32, Pod>) -> BTreeMap<u32, String> {
    pods.iter().map(|(ordinal, pod)| (*ordinal, pod.uid().unwrap_or_default())).collect()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}
