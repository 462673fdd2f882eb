//! Specs that cannot be: refused with a sentence, or explained by a condition, and nothing that runs is
//! touched.

use std::time::Duration;

use kvorum_crd::KvCluster;
use kvorum_e2e::cluster::condition;
use kvorum_e2e::command::kubectl_with;
use kvorum_e2e::{Cluster, ensure, run};
use serde_json::json;

/// Goal: the API server refuses what its rules can see. Method: each bad spec, as kubectl applies it.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn bad_specs_are_refused_with_a_sentence() {
    run("bad_specs", Duration::from_secs(240), async |test| {
        let cluster = Cluster::ready(test, "demo", 3).await?;
        for (spec, sentence) in [
            ("{members: 0}", "should be greater than or equal to 1"),
            ("{members: 8}", "should be less than or equal to 7"),
            ("{members: 3, storage: {size: 500Mi}}", "spec.storage.size cannot shrink"),
            ("{members: 3, storage: {size: 0}}", "must be a quantity above zero"),
            ("{members: 3, storage: {size: 1Gi, storageClassName: other}}", "storageClassName cannot change"),
            ("{member: 3}", "unknown field \"spec.member\""),
            ("{members: 3, pod: {replicas: 2}}", "unknown field \"spec.pod.replicas\""),
            ("{members: 3, node: {electionTimeoutMs: 1}}", "should be greater than or equal to 100"),
        ] {
            let object = format!(
                "{{apiVersion: kvorum.io/v1alpha1, kind: KvCluster, metadata: {{name: demo}}, spec: {spec}}}"
            );
            let namespace = test.namespace.as_str();
            let refused = kubectl_with(["apply", "-n", namespace, "-f", "-"], &object).await.err();
            let said = refused.map(|failure| failure.to_string()).unwrap_or_default();
            ensure!(said.contains(sentence), "{spec} was answered with {said:?}");
        }
        let long = "{apiVersion: kvorum.io/v1alpha1, kind: KvCluster, metadata: {name: \
                    a-name-that-is-longer-than-forty-letters-is}, spec: {}}";
        let refused = kubectl_with(["apply", "-n", &test.namespace, "-f", "-"], long).await.err();
        let said = refused.map(|failure| failure.to_string()).unwrap_or_default();
        ensure!(said.contains("at most 40"), "a long name was answered with {said:?}");

        // What only the cluster can tell: no machine is that large; there is no such image.
        for (change, back, word) in [
            (
                json!({"pod": {"resources": {"requests": {"memory": "9Ti"}, "limits": {"memory": "9Ti"}}}}),
                json!({"pod": {"resources": {"requests": {"memory": "64Mi"}, "limits": {"memory": "704Mi"}}}}),
                "Insufficient memory",
            ),
            (json!({"image": "localhost/kvorum:no-such-tag"}), json!({"image": null}), "no-such-tag"),
        ] {
            let (leader, lives) = (cluster.leader().await?, cluster.lives().await?);
            cluster.change(change).await?;
            let says = |cluster: &KvCluster| {
                let told = condition(cluster, "Degraded")?;
                ensure!(told.status == "True" && told.message.contains(word), "it says {}", told.message);
                Ok(())
            };
            cluster.until(&format!("a condition that says {word:?}"), Duration::from_secs(90), says).await?;
            test.say(condition(&cluster.get().await?, "Degraded")?.message);
            let now = cluster.lives().await?;
            let touched: Vec<u32> = (0..3).filter(|i| now.get(i) != lives.get(i)).collect();
            ensure!(touched.len() <= 1 && !touched.contains(&leader), "members {touched:?} were touched");
            ensure!(cluster.tool(leader, ["set", "a", "b"]).await?.starts_with("OK"), "no write is taken");
            cluster.change(back).await?;
            cluster.settled(Duration::from_secs(90)).await?;
        }
        cluster.change(json!({"members": 4})).await?;
        cluster.settled(Duration::from_secs(60)).await?;
        let told = cluster.condition("Available", "True", Duration::from_secs(10)).await?;
        ensure!(told.reason == "EvenMembers", "four members are not remarked on: {}", told.message);
        Ok(())
    });
}
