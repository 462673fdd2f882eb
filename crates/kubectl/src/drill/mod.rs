//! `kubectl kvorum drill`: something is lost on purpose, while a checker writes.

mod checker;

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Preconditions};
use kvorum_cli::failure::Failure;
use kvorum_cli::output::Output;
use kvorum_cli::text;
use kvorum_operator::names::{self, CLIENT_PORT, hex};
use kvorum_operator::observed::Observed;
use kvorum_operator::plan::{View, plan};
use kvorum_operator::step::Step;
use serde_json::{Value, json};

use self::checker::{Checker, Found};
use crate::args::{Drill, Fault};
use crate::ask;
use crate::observe::look;
use crate::session::{Session, refused};

/// How long a cluster may take to be as before after a fault: a new disk is filled, an image pulled.
const BACK_MAX: Duration = Duration::from_secs(600);
/// Between two looks while that is waited for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Writers warm up for so long before the first fault.
const WARM_UP: Duration = Duration::from_secs(2);

pub(crate) async fn drill(session: &Session, args: Drill, output: &mut Output) -> Result<(), Failure> {
    let name = &args.name;
    let seen = look(session, name).await?;
    may_lose_one(&seen.observed).map_err(Failure::Other)?;
    if !args.yes {
        let faults: Vec<&str> = args.lose.iter().map(|fault| said(*fault)).collect();
        let question = format!("{name} loses {}. Type {name} to begin", faults.join(", then "));
        ask::to_type(&question, name, "--yes")?;
    }
    let checker = start(session, &seen.observed).await?;
    tokio::time::sleep(WARM_UP).await;
    let mut outcome = Ok(());
    for fault in args.lose {
        outcome = one(session, name, fault, &checker, output).await;
        if outcome.is_err() {
            break;
        }
    }
    // What was acknowledged is checked whatever became of the faults.
    let found = checker.finish().await?;
    outcome?;
    conclude(&found, output)
}

fn said(fault: Fault) -> &'static str {
    match fault {
        Fault::Leader => "its leader's pod, killed at once",
        Fault::Pod => "a follower's pod",
        Fault::Disk => "a follower's disk",
    }
}

/// A member may be lost: nothing else is under way, and a majority has caught up without any one of them.
fn may_lose_one(observed: &Observed) -> Result<(), String> {
    let name = &observed.name;
    let see = format!("`kubectl kvorum status {name}` says more");
    let Some(view) = View::of(observed) else {
        return Err(format!("{name} has no leader that a quorum confirms, and loses nothing more; {see}"));
    };
    if observed.wanted.paused {
        return Err(format!("{name} is paused, and nobody would repair it; set spec.paused to false first"));
    }
    if view.voters.len() < 3 {
        return Err(format!(
            "{name} has {}, and would lose its quorum with one of them; scale it to three first",
            text::count(view.voters.len() as u64, "voter")
        ));
    }
    if let Some(behind) = view.voters.iter().find(|id| !view.fit(**id)) {
        let member = view.ordinal(*behind).map_or_else(|| hex(*behind), |ordinal| observed.pod_name(ordinal));
        return Err(format!(
            "{member} is away or behind, and {name} could lose its quorum with another; {see}"
        ));
    }
    let plan = plan(observed);
    match plan.step {
        Step::Rest => Ok(()),
        _ => Err(format!("the operator is not done with {name}: {} Wait until it is", plan.reason)),
    }
}

async fn start(session: &Session, observed: &Observed) -> Result<Checker, Failure> {
    let connect = session.connect_options(&observed.name).await?;
    let address = |ordinal: &u32| names::address(&observed.name, &session.namespace, *ordinal, CLIENT_PORT);
    let endpoints: Vec<String> = observed.pods.keys().map(address).collect();
    // Each writer comes in by another member first, so that none is the only way.
    let client = |first: usize| {
        let mut endpoints = endpoints.clone();
        endpoints.rotate_left(first);
        kvorum_client::Client::builder(endpoints)
            .timeout(session.timeout)
            .connect_options(connect.clone())
            .without_leader_search()
            .connect_lazy()
    };
    let clients = (0..endpoints.len()).map(client).collect::<Result<Vec<_>, _>>()?;
    Ok(Checker::start(format!("kvorum-drill/{}/", hex(observed.fresh_id)), clients, client(0)?))
}

