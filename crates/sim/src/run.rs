//! One seed, from the founding of its cluster to the last look.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, Violation};
use crate::marks::Marks;
use crate::plan::Plan;
use crate::setup::Setup;
use crate::spin::Watched;
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
/// How long operators may take until the KvCluster is as wanted, once all is well: a machine counts as gone after a minute.
const WANTED_MAX: Micros = 400 * SECOND;
/// Calls in flight end within this once nobody begins another one.
const SETTLES: Micros = 5 * SECOND;
/// How long an operator may take to say that most disks are lost, and what can be done.
const OFFER_MAX: Micros = 60 * SECOND;
/// How long what ends by itself may take: what nobody reads of a snapshot is kept for half a minute. Between two looks at
/// all that.
const REST_MAX: Micros = 60 * SECOND;
const REST_LOOKS: Micros = SECOND / 4;
/// How long what is done to the membership may take.
const EXERCISE_MAX: Micros = 400 * SECOND;

/// What is run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What will go wrong, and the seed, of which all else follows.
    pub plan: Plan,
    /// Where every event goes, if anywhere.
    pub trace: Option<PathBuf>,
    /// Who counts what is reached.
    pub marks: Marks,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Equal in each run of the seed.
    pub trace_hash: u64,
    /// Events in the trace.
    pub events: u64,
    /// Simulated time.
    pub micros: Micros,
    /// Processor time of the run, which other processes on the machine do not change.
    pub cpu_seconds: f64,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// What happened that a long run must see, and how often.
    pub marks: BTreeMap<String, u64>,
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
    let Run { plan, .. } = run;
    let mut world = World::new(plan.seed, all)?;
    let mut setup = Setup::draw(plan.seed, plan.clocks_ppm.len(), plan.lasts);
    if plan.operators > 0 {
        setup.upgraded_at.clear();
    }
    let mut cluster = Cluster::start(&mut world, dir, plan, setup)?;
    let session = workload::start(&mut world, &cluster, plan, dir)?;
    let watched = Watched::begin(world.clock.clone(), spins(plan.seed, &world));
    let violation = match plan.operators {
        0 => live(&mut world, &mut cluster, &session, plan),
        _ => live_operated(&mut world, &mut cluster, &session, plan),
    };
    drop(watched);
    let violation = violation.and_then(|()| check(&session)).err();
    if let Some(violation) = &violation {
        world.trace.tell("violation", violation.clone());
    }
    let (trace_hash, events) = world.trace.hash();
    let outcome = session.told(|told| Outcome {
        seed: plan.seed,
        trace_hash,
        events,
        micros: world.clock.now(),
        cpu_seconds: cpu_seconds(),
        faults: cluster.faults.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        marks: run.marks.reached(),
        answered: told.answered,
        failed: told.failed,
        ttls: told.ttls,
        violation,
        lines: world.trace.lines(),
    });
    Ok(outcome)
}

/// Ends this process with the outcome of a run in which no time passes any more.
#[expect(clippy::print_stdout, reason = "the outcome is this command's output")]
fn spins(seed: u64, world: &World) -> impl FnOnce() + Send + 'static {
    let (clock, trace) = (world.clock.clone(), world.trace.clone());
    move || {
        let violation = Some("no time passes any more: a host has always something to do".to_owned());
        let (micros, lines) = (clock.now(), trace.lines());
        let outcome =
            Outcome { seed, micros, violation, lines, cpu_seconds: cpu_seconds(), ..Outcome::default() };
        println!("{}", serde_json::to_string(&outcome).unwrap_or_default());
        std::process::exit(1);
    }
}

