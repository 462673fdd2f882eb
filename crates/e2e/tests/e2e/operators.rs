//! Operators that are upgraded, killed, halted, or two at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use kube::runtime::{WatchStreamExt as _, watcher};
use kvorum_client::admin::v1::LogId;
use kvorum_crd::StepRecord;
use kvorum_e2e::cluster::spec;
use kvorum_e2e::load::Voters;
use kvorum_e2e::operator::{self, Local};
use kvorum_e2e::{Cluster, Context as _, Load, Needs, Result, Test, ensure, run_alone, run_with, settings};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// The steps on whose events the operator is killed: all that a cluster's life has, risky ones and
/// others.
const DEADLY: [&str; 13] = [
    "CreateStatefulSet",
    "RecordDisk",
    "Latch",
    "Initialize",
    "AddLearner",
    "ChangeVoters",
    "Grow",
    "Shrink",
    "DeleteClaim",
    "DeletePod",
    "TransferLeader",
    "GrowClaim",
    "RecreateStatefulSet",
];

/// Goal: an operator that is killed between any two steps leaves nothing behind that the next one does
/// not finish. Method: a cluster's whole life under load, with an operator that is killed on the first
/// event of each kind; the simulation of the plan has every other point.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn an_operator_that_is_killed_on_any_event_is_no_loss() {
    run_with(Needs::OwnOperator, "killed_operator", Duration::from_secs(420), async |test| {
        operator::ensure_none(&test.client).await?;
        let assassin = Assassin::begin(test)?;
        let cluster = Cluster::ready(test, "demo", 3).await?;
        let id = cluster.id().await?;
        let load = Load::start(&cluster, 5).await?;
        let voters = Voters::follow(load.client().await?);
        cluster.scale(5).await?;
        cluster.scale(3).await?;
        let node_id = cluster.node_id(1).await?;
        cluster.lose_disk(1).await?;
        cluster.has_another_disk(1, &node_id, Duration::from_secs(60)).await?;
        cluster.settled(Duration::from_secs(90)).await?;
        cluster.change(json!({"node": {"logLevel": "debug"}})).await?;
        cluster.settled(Duration::from_secs(120)).await?;
        cluster.change(json!({"storage": {"size": "2Gi"}})).await?;
        cluster.settled(Duration::from_secs(60)).await?;
        let (killed, last) = assassin.finish().await?;
        ensure!(killed.len() >= 10, "it was killed on {killed:?} only");
        ensure!(cluster.id().await? == id, "it is another cluster");
        ensure!(cluster.voters().await?.len() == 3, "not all vote");
        let (report, fewest) = (load.finish().await?, voters.finish().await?);
        ensure!(fewest >= 2, "there were {fewest} voters at a time");
        test.say(format!("killed on {}; {report}", killed.join(", ")));
        report.check_no_failure()?;
        test.end_clusters().await?;
        drop(last);
        Ok(())
    });
}

/// An operator that is killed on the first event of each kind.
struct Assassin {
    task: JoinHandle<Result<(Vec<String>, Local)>>,
    stop: watch::Sender<bool>,
}

impl Assassin {
    fn begin(test: &Test) -> Result<Assassin> {
        let (client, namespace) = (test.client.clone(), test.namespace.clone());
        let events: Api<Event> = test.api();
        let mut operator = Local::start(&namespace, &namespace, "victim")?;
        let (stop, mut remaining) = (watch::Sender::new(false), BTreeSet::from(DEADLY));
        let mut ends = stop.subscribe();
        let task = tokio::spawn(async move {
            let of_clusters = watcher::Config::default().fields("involvedObject.kind=KvCluster");
            let mut events = watcher(events, of_clusters).default_backoff().applied_objects().boxed();
            let mut killed = Vec::new();
            loop {
                let event = tokio::select! {
                    event = events.next() => event.context("the watch of events ended")?,
                    _ = ends.changed() => return Ok((killed, operator)),
                };
                // A watch that is interrupted comes back by itself.
                let Ok(Event { reason: Some(reason), .. }) = event else { continue };
                if remaining.remove(reason.as_str()) {
                    operator.kill(&client, &namespace).await?;
                    operator = Local::start(&namespace, &namespace, "victim")?;
                    killed.push(reason);
                }
            }
        });
        Ok(Assassin { task, stop })
    }

    /// Kills no more, and answers on which events the operators were killed, and the last of them.
    async fn finish(self) -> Result<(Vec<String>, Local)> {
        self.stop.send_replace(true);
        self.task.await?
    }
}