/// One fault, and the wait until the cluster is as before.
async fn one(
    session: &Session,
    name: &str,
    fault: Fault,
    checker: &Checker,
    output: &mut Output,
) -> Result<(), Failure> {
    let observed = look(session, name).await?.observed;
    may_lose_one(&observed).map_err(Failure::Other)?;
    let victim = victim(&observed, fault);
    let pod = observed.pod_name(victim);
    checker.begin();
    let begun = Instant::now();
    lose(session, &observed, victim, fault).await?;
    let back = wait(session, &observed, victim, fault, begun).await?;
    let interruption = checker.interruption();
    let what = match fault {
        Fault::Leader => format!("{pod} led and was killed"),
        Fault::Pod => format!("the pod of {pod} was deleted"),
        Fault::Disk => format!("the disk of {pod} was deleted"),
    };
    output.line(
        format!(
            "{what}: writes were interrupted for {} ms; all as before after {:.1} s",
            interruption.as_millis(),
            back.as_secs_f64()
        ),
        json!({
            "lost": format!("{fault:?}").to_lowercase(), "pod": pod, "interruption_ms": interruption.as_millis() as u64,
            "back_after_ms": back.as_millis() as u64,
        }),
    )?;
    output.flush()
}

/// The leader, or the highest of the others.
fn victim(observed: &Observed, fault: Fault) -> u32 {
    let leader = View::of(observed).and_then(|view| view.ordinal(view.leader.node_id)).unwrap_or_default();
    let followers = observed.pods.keys().copied().filter(|ordinal| *ordinal != leader);
    match fault {
        Fault::Leader => leader,
        Fault::Pod | Fault::Disk => followers.max().unwrap_or(leader),
    }
}

async fn lose(session: &Session, observed: &Observed, victim: u32, fault: Fault) -> Result<(), Failure> {
    let this = |uid: &str| Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    if let (Fault::Disk, Some(claim)) = (fault, observed.claims.get(&victim)) {
        let (name, params) = (observed.claim_name(victim), DeleteParams::default());
        let params = params.preconditions(this(&claim.version.uid));
        let deleted = session.api::<PersistentVolumeClaim>().delete(&name, &params).await;
        deleted.map_err(|error| refused(&format!("delete claim {name}"), &error))?;
    }
    let Some(pod) = observed.pods.get(&victim) else { return Ok(()) };
    let params = match fault {
        Fault::Leader => DeleteParams::default().grace_period(0),
        Fault::Pod | Fault::Disk => DeleteParams::default(),
    };
    let name = observed.pod_name(victim);
    let deleted = session.api::<Pod>().delete(&name, &params.preconditions(this(&pod.version.uid))).await;
    deleted.map(drop).map_err(|error| refused(&format!("delete pod {name}"), &error))
}

/// Until the member is there again as a new pod, on a new disk where that was lost, and the operator is done.
async fn wait(
    session: &Session,
    before: &Observed,
    victim: u32,
    fault: Fault,
    begun: Instant,
) -> Result<Duration, Failure> {
    let name = &before.name;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = look(session, name).await?.observed;
        if is_back(before, &now, victim, fault) && may_lose_one(&now).is_ok() {
            return Ok(begun.elapsed());
        }
        if begun.elapsed() > BACK_MAX {
            return Err(Failure::Other(format!(
                "{} is not as before after {} s; `kubectl kvorum status {name}` says what is waited for",
                before.pod_name(victim),
                BACK_MAX.as_secs()
            )));
        }
    }
}

fn is_back(before: &Observed, now: &Observed, victim: u32, fault: Fault) -> bool {
    let pod = |observed: &Observed| observed.pods.get(&victim).map(|pod| pod.version.uid.clone());
    let disk = |observed: &Observed| observed.nodes.get(&victim).map(|node| node.node_id);
    let runs = now.pods.get(&victim).is_some_and(|pod| pod.ready && !pod.deleting);
    let new_disk = fault != Fault::Disk || disk(before) != disk(now);
    runs && pod(before) != pod(now) && new_disk
}