/// The faults, the healing, and the end.
fn live(world: &mut World, cluster: &mut Cluster, session: &Session, plan: &Plan) -> Result<(), Violation> {
    advance(world, cluster, session, FOUND_MAX, "the cluster was not founded", Session::is_founded)?;
    let mut faults = plan.faults.iter().copied().peekable();
    while world.clock.now() < plan.lasts {
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
    finish(world, cluster, session)
}

/// The same where operators look after the members: they found the cluster under faults, and in the end it is as wanted.
fn live_operated(
    world: &mut World,
    cluster: &mut Cluster,
    session: &Session,
    plan: &Plan,
) -> Result<(), Violation> {
    let mut faults = plan.faults.iter().copied().peekable();
    while world.clock.now() < plan.lasts {
        while let Some(fault) = faults.next_if(|fault| fault.at <= world.clock.now()) {
            cluster.begin(world, fault)?;
        }
        step(world, cluster, session)?;
    }
    cluster.heal(world)?;
    cluster.wish(world)?;
    be_as_wanted(world, cluster, session)?;
    advance(world, cluster, session, FOUND_MAX, "the cluster was not founded", Session::is_founded)?;
    session.set_healed();
    if cluster.loses_most() {
        recover(world, cluster, session)?;
    }
    finish(world, cluster, session)
}

/// All disks but one are lost, and a person asks for what the operator says then.
fn recover(world: &mut World, cluster: &mut Cluster, session: &Session) -> Result<(), Violation> {
    // What the one disk lacks may be lost for good; so nobody writes before.
    session.rest(true);
    let settled = world.clock.now() + SETTLES;
    while world.clock.now() < settled {
        step(world, cluster, session)?;
    }
    let late = "the members never have applied the same at the same time";
    until(world, cluster, session, CATCH_UP_MAX, late, |cluster, world| cluster.is_level(world))?;
    session.set_new_history();
    cluster.orders.set_over(true);
    cluster.lose_most(world)?;
    let late = "no recovery is offered, though most disks are lost";
    until(world, cluster, session, OFFER_MAX, late, |cluster, _| cluster.is_asked_to_recover())?;
    be_as_wanted(world, cluster, session)?;
    session.rest(false);
    cluster.orders.set_over(false);
    Ok(())
}

fn be_as_wanted(world: &mut World, cluster: &mut Cluster, session: &Session) -> Result<(), Violation> {
    let end = world.clock.now() + WANTED_MAX;
    while let Some(unwanted) = cluster.unwanted() {
        step(world, cluster, session)?;
        if world.clock.now() > end {
            let seconds = WANTED_MAX / SECOND;
            return Err(format!("the KvCluster is not as wanted after {seconds} s: {unwanted}"));
        }
    }
    Ok(())
}

fn until(
    world: &mut World,
    cluster: &mut Cluster,
    session: &Session,
    within: Micros,
    late: &str,
    holds: impl Fn(&Cluster, &World) -> bool,
) -> Result<(), Violation> {
    let end = world.clock.now() + within;
    while !holds(cluster, world) {
        step(world, cluster, session)?;
        if world.clock.now() > end {
            return Err(late.to_owned());
        }
    }
    Ok(())
}

/// The clients come to an end, and all members hold the same.
fn finish(world: &mut World, cluster: &mut Cluster, session: &Session) -> Result<(), Violation> {
    cluster.orders.set_over(true);
    session.stop();
    let late = "the clients did not come to an end after all was well again";
    advance(world, cluster, session, FINISH_MAX, late, Session::is_finished)?;
    be_at_rest(world, cluster, session)?;
    // Compaction may go on, step by step, in which the members are milliseconds apart.
    let late = "the members never have applied the same at the same time";
    until(world, cluster, session, CATCH_UP_MAX, late, |cluster, world| cluster.is_level(world))?;
    cluster.check_equal(world)?;
    cluster.check_rows(world)
}

/// What ends by itself has ended.
fn be_at_rest(world: &mut World, cluster: &mut Cluster, session: &Session) -> Result<(), Violation> {
    let end = world.clock.now() + REST_MAX;
    while let Some(unrest) = cluster.unrest(world)? {
        let next = world.clock.now() + REST_LOOKS;
        while world.clock.now() < next {
            step(world, cluster, session)?;
        }
        if next > end {
            return Err(format!("{} s after all was well and nobody writes, {unrest}", REST_MAX / SECOND));
        }
    }
    Ok(())
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

/// What this process has used so far; zero where /proc does not say.
pub fn cpu_seconds() -> f64 {
    /// How the kernel counts there, whatever the machine.
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may hold anything: the state is the first field, user and system time the 12th and 13th.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks = fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>();
    ticks / TICKS_A_SECOND
}
