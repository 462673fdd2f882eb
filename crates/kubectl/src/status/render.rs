//! What is shown of a cluster: pure functions of what was read.

use std::collections::BTreeMap;

use anstyle::{AnsiColor, Style};
use comfy_table::{Attribute, Cell, CellAlignment, Color, Table};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use kvorum_cli::table;
use kvorum_crd::{KvCluster, KvClusterStatus, MemberStatus};
use serde_json::{Value, json};

/// All that is shown of one cluster.
pub(super) struct Seen {
    /// Where it is.
    pub(super) namespace: String,
    /// The object.
    pub(super) cluster: KvCluster,
    /// Its claims, by name.
    pub(super) disks: BTreeMap<String, Disk>,
    /// The zones of its machines, as far as they have some.
    pub(super) zones: BTreeMap<String, String>,
}

/// A claim.
#[derive(Default)]
pub(super) struct Disk {
    /// Its volume.
    pub(super) volume: Option<String>,
    /// Its size.
    pub(super) capacity: Option<String>,
    /// How its member left, where it is kept for a person.
    pub(super) retired: Option<String>,
    /// It is going away.
    pub(super) deleting: bool,
}

/// Conditions that tell of a trouble where they are true.
const TROUBLES: [&str; 6] =
    ["QuorumLost", "NameTaken", "StorageProblem", "Degraded", "UpdatePending", "Paused"];

/// What stands above the members.
pub(super) fn head(seen: &Seen, colour: bool) -> Vec<String> {
    let (cluster, status) = (&seen.cluster, status(&seen.cluster));
    let ready = condition(&status, "Ready");
    let state = ready.map_or("unknown: no operator has looked at it", |ready| ready.reason.as_str());
    let fine = ready.is_some_and(|ready| ready.status == "True");
    let state = paint(state, if fine { AnsiColor::Green } else { AnsiColor::Red }, colour);
    let leader = status.leader.as_ref().map_or("no leader".to_owned(), |leader| format!("leader {leader}"));
    let mut first = vec![
        format!("{}/{}", seen.namespace, cluster.name_any()),
        state,
        format!("{} of {} members ready", status.ready_members, cluster.spec.members),
        leader,
    ];
    first.extend(status.version.as_ref().map(|version| format!("version {version}")));
    let mut lines = vec![first.join(" · ")];
    if let Some(id) = &status.cluster_id {
        let incarnation = status.incarnation.filter(|incarnation| *incarnation > 1);
        let incarnation =
            incarnation.map_or(String::new(), |n| format!(" · incarnation {n}, after a recovery"));
        let endpoint = status.endpoint.as_deref().unwrap_or("-");
        let outside = status.external_endpoint.as_ref();
        let outside = outside.map_or(String::new(), |endpoint| format!(" · from outside {endpoint}"));
        lines.push(format!("cluster {id} · endpoint {endpoint}{outside}{incarnation}"));
    }
    lines
}

/// The members, with their machines and disks.
pub(super) fn members(seen: &Seen, colour: bool, terminal: bool) -> Table {
    let mut table = table::new(terminal);
    table
        .set_header(["MEMBER", "NODE", "ROLE", "READY", "LAG", "MACHINE", "ZONE", "DISK", "SIZE", "VERSION"]);
    for member in &status(&seen.cluster).members {
        let none = Disk::default();
        let disk = seen.disks.get(&member.claim).unwrap_or(&none);
        let zone = member.machine.as_ref().and_then(|machine| seen.zones.get(machine));
        let lag = member.lag.map_or("-".to_owned(), |lag| lag.to_string());
        table.add_row([
            Cell::new(&member.pod),
            Cell::new(member.node_id.as_deref().unwrap_or("-")),
            role(member, colour),
            Cell::new(if member.ready { "yes" } else { "no" }),
            Cell::new(lag).set_alignment(CellAlignment::Right),
            Cell::new(member.machine.as_deref().unwrap_or("-")),
            Cell::new(zone.map_or("-", String::as_str)),
            Cell::new(if disk.deleting { format!("{} (going)", member.claim) } else { member.claim.clone() }),
            Cell::new(disk.capacity.as_deref().unwrap_or("-")).set_alignment(CellAlignment::Right),
            Cell::new(member.version.as_deref().unwrap_or("-")),
        ]);
    }
    table
}

