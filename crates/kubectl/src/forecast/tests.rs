//! Goal: what is foreseen is what the operator's plan does, says when writes stop, and ends where nothing comes by
//! itself. Method: made clusters of three members on machines of their own.

use kvorum_operator::fence::{Disk, LogId};
use kvorum_operator::observed::{
    Claim, Membership, Node, Observed, Pod, Progress, Role, StatefulSet, Wanted,
};

use super::*;

/// So many members on `node-0` and so on, the first of which leads, and as many more machines as that.
fn world(members: u32, spare: u32) -> World {
    let ids = || (0..members).map(|ordinal| (u64::from(ordinal) + 1, ordinal));
    let last_log = LogId { term: 1, index: 9 };
    let membership = Membership {
        log_id: LogId { term: 1, index: 1 },
        configs: vec![ids().map(|(id, _)| id).collect()],
        nodes: ids().map(|(id, ordinal)| (id, Some(ordinal))).collect(),
    };
    let node = |id| Node {
        node_id: id,
        cluster_id: 9,
        incarnation: 1,
        role: if id == 1 { Role::Leader } else { Role::Follower },
        term: 1,
        confirmed: id == 1,
        last_log,
        membership: membership.clone(),
        progress: ids().map(|(id, _)| (id, Progress { matched: 9, ..Progress::default() })).collect(),
        ..Node::default()
    };
    let pod = |ordinal: u32| Pod {
        running: true,
        ready: true,
        machine_ready: true,
        template: "now".into(),
        machine: Some(format!("node-{ordinal}")),
        ..Pod::default()
    };
    let claim = |id| Claim {
        disk: Some(Disk { cluster_id: 9, node_id: id, founder: id == 1 }),
        image: "kvorum:1".into(),
        incarnation: 1,
        volume: format!("pv-{id}"),
        ..Claim::default()
    };
    let set =
        StatefulSet { replicas: members, current: true, template: "now".into(), ..StatefulSet::default() };
    let observed = Observed {
        name: "demo".into(),
        wanted: Wanted { members, ..Wanted::default() },
        cluster_id: Some(9),
        incarnation: 1,
        pinned_image: "kvorum:1".into(),
        objects_current: true,
        stateful_set: Some(set),
        pods: ids().map(|(_, ordinal)| (ordinal, pod(ordinal))).collect(),
        claims: ids().map(|(id, ordinal)| (ordinal, claim(id))).collect(),
        nodes: ids().map(|(id, ordinal)| (ordinal, node(id))).collect(),
        ..Observed::default()
    };
    let mut world = World::new(observed, "kvorum:1".into());
    world.machines =
        (0..members + spare).map(|i| Machine { name: format!("node-{i}"), takes: true }).collect();
    world.volumes = (0..members)
        .map(|i| (i, Volume { home: Some(format!("node-{i}")), fits: [format!("node-{i}")].into() }))
        .collect();
    world
}

fn lose(machines: &[&str]) -> What {
    What { lose: machines.iter().map(|name| name.to_string()).collect(), ..What::default() }
}

/// What the operator does, briefly.
fn steps(forecast: &Forecast) -> Vec<&str> {
    forecast.lines.iter().filter(|line| line.by == By::Operator).map(|line| line.what.as_str()).collect()
}

#[test]
fn a_cluster_at_rest_stays_at_rest() {
    let forecast = foresee(world(3, 0), &What::default());
    assert_eq!((forecast.lines.len(), forecast.end, forecast.interrupted), (0, End::Settled, false));
    assert_eq!(forecast.lost, "No disk and no acknowledged write is lost.");
}

