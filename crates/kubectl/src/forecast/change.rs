//! The changes that a forecast can begin with.

use std::collections::BTreeSet;

use kvorum_operator::levels::too_old;
use kvorum_operator::observed;

use super::By;
use super::world::World;

/// What is asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct What {
    /// Machines that are gone for good.
    pub(crate) lose: BTreeSet<String>,
    /// Machines that are drained.
    pub(crate) drain: BTreeSet<String>,
    /// The spec's image is another one.
    pub(crate) image: Option<String>,
    /// The spec's members.
    pub(crate) members: Option<u32>,
}

/// Makes the change, and says what it is and what comes of it by itself.
pub(crate) fn change(world: &mut World, what: &What) -> Vec<(By, String)> {
    let mut said = Vec::new();
    lose(world, &what.lose, &mut said);
    for machine in &what.drain {
        drain(world, machine, &mut said);
    }
    if let Some(image) = &what.image {
        match *image == world.image {
            true => said.push((By::Change, format!("the image is {image} already"))),
            false => {
                said.push((By::Change, format!("the spec's image is {image}, not {}", world.image)));
                let levels = world.observed.nodes.values().map(|node| node.feature_level);
                match too_old(image, levels.max().unwrap_or_default()) {
                    Some(refused) => world.observed.image_refused = Some(refused),
                    None => world.renew_template(),
                }
            }
        }
    }
    if let Some(members) = what.members {
        said.push((By::Change, format!("spec.members is {members}, not {}", world.observed.wanted.members)));
        world.observed.wanted.members = members;
    }
    said
}

fn lose(world: &mut World, machines: &BTreeSet<String>, said: &mut Vec<(By, String)>) {
    world.machines.retain(|machine| !machines.contains(&machine.name));
    for machine in machines {
        let members = world.pods_on(machine);
        let names: Vec<String> = members.iter().map(|ordinal| world.observed.pod_name(*ordinal)).collect();
        let on_it = world.volumes_of(machine);
        let disks: Vec<String> = on_it.iter().map(|ordinal| world.observed.claim_name(*ordinal)).collect();
        for ordinal in &on_it {
            if let Some(claim) = world.observed.claims.get_mut(ordinal) {
                claim.machine = observed::Machine::Missing;
                claim.home = Some(machine.clone());
            }
        }
        for ordinal in members {
            world.kill(ordinal, format!("it is not scheduled: machine {machine} is gone"));
        }
        let what = match (names.is_empty(), disks.is_empty()) {
            (true, true) => {
                format!("machine {machine} is gone; no member and no disk of the cluster was there")
            }
            (_, true) => format!(
                "machine {machine} is gone, and member {} stops; its volume is elsewhere",
                names.join(", ")
            ),
            (true, false) => format!("machine {machine} is gone, with the disks of {}", disks.join(", ")),
            (false, false) => {
                format!(
                    "machine {machine} is gone, with member {} and the disk of {}",
                    names.join(", "),
                    disks.join(", ")
                )
            }
        };
        said.push((By::Change, what));
    }
    // Volumes that others could use, if there were others.
    let unfit: Vec<u32> = world.unfit();
    for ordinal in unfit {
        if let Some(claim) = world.observed.claims.get_mut(&ordinal) {
            claim.machine = observed::Machine::Unfit;
        }
    }
    said.extend(by_itself(world.elect()));
}

/// A drain evicts what the disruption budget lets go: one member at a time, and only while the others are ready.
fn drain(world: &mut World, machine: &str, said: &mut Vec<(By, String)>) {
    world.machines.iter_mut().filter(|known| known.name == machine).for_each(|known| known.takes = false);
    world.observed.cordoned.push(machine.to_owned());
    let mut members = world.pods_on(machine);
    if members.is_empty() {
        said.push((By::Change, format!("machine {machine} is cordoned; no member runs there")));
        return;
    }
    let leader = world.leader();
    // The leader stays longest.
    members.sort_by_key(|ordinal| (Some(*ordinal) == leader, u32::MAX - ordinal));
    for ordinal in members {
        let pod = world.observed.pod_name(ordinal);
        if !world.observed.pods.iter().all(|(other, pod)| *other == ordinal || (pod.ready && !pod.deleting)) {
            let what = format!(
                "the disruption budget does not let pod {pod} go while another member is away: the drain of {machine} \
                 waits"
            );
            said.push((By::Change, what));
            continue;
        }
        let hands_over = world.leader() == Some(ordinal) && world.observed.pods.len() > 1;
        world.kill(ordinal, format!("it is not scheduled: machine {machine} is cordoned"));
        let over = if hands_over { ", after it has handed leadership over" } else { "" };
        said.push((By::Change, format!("the drain of {machine} evicts pod {pod}{over}")));
        said.extend(by_itself(world.elect()));
        // Where its volume can be used elsewhere it is back before the next one goes.
        said.extend(by_itself(world.start_pods()));
    }
}

fn by_itself(said: Vec<String>) -> impl Iterator<Item = (By, String)> {
    said.into_iter().map(|what| (By::Itself, what))
}