fn conclude(found: &Found, output: &mut Output) -> Result<(), Failure> {
    let Found { acknowledged, unknown, failed, broken } = found;
    let kept = broken.is_empty();
    let text = match kept {
        true => format!("{} were acknowledged, and none is lost", text::count(*acknowledged, "write")),
        false => format!("{} were acknowledged, and not all are there", text::count(*acknowledged, "write")),
    };
    let others = format!("{unknown} of unknown outcome, {failed} refused");
    let object = json!({
        "acknowledged": acknowledged, "unknown": unknown, "failed": failed, "kept": kept,
        "broken": broken.iter().cloned().map(Value::from).collect::<Vec<_>>(),
    });
    output.line(format!("{text} ({others})"), object)?;
    match broken.first() {
        None => Ok(()),
        Some(first) => Err(Failure::Other(format!(
            "a promise was broken: {first}. Keep the cluster as it is, and send what `kubectl kvorum report` writes"
        ))),
    }
}

#[cfg(test)]
mod tests {
    //! Goal: no drill costs a quorum. Method: made observations.
    use super::*;
    use kvorum_operator::observed::{Membership, Node, Pod, Progress, Role, StatefulSet, Wanted};

    fn observed(members: u32) -> Observed {
        let ids = || (0..members).map(|ordinal| (u64::from(ordinal) + 1, ordinal));
        let membership = Membership {
            log_id: kvorum_operator::fence::LogId { term: 1, index: 1 },
            configs: vec![ids().map(|(id, _)| id).collect()],
            nodes: ids().map(|(id, ordinal)| (id, Some(ordinal))).collect(),
        };
        let node = |id| Node {
            node_id: id,
            cluster_id: 9,
            incarnation: 1,
            role: if id == 1 { Role::Leader } else { Role::Follower },
            confirmed: id == 1,
            last_log: membership.log_id,
            membership: membership.clone(),
            progress: ids().map(|(id, _)| (id, Progress { matched: 1, ..Progress::default() })).collect(),
            ..Node::default()
        };
        let pod = Pod { running: true, ready: true, ..Pod::default() };
        Observed {
            name: "demo".into(),
            wanted: Wanted { members, ..Wanted::default() },
            cluster_id: Some(9),
            incarnation: 1,
            objects_current: true,
            stateful_set: Some(StatefulSet { replicas: members, current: true, ..StatefulSet::default() }),
            pods: ids().map(|(_, ordinal)| (ordinal, pod.clone())).collect(),
            nodes: ids().map(|(id, ordinal)| (ordinal, node(id))).collect(),
            ..Observed::default()
        }
    }

    #[test]
    fn a_drill_is_refused_where_quorum_would_fall() {
        assert_eq!(may_lose_one(&observed(3)), Ok(()));
        for members in [1, 2] {
            assert!(may_lose_one(&observed(members)).unwrap_err().contains("scale it to three"));
        }
        let mut away = observed(3);
        away.nodes.remove(&2);
        away.pods.get_mut(&2).unwrap().ready = false;
        assert!(may_lose_one(&away).unwrap_err().contains("demo-2 is away or behind"));
        let mut leaderless = observed(3);
        leaderless.nodes.get_mut(&0).unwrap().confirmed = false;
        assert!(may_lose_one(&leaderless).unwrap_err().contains("no leader"));
        let mut busy = observed(3);
        busy.stateful_set.as_mut().unwrap().current = false;
        assert!(may_lose_one(&busy).unwrap_err().contains("not done"));
        let mut paused = observed(3);
        paused.wanted.paused = true;
        assert!(may_lose_one(&paused).unwrap_err().contains("paused"));
    }

    #[test]
    fn it_is_back_as_another_pod_and_where_it_lost_its_disk_on_another() {
        let before = observed(3);
        assert_eq!(victim(&before, Fault::Leader), 0);
        assert_eq!(victim(&before, Fault::Disk), 2);
        let mut now = before.clone();
        assert!(!is_back(&before, &now, 2, Fault::Pod), "it is still the same");
        now.pods.get_mut(&2).unwrap().version.uid = "new".into();
        assert!(is_back(&before, &now, 2, Fault::Pod));
        assert!(!is_back(&before, &now, 2, Fault::Disk), "it has its old disk");
        now.nodes.get_mut(&2).unwrap().node_id = 7;
        assert!(is_back(&before, &now, 2, Fault::Disk));
    }
}