/// What stands below them: the step at hand, what is wrong, and disks that are kept for a person.
pub(super) fn foot(seen: &Seen, colour: bool) -> Vec<String> {
    let status = status(&seen.cluster);
    let mut lines = Vec::new();
    if let Some(progressing) = condition(&status, "Progressing") {
        let settled = progressing.status == "False" && progressing.reason == "Settled";
        let reason =
            paint(&progressing.reason, if settled { AnsiColor::Green } else { AnsiColor::Yellow }, colour);
        lines.push(format!("{reason}: {}", progressing.message));
    }
    if status.observed_generation != seen.cluster.metadata.generation {
        lines.push("The operator has not looked at the latest spec yet.".to_owned());
    }
    for trouble in troubles(&status) {
        let kind = paint(&trouble.type_, AnsiColor::Red, colour);
        lines.push(format!("{kind} ({}): {}", trouble.reason, trouble.message));
    }
    let name = seen.cluster.name_any();
    for (claim, disk) in seen.disks.iter().filter(|(_, disk)| disk.retired.is_some()) {
        let how = match disk.retired.as_deref() {
            Some("true") => "its member left",
            _ => "a recovery left it behind, and it may have writes that nobody else has",
        };
        lines.push(format!("{claim} is kept: {how}; to let it go: kubectl kvorum release {name} {claim}"));
    }
    lines
}

/// A line for each cluster.
pub(super) fn list(clusters: &[KvCluster], colour: bool, terminal: bool) -> Table {
    let mut table = table::new(terminal);
    table.set_header(["NAMESPACE", "NAME", "MEMBERS", "READY", "LEADER", "VERSION", "STATUS", "TROUBLE"]);
    for cluster in clusters {
        let status = status(cluster);
        let ready = condition(&status, "Ready");
        let fine = ready.is_some_and(|ready| ready.status == "True");
        let state = Cell::new(ready.map_or("-", |ready| ready.reason.as_str()));
        let troubles: Vec<&str> = troubles(&status).map(|trouble| trouble.type_.as_str()).collect();
        table.add_row([
            Cell::new(cluster.namespace().unwrap_or_default()),
            Cell::new(cluster.name_any()),
            Cell::new(cluster.spec.members).set_alignment(CellAlignment::Right),
            Cell::new(status.ready_members).set_alignment(CellAlignment::Right),
            Cell::new(status.leader.as_deref().unwrap_or("-")),
            Cell::new(status.version.as_deref().unwrap_or("-")),
            if colour { state.fg(if fine { Color::Green } else { Color::Red }) } else { state },
            Cell::new(troubles.join(", ")),
        ]);
    }
    table
}

/// A cluster for programs.
pub(super) fn object(seen: &Seen) -> Value {
    let status = status(&seen.cluster);
    let mut object = summary(&seen.cluster);
    let members: Vec<Value> = status.members.iter().map(|member| member_object(seen, member)).collect();
    let kept = seen.disks.iter().filter_map(|(claim, disk)| {
        Some(json!({"claim": claim, "volume": disk.volume, "retired": disk.retired.as_ref()?}))
    });
    let (members, kept): (Value, Value) = (members.into(), kept.collect());
    object["members"] = members;
    object["kept_disks"] = kept;
    object["conditions"] = json!(status.conditions);
    object["step"] = json!(status.step);
    object
}

fn member_object(seen: &Seen, member: &MemberStatus) -> Value {
    let disk = seen.disks.get(&member.claim);
    json!({
        "pod": member.pod,
        "node_id": member.node_id,
        "role": member.role,
        "ready": member.ready,
        "lag": member.lag,
        "machine": member.machine,
        "zone": member.machine.as_ref().and_then(|machine| seen.zones.get(machine)),
        "claim": member.claim,
        "volume": disk.and_then(|disk| disk.volume.as_ref()),
        "capacity": disk.and_then(|disk| disk.capacity.as_ref()),
        "version": member.version,
    })
}

/// What all clusters have in a list of them.
pub(super) fn summary(cluster: &KvCluster) -> Value {
    let status = status(cluster);
    let ready = condition(&status, "Ready");
    let progressing = condition(&status, "Progressing");
    json!({
        "namespace": cluster.namespace(),
        "name": cluster.name_any(),
        "members_wanted": cluster.spec.members,
        "members_ready": status.ready_members,
        "cluster_id": status.cluster_id,
        "endpoint": status.endpoint,
        "external_endpoint": status.external_endpoint,
        "leader": status.leader,
        "version": status.version,
        "ready": ready.is_some_and(|ready| ready.status == "True"),
        "status": ready.map(|ready| &ready.reason),
        "doing": progressing.map(|progressing| json!({
            "reason": progressing.reason, "message": progressing.message,
        })),
        "troubles": troubles(&status).map(|trouble| &trouble.type_).collect::<Vec<_>>(),
    })
}

fn status(cluster: &KvCluster) -> KvClusterStatus {
    cluster.status.clone().unwrap_or_default()
}

fn condition<'a>(status: &'a KvClusterStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

/// Conditions that a person should know: true ones, and those of which nobody can tell.
fn troubles(status: &KvClusterStatus) -> impl Iterator<Item = &Condition> {
    TROUBLES.iter().filter_map(|kind| condition(status, kind)).filter(|condition| condition.status != "False")
}

fn role(member: &MemberStatus, colour: bool) -> Cell {
    let cell = Cell::new(member.role.to_lowercase());
    match (colour, member.role.as_str()) {
        (false, _) => cell,
        (true, "Leader") => cell.fg(Color::Green).add_attribute(Attribute::Bold),
        (true, "Follower") => cell.fg(Color::Green),
        (true, "Learner" | "Candidate" | "Unjoined") => cell.fg(Color::Yellow),
        (true, _) => cell.fg(Color::Red),
    }
}