/// Goal: two operators that both work, since a Lease is no fence, never take two risky steps at once, and
/// one that stood still with a stale plan is refused. Method: two with different Leases; one of them is
/// halted each time it has planned a risky step, and goes on when the other one has finished it.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn of_two_operators_at_once_the_stale_one_is_refused() {
    run_with(Needs::OwnOperator, "two_operators", Duration::from_secs(420), async |test| {
        operator::ensure_none(&test.client).await?;
        let one = Local::start(&test.namespace, &test.namespace, "one")?;
        let cluster = Cluster::ready(test, "demo", 3).await?;
        let load = Load::start(&cluster, 5).await?;
        let voters = Voters::follow(load.client().await?);
        let mut two = Local::start(&test.namespace, "default", "two")?;
        two.says(0, &["holds the lease"], Duration::from_secs(40)).await?;

        let (mut halts, mut seen) = (0, 0);
        let changes = [json!({"node": {"logLevel": "debug"}}), json!({"members": 5}), json!({"members": 3})];
        for change in changes {
            cluster.change(change).await?;
            // Whether it gets so far before the other one does is chance, and tried again.
            if let Ok(at) = two.says(seen, &["Planned to"], Duration::from_secs(10)).await {
                two.halt()?;
                test.say(format!("halted after: {}", last_words(&two.log()[at])));
                cluster.settled(Duration::from_secs(120)).await?;
                let lives = cluster.lives().await?;
                two.go_on()?;
                sleep(Duration::from_secs(4)).await;
                cluster.settled(Duration::from_secs(60)).await?;
                // The pod of a member that has left may take a moment to go.
                let now = cluster.lives().await?;
                let is_same = now.iter().all(|(ordinal, life)| lives.get(ordinal) == Some(life));
                ensure!(is_same, "the late operator replaced a pod: {lives:?}, then {now:?}");
                (halts, seen) = (halts + 1, two.log().len());
            }
            cluster.settled(Duration::from_secs(120)).await?;
        }
        ensure!(halts > 0, "the second operator never planned anything first");
        test.say(format!("halted with a plan {halts} times; what it had planned was never done late"));
        refuse_what_is_late(test, &cluster).await?;
        let (report, fewest) = (load.finish().await?, voters.finish().await?);
        ensure!(fewest >= 2, "there were {fewest} voters at a time");
        test.say(&report);
        report.check_no_failure()?;
        test.end_clusters().await?;
        drop((one, two));
        Ok(())
    });
}

fn last_words(line: &str) -> &str {
    line.find("Planned to").map_or(line, |at| &line[at..])
}

/// Every recorded step of a scale up and down and of a rolling change is tried again when it is over:
/// each is refused by what it was planned for.
async fn refuse_what_is_late(test: &Test, cluster: &Cluster<'_>) -> Result<()> {
    let records = Records::begin(test, cluster.name());
    // Back from what the first part of the test set: the pods are made again.
    cluster.change(json!({"members": 5, "node": {"logLevel": "info"}})).await?;
    cluster.settled(Duration::from_secs(180)).await?;
    cluster.change(json!({"members": 3})).await?;
    cluster.settled(Duration::from_secs(120)).await?;
    let records = records.finish().await?;
    let lives = cluster.lives().await?;
    let before = cluster.voters().await?;
    let mut tried = BTreeMap::<String, u32>::new();
    for record in records {
        let late = match record.kind.as_str() {
            "DeletePod" => delete_pod(test, cluster, &record).await,
            "ChangeVoters" => change_voters(cluster, &record).await,
            _ => continue,
        };
        ensure!(late.is_err(), "a late {} of {} was taken", record.kind, record.target);
        *tried.entry(record.kind).or_default() += 1;
    }
    ensure!(tried.len() == 2, "these were tried: {tried:?}");
    ensure!(cluster.lives().await? == lives && cluster.voters().await? == before, "something was changed");
    test.say(format!("steps tried again when they were over, all refused: {tried:?}"));
    Ok(())
}

async fn delete_pod(test: &Test, cluster: &Cluster<'_>, record: &StepRecord) -> Result<()> {
    let name = format!("{}-{}", cluster.name(), record.target);
    let only = Preconditions { uid: record.uid.clone(), resource_version: record.resource_version.clone() };
    test.api::<Pod>().delete(&name, &DeleteParams::default().preconditions(only)).await?;
    Ok(())
}

