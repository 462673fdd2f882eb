//! `kvorum status` and `kvorum member list`: tables of the members.

use std::time::Duration;

use comfy_table::{Attribute, Cell, CellAlignment, Color, Table};
use kvorum_client::{Client, Member, Members, OtherDisk, Role};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::{Output, id};
use crate::{table, text};

/// A clock that is behind by more is worth a line: a key is to go within half a second of its deadline, whoever
/// leads.
const CLOCK_LAG_MAX: Duration = Duration::from_millis(500);

pub(crate) async fn status(client: &Client, output: &mut Output) -> Result<(), Failure> {
    let members = client.members().await?;
    if output.json() {
        return output.object(&status_object(&members));
    }
    let headline = headline(&members);
    output.line(headline, Value::Null)?;
    let table = status_table(&members, output.colour(), output.terminal());
    table::print(table, output)?;
    notes(&members).into_iter().try_for_each(|note| output.line(note, Value::Null))
}

/// `kvorum member list`.
pub(crate) async fn list(client: &Client, output: &mut Output) -> Result<(), Failure> {
    let members = client.members().await?;
    if output.json() {
        return output.object(&status_object(&members));
    }
    let mut table = table::new(output.terminal());
    table.set_header(["ID", "ROLE", "VOTER", "PEER", "CLIENT"]);
    for member in &members.members {
        table.add_row([
            Cell::new(id(member.node_id)),
            role_cell(member, output.colour()),
            Cell::new(if member.voter { "yes" } else { "no" }),
            Cell::new(&member.peer_address),
            Cell::new(&member.client_address),
        ]);
    }
    table::print(table, output)
}

fn headline(members: &Members) -> String {
    let voters = members.members.iter().filter(|member| member.voter).count();
    let leader = members.leader_id.map_or("no leader".to_owned(), |leader| format!("leader {}", id(leader)));
    // A node of a release without levels says none.
    let level = members.feature_level.map_or(String::new(), |level| format!(" · feature level {level}"));
    format!(
        "cluster {} · {}, {voters} voting · {leader} · term {} · revision {}{level}",
        id(members.header.cluster_id),
        text::count(members.members.len() as u64, "member"),
        members.header.term,
        revision(members),
    )
}

/// The newest revision that any member knows.
fn revision(members: &Members) -> u64 {
    members.members.iter().map(|member| member.revision).max().unwrap_or(members.header.revision)
}

/// Log entries that the member has not applied and the furthest one has in its log.
fn lag(members: &Members, member: &Member) -> u64 {
    let leader = members.members.iter().find(|member| member.role == Role::Leader);
    let furthest = leader.map_or_else(
        || members.members.iter().map(|member| member.last_log_index).max().unwrap_or_default(),
        |leader| leader.last_log_index,
    );
    furthest.saturating_sub(member.applied_index)
}

fn status_table(members: &Members, colour: bool, terminal: bool) -> Table {
    let mut table = table::new(terminal);
    table.set_header([
        "MEMBER", "ROLE", "CLIENT", "PEER", "VERSION", "REVISION", "LAG", "STORE", "LOG", "ALARMS",
    ]);
    for member in &members.members {
        let known = |text: String| if member.reachable { text } else { "-".to_owned() };
        let number = |text: String| Cell::new(known(text)).set_alignment(CellAlignment::Right);
        let alarms = if member.alarms.is_empty() { known(String::new()) } else { member.alarms.join(", ") };
        let mut alarms = Cell::new(alarms);
        if colour && !member.alarms.is_empty() {
            alarms = alarms.fg(Color::Red).add_attribute(Attribute::Bold);
        }
        table.add_row([
            Cell::new(id(member.node_id)),
            role_cell(member, colour),
            Cell::new(&member.client_address),
            Cell::new(&member.peer_address),
            Cell::new(known(member.version.clone())),
            number(member.revision.to_string()),
            number(lag(members, member).to_string()),
            number(text::bytes(member.store_bytes)),
            number(text::bytes(member.log_bytes)),
            alarms,
        ]);
    }
    table
}

