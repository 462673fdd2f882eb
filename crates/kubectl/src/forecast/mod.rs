//! What the operator would do: its own plan, step by step, over a world in which every step and every wait comes to a
//! good end. What cannot come to an end by itself is where the forecast ends.
//!
//! Architecture invariant: there is no client here. The plan is the operator's; only what Kubernetes and the members do
//! by themselves is told anew, in `world`.

mod change;
mod world;

use std::collections::BTreeSet;

use kvorum_operator::names::hex;
use kvorum_operator::observed::Observed;
use kvorum_operator::plan::{Offer, View, caveat, offer, plan};
use kvorum_operator::step::Step;

pub(crate) use self::change::{What, change};
pub(crate) use self::world::{Machine, Volume, World};

/// A plan that has not come to its end after so many steps never does: replacing seven members takes some two hundred.
const STEPS_MAX: u32 = 1_000;

/// What would happen.
#[derive(Debug, Default)]
pub(crate) struct Forecast {
    /// One after another.
    pub(crate) lines: Vec<Line>,
    /// What a person should know in the end.
    pub(crate) notes: Vec<String>,
    /// How it ends.
    pub(crate) end: End,
    /// Writes are interrupted for longer than an election takes, at some point or from the beginning.
    pub(crate) interrupted: bool,
    /// Members whose disks are lost or deleted on the way.
    pub(crate) disks: Vec<String>,
    /// What becomes of acknowledged writes: a sentence.
    pub(crate) lost: String,
}

/// How a forecast ends.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum End {
    /// All is as wanted.
    #[default]
    Settled,
    /// Something is waited for that does not come by itself: what, and what to do.
    Waits(String),
}

/// One thing that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Who does it.
    pub(crate) by: By,
    /// What: a sentence without its full stop.
    pub(crate) what: String,
    /// Why; empty where nobody decides.
    pub(crate) why: String,
    /// A quorum has a leader afterwards.
    pub(crate) writes: bool,
}

/// Who does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// It is what was asked about.
    Change,
    /// The operator.
    Operator,
    /// Kubernetes, the machines or the members.
    Itself,
}

/// Foresees what comes of a change.
pub(crate) fn foresee(mut world: World, what: &What) -> Forecast {
    let mut forecast = Forecast::default();
    let before = world.observed.clone();
    let said = change(&mut world, what);
    let writes = world.has_leader();
    forecast.lines.extend(said.into_iter().map(|(by, what)| Line { by, what, why: String::new(), writes }));
    forecast.end = run(&mut world, &mut forecast);
    let name = |text: &str| world.names(text);
    forecast.lines.iter_mut().for_each(|line| (line.what, line.why) = (name(&line.what), name(&line.why)));
    // It may have none already.
    forecast.interrupted |= !writes || forecast.lines.iter().any(|line| !line.writes);
    forecast.disks = gone(&before, &world.observed);
    forecast.lost = lost(&world.observed, &forecast.disks);
    forecast
}

fn run(world: &mut World, forecast: &mut Forecast) -> End {
    for _ in 0..STEPS_MAX {
        let plan = plan(&world.observed);
        // What stood in the way on the way does so no more.
        forecast.notes = plan.notes.into_iter().map(|note| note.message).collect();
        if plan.step.is_idle() {
            let happened = world.settle();
            if happened.is_empty() {
                return match plan.step {
                    Step::Rest if world.observed.image_refused.is_none() => End::Settled,
                    _ => End::Waits(format!("{}{}", plan.reason, world.pending())),
                };
            }
            for what in happened {
                let writes = world.has_leader();
                forecast.lines.push(Line { by: By::Itself, what, why: String::new(), writes });
            }
            continue;
        }
        let what = plan.step.to_do(&world.observed.name);
        world.take(&plan.step);
        if !is_bookkeeping(&plan.step) {
            let writes = world.has_leader();
            forecast.lines.push(Line { by: By::Operator, what, why: plan.reason, writes });
        }
    }
    End::Waits(format!(
        "It does not come to an end within {STEPS_MAX} steps; that is a defect worth a report."
    ))
}

/// Steps that only write down what is known or comes next.
fn is_bookkeeping(step: &Step) -> bool {
    matches!(step, Step::Record(_) | Step::Forget(_) | Step::Abandon(_) | Step::RecordDisk { .. })
}

/// Members whose disk of before is not among those of after, nor kept where it was.
fn gone(before: &Observed, after: &Observed) -> Vec<String> {
    let disks = |observed: &Observed| -> BTreeSet<u64> {
        let lost = |ordinal: &u32| observed.claims.get(ordinal).is_some_and(world::is_lost);
        let claims = observed.claims.iter().filter(|(ordinal, _)| !lost(ordinal));
        claims.filter_map(|(_, claim)| Some(claim.disk?.node_id)).collect()
    };
    let (was, is) = (disks(before), disks(after));
    let gone = before.claims.iter().filter(|(_, claim)| {
        claim.disk.is_some_and(|disk| was.contains(&disk.node_id) && !is.contains(&disk.node_id))
    });
    gone.map(|(ordinal, _)| before.pod_name(*ordinal)).collect()
}

/// What becomes of acknowledged writes.
fn lost(after: &Observed, disks: &[String]) -> String {
    if View::of(after).is_some() {
        return match disks.is_empty() {
            true => "No disk and no acknowledged write is lost.".into(),
            false => "No acknowledged write is lost: a majority of the members keeps each of them.".into(),
        };
    }
    match offer(after) {
        Offer::From(token) | Offer::Behind(token) => {
            let caveat = caveat(after, &token).map_or_else(String::new, |caveat| format!(" {caveat}"));
            format!(
                "A quorum is lost for good. Writes that only the lost disks had are lost; the best survivor is {}.{caveat} To \
                 go on from it: kubectl kvorum recover {}",
                hex(token.node_id),
                after.name
            )
        }
        Offer::Silent(silent) => {
            let said: Vec<String> = silent.iter().map(|silent| silent.said(after)).collect();
            format!("Nothing is lost while these disks may come back. {}", said.join(" "))
        }
        Offer::Nothing => {
            "All data is lost: no disk is left that has it. Only a restore of a snapshot helps.".into()
        }
    }
}

#[cfg(test)]
mod tests;