#[test]
fn a_lost_machine_is_replaced_where_another_stands_by() {
    let forecast = foresee(world(3, 1), &lose(&["node-2"]));
    assert_eq!(forecast.end, End::Settled, "{forecast:#?}");
    let steps = steps(&forecast);
    assert!(steps[0].contains("claim data-demo-2"), "{steps:?}");
    assert!(
        steps.iter().any(|step| step.starts_with("add member demo-2, which does not vote yet")),
        "{steps:?}"
    );
    assert!(steps.last().unwrap().starts_with("make these nodes the voters"), "{steps:?}");
    assert!(!forecast.interrupted && forecast.disks == ["demo-2"], "{forecast:#?}");
    assert!(forecast.lost.starts_with("No acknowledged write is lost"), "{}", forecast.lost);
    assert!(
        forecast.lines.iter().any(|line| line.what == "pod demo-2 runs on node-3, with a new, empty disk")
    );
}

#[test]
fn without_another_machine_it_says_what_is_missing() {
    let forecast = foresee(world(3, 0), &lose(&["node-2"]));
    assert!(matches!(forecast.end, End::Waits(_)), "{forecast:#?}");
    assert!(forecast.notes.iter().any(|note| note.contains("add a machine")), "{forecast:#?}");
    assert!(!forecast.interrupted, "two of three go on");
    assert!(
        !forecast.notes.iter().any(|note| note.contains("so far")),
        "it is gone in the end: {forecast:#?}"
    );
    assert_eq!(steps(&forecast), Vec::<&str>::new(), "nothing is deleted");
}

/// Goal: nobody reads that writes go on where they do not already.
#[test]
fn a_quorum_that_is_lost_already_is_no_good_news() {
    let mut world = world(3, 0);
    for ordinal in [1, 2] {
        world.kill(ordinal, "it does not run".into());
    }
    world.observed.nodes.values_mut().for_each(|node| node.confirmed = false);
    let forecast = foresee(world, &What::default());
    assert!(forecast.interrupted, "{forecast:#?}");
}

/// Goal: an image that the operator would not roll out is foreseen as that.
#[test]
fn an_image_that_is_too_old_reaches_no_pod() {
    let mut world = world(3, 0);
    world.observed.nodes.values_mut().for_each(|node| node.feature_level = 2);
    let old = What { image: Some("kvorum:0.0.9".into()), ..What::default() };
    let forecast = foresee(world, &old);
    assert!(matches!(forecast.end, End::Waits(_)) && steps(&forecast).is_empty(), "{forecast:#?}");
    assert!(forecast.notes[0].contains("is of release 0.0.9"), "{forecast:#?}");
}

/// Goal: new members are foreseen where the scheduler would put them: on the machines with the fewest.
#[test]
fn new_members_are_spread() {
    let forecast = foresee(world(3, 0), &What { members: Some(5), ..What::default() });
    let new: Vec<&str> = forecast.lines.iter().map(|line| line.what.as_str()).collect();
    let new: Vec<&&str> = new.iter().filter(|what| what.contains("a new, empty disk")).collect();
    assert_eq!(
        new,
        [
            &"pod demo-3 runs on node-0, with a new, empty disk",
            &"pod demo-4 runs on node-1, with a new, empty disk"
        ]
    );
}

#[test]
fn the_leaders_machine_costs_an_election_and_no_more() {
    let forecast = foresee(world(3, 1), &lose(&["node-0"]));
    assert_eq!(forecast.end, End::Settled, "{forecast:#?}");
    assert!(forecast.lines.iter().any(|line| line.what.contains("is elected")), "{forecast:#?}");
    assert!(!forecast.interrupted, "{forecast:#?}");
}

#[test]
fn a_lost_quorum_is_named_as_that_and_nothing_is_deleted() {
    let forecast = foresee(world(3, 2), &lose(&["node-1", "node-2"]));
    assert!(forecast.interrupted && matches!(forecast.end, End::Waits(_)), "{forecast:#?}");
    assert!(forecast.lost.contains("kubectl kvorum recover demo"), "{}", forecast.lost);
    assert!(!steps(&forecast).iter().any(|step| step.contains("delete claim")), "{forecast:#?}");
    let forecast = foresee(world(3, 3), &lose(&["node-0", "node-1", "node-2"]));
    assert!(forecast.lost.starts_with("All data is lost"), "{}", forecast.lost);
}