/// What is not as it should be and does not show in a table: for how long, and what to do.
fn notes(members: &Members) -> Vec<String> {
    members.members.iter().flat_map(|member| member_notes(members.header.cluster_id, member)).collect()
}

fn member_notes(cluster_id: u64, member: &Member) -> Vec<String> {
    let name = format!("member {}", id(member.node_id));
    let mut notes = Vec::new();
    if let Some(other) = member.other_disk {
        notes.push(format!("{name}: {}", other_disk(cluster_id, member, other)));
    }
    if !member.lagging.is_zero() {
        notes.push(format!("{name}: has not been caught up for {}", text::duration(member.lagging)));
    }
    if member.clock_lag > CLOCK_LAG_MAX {
        let behind = text::duration(member.clock_lag);
        notes.push(format!(
            "{name}: its clock is {behind} behind the leader's; keys would expire later if it led"
        ));
    }
    notes
}

/// Who answers in a member's place, and what to type.
fn other_disk(cluster_id: u64, member: &Member, other: OtherDisk) -> String {
    let (node_id, peer) = (id(member.node_id), &member.peer_address);
    let (whose, next) = match other.cluster_id {
        None => (
            "which is unjoined".to_owned(),
            format!(
                "if the member's own disk is lost: kvorum member remove {node_id} && kvorum member add {peer}"
            ),
        ),
        Some(cluster) if cluster == cluster_id => (
            "of this cluster too".to_owned(),
            format!("start that one with its own --advertise-peer; {peer} is this member's"),
        ),
        Some(cluster) => (
            format!("of cluster {}", id(cluster)),
            "start the member there with its own --data-dir".to_owned(),
        ),
    };
    format!("at {peer} another disk answers, node {}, {whose}; {next}", id(other.node_id))
}

fn role_cell(member: &Member, colour: bool) -> Cell {
    let text = match (member.reachable, member.role) {
        (false, _) if member.other_disk.is_some() => "other disk",
        (false, _) => "unreachable",
        (true, role) => role.as_str(),
    };
    let cell = Cell::new(text);
    match (colour, text) {
        (false, _) => cell,
        (true, "leader") => cell.fg(Color::Green).add_attribute(Attribute::Bold),
        (true, "follower") => cell.fg(Color::Green),
        (true, "learner" | "candidate") => cell.fg(Color::Yellow),
        (true, _) => cell.fg(Color::Red),
    }
}

fn status_object(members: &Members) -> Value {
    let list: Vec<Value> = members.members.iter().map(|member| member_object(members, member)).collect();
    json!({
        "cluster_id": id(members.header.cluster_id),
        "leader_id": members.leader_id.map(id),
        "term": members.header.term,
        "revision": revision(members),
        "feature_level": members.feature_level,
        "members": list,
        "notes": notes(members),
    })
}

fn member_object(members: &Members, member: &Member) -> Value {
    let mut object = json!({
        "id": id(member.node_id),
        "peer_address": member.peer_address,
        "client_address": member.client_address,
        "role": member.role.as_str(),
        "voter": member.voter,
        "reachable": member.reachable,
        "alarms": member.alarms,
        "lagging_ms": member.lagging.as_millis() as u64,
        "other_disk": member.other_disk.map(|other| {
            json!({"id": id(other.node_id), "cluster_id": other.cluster_id.map(id)})
        }),
    });
    if let (true, Some(object)) = (member.reachable, object.as_object_mut()) {
        object.insert("version".to_owned(), member.version.as_str().into());
        object.insert("revision".to_owned(), member.revision.into());
        object.insert("applied_index".to_owned(), member.applied_index.into());
        object.insert("last_log_index".to_owned(), member.last_log_index.into());
        object.insert("lag".to_owned(), lag(members, member).into());
        object.insert("clock_lag_ms".to_owned(), (member.clock_lag.as_millis() as u64).into());
        object.insert("store_bytes".to_owned(), member.store_bytes.into());
        object.insert("log_bytes".to_owned(), member.log_bytes.into());
    }
    object
}
