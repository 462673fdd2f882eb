//! Installing: the operator with Helm, a cluster with `kubectl apply`, a program that uses it, and what
//! Prometheus sees of them.

use std::fs;
use std::time::Duration;

use kvorum_e2e::command::{helm, kubectl, kubectl_with};
use kvorum_e2e::prometheus::Prometheus;
use kvorum_e2e::{Cluster, Load, Needs, Result, ensure, operator, run, run_alone, run_with, settings, wait};

/// Goal: a new user's first minutes. Method: the commands of the README's quick start, in a namespace
/// that enforces restricted pods; then the sample of a program in the cluster, and `helm test`.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn a_new_user_has_a_cluster_within_a_minute() {
    run_with(Needs::Everything, "a_new_user", Duration::from_secs(240), async |test| {
        operator::install(operator::NAMESPACE, &[]).await?;
        let namespace = test.namespace.as_str();
        let cluster = sample("2-three-members.yaml", namespace)?;
        kubectl_with(["apply", "-n", namespace, "-f", "-"], &cluster).await?;
        let cluster = Cluster::named(test, "demo");
        let took = cluster.settled(Duration::from_secs(60)).await?;
        test.say(format!("three members ready {:.1} s after kubectl apply", took.as_secs_f64()));
        kubectl(["wait", "-n", namespace, "kvc/demo", "--for=condition=Ready", "--timeout=10s"]).await?;
        ensure!(cluster.tool(0, ["set", "greeting", "hello"]).await?.starts_with("OK"), "no answer");
        ensure!(cluster.tool(1, ["get", "greeting"]).await?.trim_end() == "hello", "no greeting");

        let sample = sample("client.yaml", namespace)?;
        let published = sample.lines().find_map(|line| line.trim().strip_prefix("image: "));
        let sample = sample.replace(published.unwrap_or_default(), &settings::image());
        kubectl_with(["apply", "-n", namespace, "-f", "-"], &sample).await?;
        wait::until("the client's first look", Duration::from_secs(30), async || {
            client(namespace, "app/greeting").await?;
            let seen = kubectl(["logs", "-n", namespace, "kvorum-client"]).await?;
            ensure!(seen.contains("PUT\tapp/greeting\thi"), "it printed {seen:?}");
            Ok(())
        })
        .await?;
        let denied = client(namespace, "greeting").await.err().map(|failure| failure.to_string());
        let denied = denied.unwrap_or_default();
        ensure!(denied.contains("permission denied"), "a key of others was answered with {denied:?}");
        helm(["test", operator::RELEASE, "-n", operator::NAMESPACE, "--timeout", "90s"]).await?;
        Ok(())
    });
}

/// A sample, which is for the namespace `default`, for another one.
fn sample(file: &str, namespace: &str) -> Result<String> {
    let text = fs::read_to_string(settings::root().join("manifests/samples").join(file))?;
    let text = text.replace("default/app", &format!("{namespace}/app"));
    Ok(text.replace("/default/demo", &format!("/{namespace}/demo")))
}

/// The program in the cluster writes a key.
async fn client(namespace: &str, key: &str) -> Result<()> {
    kubectl(["exec", "-n", namespace, "kvorum-client", "--", "kvorum", "set", key, "hi"]).await.map(drop)
}

/// Goal: Prometheus sees every member and the operator by what the chart ships, with the labels that the
/// alerts need, and no alert of a cluster that is well. Method: see `prometheus.rs`.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn prometheus_scrapes_every_member_and_the_operator() {
    run("prometheus", Duration::from_secs(150), async |test| {
        let Some(prometheus) = Prometheus::start().await? else { return Ok(()) };
        let cluster = Cluster::ready(test, "demo", 3).await?;
        let load = Load::start(&cluster, 3).await?;
        let targets = wait::until("the scrape of all targets", Duration::from_secs(30), async || {
            let targets = prometheus.discover(test).await?;
            let up = prometheus.query("sum(up)").await?;
            let up = up.first().map_or(0.0, |(_, up)| *up);
            ensure!(targets >= 5 && up == targets as f64, "{up} of {targets} targets are up");
            Ok(targets)
        })
        .await?;
        let of_cluster = format!("{{namespace=\"{}\",name=\"demo\"}}", test.namespace);
        for (metric, expected) in [
            ("kvorum_build_info", 3),
            ("kvorum_raft_has_leader", 3),
            ("kvorum_operator_cluster_members", 1),
            ("kvorum_operator_cluster_ready_members", 1),
        ] {
            let found = prometheus.query(&format!("{metric}{of_cluster}")).await?.len();
            ensure!(found == expected, "{metric} has {found} series of the cluster, not {expected}");
        }
        let mine = |name: &str| name == test.namespace;
        let alerts: Vec<_> = prometheus.alerts().await?.into_iter().filter(|a| mine(&a.namespace)).collect();
        ensure!(alerts.is_empty(), "alerts fire for a cluster that is well: {alerts:?}");
        test.say(format!("{targets} targets, all up; {}", load.finish().await?));
        Ok(())
    });
}

/// Goal: the operator can be removed and come back elsewhere, and clusters do not notice. Method:
/// uninstalled with a cluster under load, installed in another namespace over the kept definition.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn a_new_operator_takes_over_what_runs() {
    run_alone("take_over", Duration::from_secs(240), async |test| {
        let cluster = Cluster::ready(test, "demo", 3).await?;
        let (id, lives) = (cluster.id().await?, cluster.lives().await?);
        let load = Load::start(&cluster, 5).await?;
        operator::uninstall(operator::NAMESPACE).await?;
        ensure!(cluster.get().await?.status.is_some(), "the cluster went with the operator");
        // Beside the operator's own namespace, as a user might who begins anew.
        let elsewhere = format!("{}-2", operator::NAMESPACE);
        operator::install(&elsewhere, &[]).await?;
        cluster.settled(Duration::from_secs(60)).await?;
        ensure!(cluster.lives().await? == lives, "a pod was restarted");
        cluster.change(serde_json::json!({"members": 5})).await?;
        cluster.settled(Duration::from_secs(90)).await?;
        ensure!(cluster.id().await? == id, "it is another cluster now");
        let report = load.finish().await?;
        report.check_no_failure()?;
        test.say(&report);
        cluster.scale(1).await?;
        operator::uninstall(&elsewhere).await?;
        kubectl(["delete", "namespace", &elsewhere]).await?;
        operator::ensure_installed().await?;
        Ok(())
    });
}