fn paint(text: &str, colour: AnsiColor, wanted: bool) -> String {
    if !wanted {
        return text.to_owned();
    }
    let style = Style::new().bold().fg_color(Some(colour.into()));
    format!("{}{text}{}", style.render(), style.render_reset())
}

#[cfg(test)]
mod tests {
    //! Goal: a screen says all that a person asks of a cluster in trouble. Method: a made KvCluster.
    use super::*;
    use serde_json::from_value;

    fn seen() -> Seen {
        let condition = |kind: &str, status: &str, reason: &str, message: &str| {
            json!({"type": kind, "status": status, "reason": reason, "message": message,
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let cluster = from_value(json!({
            "apiVersion": "kvorum.io/v1alpha1", "kind": "KvCluster",
            "metadata": {"name": "demo", "namespace": "shop", "generation": 2},
            "spec": {"members": 3},
            "status": {
                "observedGeneration": 2, "clusterID": "00000000000c0ffe", "readyMembers": 2, "leader": "demo-0",
                "version": "0.1.0", "endpoint": "demo.shop.svc:2379", "externalEndpoint": "192.0.2.7:2379", "incarnation": 2, "replicas": 3,
                "members": [
                    {"pod": "demo-0", "nodeID": "0000000000000001", "role": "Leader", "ready": true, "lag": 0,
                     "claim": "data-demo-0", "machine": "node-1", "version": "0.1.0"},
                    {"pod": "demo-1", "role": "Unknown", "ready": false, "claim": "data-demo-1"},
                ],
                "conditions": [
                    condition("Ready", "False", "Waiting", "2 of 3"),
                    condition("Progressing", "True", "Waiting", "Waiting until member demo-1 is ready."),
                    condition("Degraded", "True", "PodNotRunning", "Pod demo-1 does not run"),
                    condition("QuorumLost", "False", "Confirmed", "No quorum is lost."),
                ],
            },
        }));
        let disk = |capacity: &str, retired: Option<&str>| Disk {
            capacity: Some(capacity.into()),
            retired: retired.map(Into::into),
            ..Disk::default()
        };
        Seen {
            namespace: "shop".into(),
            cluster: cluster.unwrap(),
            disks: [
                ("data-demo-0".into(), disk("1Gi", None)),
                ("data-demo-2".into(), disk("1Gi", Some("incarnation-2"))),
                ("data-demo-3".into(), disk("1Gi", Some("true"))),
            ]
            .into(),
            zones: [("node-1".into(), "a".into())].into(),
        }
    }

    #[test]
    fn one_screen_says_it_all() {
        let seen = seen();
        let head = head(&seen, false).join("\n");
        assert!(
            head.contains("shop/demo · Waiting · 2 of 3 members ready · leader demo-0 · version 0.1.0"),
            "{head}"
        );
        assert!(head.contains("from outside 192.0.2.7:2379") && head.contains("incarnation 2"), "{head}");
        let table = members(&seen, false, false).to_string();
        let row = |pod: &str| {
            table.lines().find(|line| line.contains(pod)).unwrap().split_whitespace().collect::<Vec<_>>()
        };
        assert_eq!(
            row("demo-0 "),
            [
                "demo-0",
                "0000000000000001",
                "leader",
                "yes",
                "0",
                "node-1",
                "a",
                "data-demo-0",
                "1Gi",
                "0.1.0"
            ]
        );
        assert_eq!(row("demo-1 "), ["demo-1", "-", "unknown", "no", "-", "-", "-", "data-demo-1", "-", "-"]);
        let foot = foot(&seen, false);
        assert_eq!(foot[0], "Waiting: Waiting until member demo-1 is ready.");
        assert_eq!(foot[1], "Degraded (PodNotRunning): Pod demo-1 does not run");
        assert!(foot[2].contains("data-demo-2 is kept") && foot[2].contains("nobody else has"), "{foot:?}");
        assert!(foot[3].ends_with("kubectl kvorum release demo data-demo-3"), "{foot:?}");
        assert_eq!(foot.len(), 4, "{foot:?}");
    }

    #[test]
    fn programs_get_the_same() {
        let object = object(&seen());
        assert_eq!(object["ready"], false);
        assert_eq!(object["troubles"], json!(["Degraded"]));
        assert_eq!(object["members"][0]["zone"], "a");
        assert_eq!(object["kept_disks"][0]["claim"], "data-demo-2");
        assert_eq!(object["doing"]["reason"], "Waiting");
    }

    #[test]
    fn a_cluster_that_nobody_looked_at_is_shown_too() {
        let mut seen = seen();
        seen.cluster.status = None;
        assert!(head(&seen, false)[0].contains("no operator has looked at it"));
        assert!(foot(&seen, false)[0].contains("latest spec"));
    }
}
