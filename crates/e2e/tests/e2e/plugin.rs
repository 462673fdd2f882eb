//! `kubectl kvorum`, as a person at a terminal far from the cluster has it.

use std::process::Stdio;
use std::time::Duration;

use kvorum_e2e::command::{built, plugin};
use kvorum_e2e::{Cluster, Context as _, Failure, Result, Test, ensure, run};
use serde_json::Value;
use tokio::process::Command;

/// Goal: everything that the plugin promises of a cluster that is well: it shows it, reads and writes its keys, hands
/// leadership over, restarts it, foresees, drills and reports. Method: the plugin itself, whose only way is the API server.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn a_person_far_away_sees_and_keeps_a_cluster() {
    run("plugin", Duration::from_secs(240), async |test| {
        let cluster = Cluster::ready(test, "demo", 3).await?;
        let n = test.namespace.as_str();
        let shown = json(["status", "demo", "-n", n, "-o", "json"]).await?;
        ensure!(shown["ready"] == true && shown["members"][2]["capacity"] == "1Gi", "{shown}");
        test.say(plugin(["status", "demo", "-n", n]).await?);
        keys(n).await?;
        foresees(test, &cluster).await?;
        let leader = cluster.leader().await?;
        let other = format!("demo-{}", (leader + 1) % 3);
        let told = plugin(["transfer", "demo", &other, "-n", n]).await?;
        ensure!(told.trim_end() == format!("{other} leads"), "{told}");
        cluster.settled(Duration::from_secs(30)).await?;
        let drill = plugin(["drill", "demo", "--lose", "leader,pod", "--yes", "-n", n, "-o", "json"]).await?;
        let lines = drill.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        ensure!(lines.len() == 3 && lines[2]["kept"] == true, "{drill}");
        test.say(format!("leader {}, pod {}", lines[0], lines[1]));
        completes(n).await?;
        let mut watched = Command::new(built("kubectl-kvorum")?);
        watched.args(["status", "demo", "-w", "-n", n]).stdout(Stdio::piped()).kill_on_drop(true);
        let mut watched = watched.spawn()?;
        restarts(test, &cluster).await?;
        watched.start_kill()?;
        let shown = watched.wait_with_output().await?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let heads: Vec<&str> = shown.lines().filter(|line| line.contains("members ready")).collect();
        ensure!(heads.len() > 2, "a restart was not seen: {shown}");
        ensure!(heads.iter().any(|head| head.contains("2 of 3 members ready")), "{heads:#?}");
        reports(test).await
    });
}

async fn json<const N: usize>(arguments: [&str; N]) -> Result<Value> {
    Ok(serde_json::from_str(&plugin(arguments).await?)?)
}

/// What kubectl and shells ask for.
async fn completes(n: &str) -> Result<()> {
    let names = plugin(["__complete", "--", "-n", n, "status", "de"]).await?;
    ensure!(names == "demo\n:4\n", "{names:?}");
    let commands = plugin(["__complete", "--", "re"]).await?;
    ensure!(commands == "restart\nrecover\nrelease\nreport\n:4\n", "{commands:?}");
    let script = plugin(["completion", "kubectl"]).await?;
    ensure!(script.starts_with("#!/bin/sh\nexec kubectl-kvorum __complete"), "{script}");
    ensure!(plugin(["completion", "bash"]).await?.contains("kubectl-kvorum"), "nothing for bash");
    Ok(())
}

async fn keys(n: &str) -> Result<()> {
    plugin(["set", "demo", "greeting", "hello", "-n", n]).await?;
    ensure!(plugin(["get", "demo", "greeting", "-n", n]).await? == "hello", "it is not what was written");
    let scanned = plugin(["scan", "demo", "-n", n]).await?;
    ensure!(scanned == "greeting\thello\n", "{scanned}");
    plugin(["del", "demo", "greeting", "-n", n]).await?;
    let Err(missing) = plugin(["get", "demo", "greeting", "-n", n]).await else {
        return Err(Failure::new("a key that was deleted is there"));
    };
    ensure!(missing.to_string().contains("exit status: 3"), "{missing}");
    let Err(nobody) = plugin(["get", "nobody", "k", "-n", n]).await else {
        return Err(Failure::new("a KvCluster that is not there answered"));
    };
    ensure!(nobody.to_string().contains("there is no KvCluster nobody"), "{nobody}");
    Ok(())
}

/// What is foreseen changes nothing, and is what the operator would do.
async fn foresees(test: &Test, cluster: &Cluster<'_>) -> Result<()> {
    let n = test.namespace.as_str();
    let lives = cluster.lives().await?;
    let rest = json(["plan", "demo", "-n", n, "-o", "json"]).await?;
    ensure!(rest["settled"] == true && rest["steps"] == Value::Array(vec![]), "{rest}");
    let machine = cluster.machine(2).await?;
    let lost = json(["plan", "demo", "--lose-machine", &machine, "-n", n, "-o", "json"]).await?;
    ensure!(lost["writes_interrupted"] == false && lost["lost"].as_str().is_some(), "{lost}");
    test.say(plugin(["plan", "demo", "--lose-machine", &machine, "-n", n]).await?);
    test.say(plugin(["plan", "demo", "--image", "kvorum:next", "-n", n]).await?);
    ensure!(cluster.lives().await? == lives, "a plan has changed something");
    Ok(())
}

/// Each pod is another one after a restart, and the cluster is as before.
async fn restarts(test: &Test, cluster: &Cluster<'_>) -> Result<()> {
    let before = cluster.lives().await?;
    plugin(["restart", "demo", "-n", &test.namespace]).await?;
    let took = cluster.settled(Duration::from_secs(90)).await?;
    let after = cluster.lives().await?;
    let same = before.iter().find(|(ordinal, life)| after.get(ordinal).is_some_and(|now| now.0 == life.0));
    ensure!(same.is_none(), "{same:?} is the pod of before");
    test.say(format!("restarted in {:.1} s", took.as_secs_f64()));
    Ok(())
}

async fn reports(test: &Test) -> Result<()> {
    plugin(["set", "demo", "secret-key", "secret-value", "-n", &test.namespace]).await?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("report.tar");
    let file = path.to_str().context("a path of plain text")?;
    test.say(plugin(["report", "demo", "--file", file, "-n", &test.namespace]).await?);
    let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
    for part in ["kvcluster.yaml", "members/demo-0/metrics.txt", "kvorum_build_info", "plan.txt", "operator/"]
    {
        ensure!(text.contains(part), "the report lacks {part}");
    }
    ensure!(!text.contains("secret-"), "the report has a key or a value");
    Ok(())
}
