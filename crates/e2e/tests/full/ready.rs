//! What it costs to begin securely.

use std::time::Duration;

use kvorum_e2e::{Cluster, Result, Test, cluster, ensure, run_alone};
use serde_json::{Value, json};

const READY: Duration = Duration::from_secs(180);
const ROUNDS: usize = 6;
/// A cluster with everything on is ready so long after a plain one, at the most.
const MORE: Duration = Duration::from_secs(10);

/// Goal: TLS, rights and a NetworkPolicy, as every new cluster has them, cost its beginning little. Method: clusters with
/// all of it and plain ones by turns, each alone on the Kubernetes; the difference in the middle of all.
#[test]
#[ignore = "needs a Kubernetes: make e2e-full"]
fn a_secure_cluster_is_ready_nearly_as_soon() {
    run_alone("ready", Duration::from_secs(1200), async |test| {
        let mut more = Vec::new();
        for round in 0..ROUNDS {
            let mut took = [Duration::ZERO; 2];
            for turn in 0..2 {
                let secure = (round + turn) % 2;
                took[secure] = ready(test, &format!("r{round}-{turn}"), secure == 1).await?;
            }
            let [plain, secure] = took.map(|took| took.as_secs_f64());
            test.say(format!("ready after {plain:.1} s plain, {secure:.1} s with everything on"));
            more.push(secure - plain);
        }
        more.sort_by(f64::total_cmp);
        let middle = more[ROUNDS / 2];
        test.say(format!(
            "everything on takes {middle:.1} s more in the middle, {:.1} at most",
            more[ROUNDS - 1]
        ));
        ensure!(middle <= MORE.as_secs_f64(), "that is more than {MORE:?}");
        Ok(())
    });
}

/// Makes a cluster of three, and ends it once it was ready.
async fn ready(test: &Test, name: &str, secure: bool) -> Result<Duration> {
    let mut spec = cluster::spec(3);
    if secure {
        let mine: Value = json!({"name": "app", "serviceAccounts": [format!("{}/app", test.namespace)],
                                 "keys": [{"prefix": "app/", "permission": "ReadWrite"}]});
        spec["access"] = json!([mine]);
    } else {
        spec = cluster::plain(spec);
    }
    let cluster = Cluster::create(test, name, spec).await?;
    let took = cluster.settled(READY).await?;
    test.end_clusters().await?;
    Ok(took)
}
