//! One seed, from the founding of its cluster to the last look.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, Violation};
use crate::plan::{Kind, Plan};
use crate::setup::Setup;
use crate::workload::{self, Session};
use crate::world::World;
use crate::world::clock::{Micros, SECOND};

/// How long founding and the looks at the end may take.
const FOUND_MAX: Micros = 60 * SECOND;
const FINISH_MAX: Micros = 300 * SECOND;
/// How long a majority that is well may take until it takes writes, and members until they have caught up under load.
const WRITES_MAX: Micros = 15 * SECOND;
const IN_FLIGHT: Micros = 3 * SECOND;
const CATCH_UP_MAX: Micros = 60 * SECOND;
/// How long what is done to the membership may take.
const EXERCISE_MAX: Micros = 400 * SECOND;

/// What is run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The seed, of which everything follows.
    pub seed: u64,
    /// For how long faults go on.
    pub lasts: Micros,
    /// Members.
    pub members: usize,
    /// Kinds of faults; drawn where there are none.
    pub kinds: Option<Vec<Kind>>,
    /// Where every event goes, if anywhere.
    pub trace: Option<PathBuf>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Equal in each run of the seed.
    pub trace_hash: u64,
    /// Events in the trace.
    pub events: u64,
    /// Simulated time.
    pub micros: Micros,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Answers, and calls that failed.
    pub answered: u64,
    /// See `answered`.
    pub failed: u64,
    /// TTLs that were seen to end.
    pub ttls: u64,
    /// The first thing that must not be.
    pub violation: Option<String>,
    /// What happened before.
    pub lines: Vec<String>,
}

/// Runs a seed with its files in a directory, which is removed.
pub fn run(run: &Run, dir: &Path) -> io::Result<Outcome> {
    let all = run.trace.as_ref().map(File::create).transpose()?;
    let mut world = World::new(run.seed, all)?;
    let plan = Plan::draw(run.seed, run.members, run.lasts, run.kinds.as_deref());
    let setup = Setup::draw(run.seed, run.members, run.lasts);
    let mut cluster = Cluster::start(&mut world, dir, &plan.clocks_ppm, setup)?;
    let session = workload::start(&mut world, &cluster, run.seed, dir)?;
    let violation = live(&mut world, &mut cluster, &session, &plan, run.lasts);
    let violation = violation.and_then(|()| check(&session)).err();
    if let Some(violation) = &violation {
        world.trace.tell("violation", violation.clone());
    }
    let (trace_hash, events) = world.trace.hash();
    let outcome = session.told(|told| Outcome {
        seed: run.seed,
        trace_hash,
        events,
        micros: world.clock.now(),
        faults: cluster.faults.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        answered: told.answered,
        failed: told.failed,
        ttls: told.ttls,
        violation,
        lines: world.trace.lines(),
    });
    Ok(outcome)
}

/// The faults, the healing, and the end.
fn live(
    world: &mut World,
    cluster: &mut Cluster,
    session: &Session,
    plan: &Plan,
    lasts: Micros,
) -> Result<(), Violation> {
    advance(world, cluster, session, FOUND_MAX, "the cluster was not founded", Session::is_founded)?;
    let mut faults = plan.faults.iter().copied().peekable();
    while world.clock.now() < lasts {
        while let Some(fault) = faults.next_if(|fault| fault.at <= world.clock.now()) {
            cluster.begin(world, fault)?;
        }
        step(world, cluster, session)?;
    }
    cluster.heal_most(world, plan.broken)?;
    // What was under way when it broke counts for nothing.
    let since = world.clock.now() + IN_FLIGHT;
    let refused = "a majority that is well takes no writes";
    advance(world, cluster, session, WRITES_MAX, refused, |session| session.has_written_since(since))?;
    cluster.heal(world)?;
    let furthest = cluster.furthest(world);
    let end = world.clock.now() + CATCH_UP_MAX;
    while !cluster.have_applied(world, furthest) {
        step(world, cluster, session)?;
        if world.clock.now() > end {
            return Err(format!("not all members have caught up within {} s", CATCH_UP_MAX / SECOND));
        }
    }
    session.set_healed();
    advance(world, cluster, session, EXERCISE_MAX, "the exercise did not end", Session::is_exercised)?;
    cluster.orders.set_over(true);
    session.stop();
    let late = "the clients did not come to an end after all was well again";
    advance(world, cluster, session, FINISH_MAX, late, Session::is_finished)?;
    cluster.check_equal(world)
}

fn advance(
    world: &mut World,
    cluster: &mut Cluster,
    session: &Session,
    within: Micros,
    late: &str,
    until: impl Fn(&Session) -> bool,
) -> Result<(), Violation> {
    let end = world.clock.now() + within;
    while !until(session) {
        step(world, cluster, session)?;
        if world.clock.now() > end {
            return Err(late.to_owned());
        }
    }
    Ok(())
}

fn step(world: &mut World, cluster: &mut Cluster, session: &Session) -> Result<(), Violation> {
    let ended = world.step();
    cluster.step(world, ended)?;
    session.told(|told| told.violation.take()).map_or(Ok(()), Err)
}

/// What only the whole of a history shows.
fn check(session: &Session) -> Result<(), Violation> {
    session.told(|told| told.check())
}