#[test]
fn a_network_volume_moves_or_waits_for_its_zone() {
    let mut moves = world(3, 1);
    moves.volumes.insert(2, Volume { home: None, fits: ["node-2".into(), "node-3".into()].into() });
    let forecast = foresee(moves, &lose(&["node-2"]));
    assert_eq!(forecast.end, End::Settled, "{forecast:#?}");
    assert!(forecast.disks.is_empty() && steps(&forecast).is_empty(), "{forecast:#?}");
    assert!(
        forecast.lines.iter().any(|line| line.what == "pod demo-2 runs on node-3, on its disk"),
        "{forecast:#?}"
    );
    let mut zonal = world(3, 1);
    zonal.volumes.insert(2, Volume { home: None, fits: ["node-2".into()].into() });
    let forecast = foresee(zonal, &lose(&["node-2"]));
    assert!(matches!(forecast.end, End::Waits(_)) && steps(&forecast).is_empty(), "{forecast:#?}");
    assert!(forecast.disks.is_empty(), "it may come back");
    assert!(forecast.notes.iter().any(|note| note.contains("No machine fits")), "{forecast:#?}");
}

#[test]
fn a_new_image_rolls_followers_first() {
    let what = What { image: Some("kvorum:2".into()), ..What::default() };
    let forecast = foresee(world(3, 0), &what);
    assert_eq!(forecast.end, End::Settled, "{forecast:#?}");
    let steps = steps(&forecast);
    let pods: Vec<&&str> = steps.iter().filter(|step| step.starts_with("delete pod")).collect();
    assert_eq!(pods.len(), 3, "{steps:?}");
    assert!(
        pods[0].contains("demo-2") && pods[1].contains("demo-1") && pods[2].contains("demo-0"),
        "{steps:?}"
    );
    assert!(steps.iter().any(|step| step.starts_with("hand leadership over to demo-")), "{steps:?}");
    assert!(!forecast.interrupted && forecast.disks.is_empty(), "{forecast:#?}");
    let alone = foresee(world(1, 0), &what);
    assert!(
        alone.interrupted && alone.end == End::Settled,
        "one member cannot do without itself: {alone:#?}"
    );
    let same = foresee(world(3, 0), &What { image: Some("kvorum:1".into()), ..What::default() });
    assert_eq!(self::steps(&same), Vec::<&str>::new());
}

#[test]
fn members_come_and_go_one_at_a_time() {
    let more = foresee(world(3, 2), &What { members: Some(5), ..What::default() });
    assert_eq!(more.end, End::Settled, "{more:#?}");
    let voters = steps(&more).iter().filter(|step| step.starts_with("make these nodes")).count();
    assert_eq!(voters, 2, "{more:#?}");
    let fewer = foresee(world(5, 0), &What { members: Some(3), ..What::default() });
    assert_eq!(fewer.end, End::Settled, "{fewer:#?}");
    assert_eq!(fewer.disks, ["demo-3", "demo-4"]);
    assert!(!more.interrupted && !fewer.interrupted);
}

#[test]
fn a_drain_waits_for_the_machine_and_keeps_the_disk() {
    let drain = |machine: &str| What { drain: [machine.to_owned()].into(), ..What::default() };
    let forecast = foresee(world(3, 0), &drain("node-0"));
    assert!(
        matches!(&forecast.end, End::Waits(reason) if reason.contains("machine node-0 is cordoned")),
        "{forecast:#?}"
    );
    assert!(
        !forecast.interrupted && forecast.disks.is_empty() && steps(&forecast).is_empty(),
        "{forecast:#?}"
    );
    assert!(forecast.lines[0].what.contains("after it has handed leadership over"), "{forecast:#?}");
    let mut two = world(3, 0);
    two.observed.pods.get_mut(&1).unwrap().machine = Some("node-2".into());
    two.volumes.insert(1, Volume { home: Some("node-2".into()), fits: ["node-2".into()].into() });
    let forecast = foresee(two, &drain("node-2"));
    assert!(forecast.lines.iter().any(|line| line.what.contains("disruption budget")), "{forecast:#?}");
    assert!(!forecast.interrupted, "{forecast:#?}");
}
