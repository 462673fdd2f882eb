//! `kubectl kvorum plan`: what the operator would do if something were lost or changed.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PodSpec};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use kvorum_cli::failure::Failure;
use kvorum_cli::output::Output;
use kvorum_cli::text;
use kvorum_crd::AntiAffinity;
use kvorum_operator::observe::Seen;
use kvorum_operator::observe::schedule::{fits_any, home, is_bound_to_one, is_ready, lets_on};
use serde_json::{Value, json};

use crate::args::Change;
use crate::forecast::{By, End, Forecast, Line, Machine, Volume, What, World, foresee};
use crate::observe::look;
use crate::session::{Session, refused};
use crate::status::ZONE;

pub(crate) async fn plan(session: &Session, args: Change, output: &mut Output) -> Result<(), Failure> {
    let seen = look(session, &args.name).await?;
    let listed = Api::<Node>::all(session.client.clone()).list(&ListParams::default()).await;
    let nodes = listed.map_err(|error| refused("list the machines, on which a plan depends", &error))?.items;
    let what = what(&args, &nodes)?;
    let mut world = World::new(seen.observed.clone(), image(&seen));
    world.apart = seen.cluster.spec.pod.anti_affinity == AntiAffinity::Required;
    let made: PodSpec = serde_json::from_value(seen.template.template["spec"].clone()).unwrap_or_default();
    let machine =
        |node: &Node| Machine { name: node.name_any(), takes: is_ready(node) && lets_on(&made, node) };
    world.machines = nodes.iter().map(machine).collect();
    for (ordinal, claim) in seen.observed.claims.iter().filter(|(_, claim)| !claim.volume.is_empty()) {
        let read = Api::<PersistentVolume>::all(session.client.clone()).get_opt(&claim.volume).await;
        let read = read.map_err(|error| refused(&format!("read volume {}", claim.volume), &error))?;
        if let Some(found) = read {
            let machine = seen.observed.pods.get(ordinal).and_then(|pod| pod.machine.clone());
            world.volumes.insert(*ordinal, volume(&found, &nodes, machine));
        }
    }
    print(&seen.name, &foresee(world, &what), output)
}

/// The change that was asked for, of machines that there are.
fn what(args: &Change, nodes: &[Node]) -> Result<What, Failure> {
    let known = |wanted: &String| match nodes.iter().any(|node| node.name_any() == *wanted) {
        true => Ok(wanted.clone()),
        false => Err(Failure::Usage(format!(
            "there is no machine {wanted}; there are {}",
            listed(nodes.iter().map(|node| node.name_any()).collect())
        ))),
    };
    let mut lose = args.lose_machine.iter().map(known).collect::<Result<BTreeSet<String>, Failure>>()?;
    for zone in &args.lose_zone {
        let of = |node: &&Node| node.labels().get(ZONE) == Some(zone);
        let machines: Vec<String> = nodes.iter().filter(of).map(|node| node.name_any()).collect();
        if machines.is_empty() {
            let zones: BTreeSet<String> =
                nodes.iter().filter_map(|node| node.labels().get(ZONE).cloned()).collect();
            return Err(Failure::Usage(format!(
                "no machine has the label {ZONE}={zone}; there are zones {}",
                listed(zones)
            )));
        }
        lose.extend(machines);
    }
    let drain = args.drain.iter().map(known).collect::<Result<BTreeSet<String>, Failure>>()?;
    Ok(What { lose, drain, image: args.image.clone(), members: args.members })
}

fn listed(names: BTreeSet<String>) -> String {
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.into_iter().collect::<Vec<_>>().join(", "),
    }
}

fn image(seen: &Seen) -> String {
    seen.cluster.spec.image.clone().unwrap_or_else(|| seen.pinned_image.clone())
}

/// A volume of one machine is at home there, though its affinity may name none.
fn volume(volume: &PersistentVolume, nodes: &[Node], machine: Option<String>) -> Volume {
    let fits = nodes.iter().filter(|node| fits_any(volume, std::slice::from_ref(*node)));
    let home = home(volume).or(machine.filter(|_| is_bound_to_one(volume)));
    Volume { home, fits: fits.map(|node| node.name_any()).collect() }
}

fn print(name: &str, forecast: &Forecast, output: &mut Output) -> Result<(), Failure> {
    if output.json() {
        return output.object(&object(name, forecast));
    }
    lines(name, forecast).into_iter().try_for_each(|line| output.line(line, Value::Null))
}

fn lines(name: &str, forecast: &Forecast) -> Vec<String> {
    let mut lines = Vec::new();
    let mut steps = 0;
    for Line { by, what, why, writes } in &forecast.lines {
        let mark = match by {
            By::Change => "if ".to_owned(),
            By::Operator => {
                steps += 1;
                format!("{steps:>2}.")
            }
            By::Itself => " · ".to_owned(),
        };
        let why = if why.is_empty() { String::new() } else { format!(" ({})", why.trim_end_matches('.')) };
        let stops = if *writes { "" } else { " — writes stop" };
        lines.push(format!("{mark} {what}{why}{stops}"));
    }
    lines.push(match (&forecast.end, steps) {
        (End::Settled, 0) => {
            format!("In the end {name} is as the spec wants, and the operator has nothing to do.")
        }
        (End::Settled, _) => {
            format!("In the end {name} is as the spec wants, after {}.", text::count(steps, "step"))
        }
        (End::Waits(reason), _) => format!("Then the operator waits. {reason}"),
    });
    lines.push(match forecast.interrupted {
        false if forecast.lines.iter().any(|line| line.what.contains("is elected")) => {
            "Writes go on, but for the time of an election.".into()
        }
        false => "Writes go on.".into(),
        true => "Writes are interrupted.".into(),
    });
    if !forecast.disks.is_empty() {
        lines.push(format!("Disks that go: {}.", forecast.disks.join(", ")));
    }
    lines.push(forecast.lost.clone());
    lines.extend(forecast.notes.iter().map(|note| format!("Note: {note}")));
    lines
}

fn object(name: &str, forecast: &Forecast) -> Value {
    let by = |by: By| match by {
        By::Change => "change",
        By::Operator => "operator",
        By::Itself => "itself",
    };
    let steps: Vec<Value> = forecast
        .lines
        .iter()
        .map(|line| json!({"by": by(line.by), "what": line.what, "why": line.why, "writes": line.writes}))
        .collect();
    let waits = match &forecast.end {
        End::Settled => None,
        End::Waits(reason) => Some(reason),
    };
    json!({
        "name": name,
        "steps": steps,
        "settled": waits.is_none(),
        "waits_for": waits,
        "writes_interrupted": forecast.interrupted,
        "disks": forecast.disks,
        "lost": forecast.lost,
        "notes": forecast.notes,
    })
}