async fn change_voters(cluster: &Cluster<'_>, record: &StepRecord) -> Result<()> {
    let id = |text: &str| u64::from_str_radix(text, 16).ok();
    let voters = record.target.split(',').map(id).collect::<Option<Vec<u64>>>().context("read the voters")?;
    let (term, index) =
        record.membership.as_deref().and_then(|id| id.split_once('.')).context("no log id")?;
    let expected = Some(LogId { term: term.parse()?, index: index.parse()? });
    let leader = cluster.admin(cluster.leader().await?).await?;
    leader.change_membership(voters, expected).await?;
    Ok(())
}

/// Every risky step that the status recorded meanwhile.
struct Records {
    task: JoinHandle<Vec<StepRecord>>,
    stop: watch::Sender<bool>,
}

impl Records {
    fn begin(test: &Test, name: &str) -> Records {
        let (stop, name) = (watch::Sender::new(false), name.to_owned());
        let (mut ends, api) = (stop.subscribe(), test.api::<kvorum_crd::KvCluster>());
        let task = tokio::spawn(async move {
            let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
            let mut changes = watcher(api, only).default_backoff().applied_objects().boxed();
            let mut records: Vec<StepRecord> = Vec::new();
            loop {
                let change = tokio::select! {
                    change = changes.next() => change,
                    _ = ends.changed() => return records,
                };
                let Some(Ok(cluster)) = change else { continue };
                let step = cluster.status.and_then(|status| status.step);
                if let Some(step) = step
                    && records.last() != Some(&step)
                {
                    records.push(step);
                }
            }
        });
        Records { task, stop }
    }

    async fn finish(self) -> Result<Vec<StepRecord>> {
        self.stop.send_replace(true);
        Ok(self.task.await?)
    }
}

/// Goal: an upgrade of the operator restarts nobody; with `upgradeClusters` clusters follow, never two at
/// once. Method: three clusters, `helm upgrade` to another image without and with the value; all pods are
/// looked at all the time.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn an_upgraded_operator_restarts_nobody_unless_told_to() {
    run_alone("upgrade", Duration::from_secs(420), async |test| {
        let mut clusters = Vec::new();
        // That followers come before the leader is the business of other tests: two of one member are enough.
        for (name, members) in [("a", 3), ("b", 1), ("c", 1)] {
            clusters.push(Cluster::create(test, name, spec(members)).await?);
        }
        let mut lives = Vec::new();
        for cluster in &clusters {
            cluster.settled(Duration::from_secs(90)).await?;
            lives.push(cluster.lives().await?);
        }
        operator::install_image(operator::NAMESPACE, &settings::image_next(), &[]).await?;
        for cluster in &clusters {
            cluster.condition("UpdatePending", "True", Duration::from_secs(60)).await?;
        }
        sleep(Duration::from_secs(5)).await;
        for (cluster, lives) in clusters.iter().zip(&lives) {
            ensure!(cluster.lives().await? == *lives, "{} was restarted", cluster.name());
        }
        test.say("three clusters, and nobody restarted by a new operator");

        let following = ["upgradeClusters=true"];
        operator::install_image(operator::NAMESPACE, &settings::image_next(), &following).await?;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(240);
        loop {
            ensure!(
                tokio::time::Instant::now() < deadline,
                "the clusters did not follow within four minutes"
            );
            let mut away = Vec::new();
            let mut pending = 0;
            for cluster in &clusters {
                let (pods, now) = (cluster.pods().await?, cluster.get().await?);
                let wanted = now.spec.members;
                let goes = pods.values().any(|pod| pod.metadata.deletion_timestamp.is_some());
                let ready = now.status.unwrap_or_default().ready_members;
                if goes || pods.len() < wanted as usize || ready < wanted {
                    away.push(cluster.name());
                }
                let next = settings::image_next();
                let of_pod = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone());
                pending += pods.values().filter(|pod| of_pod(pod).as_ref() != Some(&next)).count();
            }
            ensure!(away.len() <= 1, "{away:?} are changed at once");
            if pending == 0 && away.is_empty() {
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        for cluster in &clusters {
            cluster.settled(Duration::from_secs(60)).await?;
            cluster.condition("UpdatePending", "False", Duration::from_secs(30)).await?;
        }
        test.say("with upgradeClusters all followed, one at a time");
        operator::forget();
        Ok(())
    });
}
