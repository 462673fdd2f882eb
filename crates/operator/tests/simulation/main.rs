//! Goal: whatever happens, and wherever the operator dies, a cluster is founded once, no step of the
//! operator costs it its quorum or acknowledged data, and it always ends up as the spec wants it.
//!
//! Method: random histories of a simulated cluster (`world`): people scale, change and delete things,
//! pods die, disks are emptied, machines vanish, operators crash before a step or come back with a
//! stale one. After each step of the operator the invariants are checked. Then the faults stop, and
//! within a bounded number of steps all must be as wanted. `PROPTEST_CASES=N` makes more histories.
mod conditions;
mod raft;
mod world;

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use kvorum_operator::observed::Observed;
use kvorum_operator::plan::{Plan, plan};
use kvorum_operator::step::Step;
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use world::World;

/// Rounds with faults.
const FAULTY_ROUNDS: u32 = 120;
/// Rounds within which all must be as wanted once the faults have stopped. Each step takes three
/// rounds (record, act, forget), and five members may each need some ten of them.
const QUIET_ROUNDS: u32 = 1_200;

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_cluster_survives_its_operator_and_ends_up_as_wanted(seed: u64, faults in 0u32..FAULTY_ROUNDS) {
        let mut history = History::begin(seed);
        for _ in 0..faults {
            history.round(Faults::Yes);
        }
        history.settle();
    }
}

/// Goal: the simulation is worth something: each kind of step is taken in it.
#[test]
fn every_kind_of_step_is_taken() {
    let mut taken = std::collections::BTreeSet::new();
    for seed in 0..400 {
        let mut history = History::begin(seed);
        for _ in 0..FAULTY_ROUNDS {
            history.round(Faults::Yes);
        }
        history.settle();
        taken.extend(history.taken);
    }
    let kinds = [
        "ApplyObjects",
        "ApplyAccess",
        "ApplyMonitor",
        "DeleteMonitor",
        "CreateStatefulSet",
        "UpdateStatefulSet",
        "Grow",
        "RecordDisk",
        "Retire",
        "GrowClaim",
        "Latch",
        "Initialize",
        "TransferLeader",
        "Record",
        "Forget",
        "Abandon",
        "AddLearner",
        "RemoveLearner",
        "ChangeVoters",
        "DeletePod",
        "DeleteClaim",
        "Shrink",
        "RecreateStatefulSet",
        "RaiseIncarnation",
        "Recover",
        "DropToken",
        "AddFinalizer",
        "RemoveFinalizer",
        "DeleteStatefulSet",
    ];
    for kind in kinds {
        assert!(taken.contains(kind), "{kind} was never taken: {taken:?}");
    }
}

/// Goal: as above, for as long as somebody has the patience: `SIMULATION_STEPS` steps of the operator that had an effect
/// (a million), from `SIMULATION_SEED` on, on all cores. It prints how many histories that were, and how fast.
#[test]
#[ignore = "takes minutes: cargo test --release -p kvorum-operator --test simulation -- --ignored --nocapture"]
fn a_million_steps_break_no_promise() {
    let number = |name: &str, usual: u64| {
        std::env::var(name).map_or(usual, |text| text.parse().expect("it is a number"))
    };
    let (wanted, first) = (number("SIMULATION_STEPS", 1_000_000), number("SIMULATION_SEED", 0));
    let (seeds, steps, rounds) = (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(0));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while steps.load(Relaxed) < wanted {
                    let mut history = History::begin(seeds.fetch_add(1, Relaxed));
                    for _ in 0..FAULTY_ROUNDS {
                        history.round(Faults::Yes);
                    }
                    history.settle();
                    steps.fetch_add(history.steps, Relaxed);
                    rounds.fetch_add(history.rounds, Relaxed);
                }
            });
        }
    });
    let (histories, took) = (seeds.into_inner() - first, begun.elapsed().as_secs_f64());
    println!(
        "{} steps and {} looks in {histories} histories, no promise broken: {took:.0} s, {:.0} histories a minute",
        steps.into_inner(),
        rounds.into_inner(),
        histories as f64 / took * 60.0
    );
}

#[derive(Clone, Copy, PartialEq)]
enum Faults {
    Yes,
    No,
}

struct History {
    rng: StdRng,
    world: World,
    /// A step that an operator planned and did not take; it may come back with it much later.
    stale: Option<Step>,
    taken: std::collections::BTreeSet<&'static str>,
    /// Steps that had an effect.
    steps: u64,
    rounds: u64,
    log: Vec<String>,
}

impl History {
    fn begin(seed: u64) -> History {
        let mut rng = StdRng::seed_from_u64(seed);
        let world = World::new(&mut rng);
        History { rng, world, stale: None, taken: Default::default(), steps: 0, rounds: 0, log: Vec::new() }
    }

    fn round(&mut self, faults: Faults) {
        self.rounds += 1;
        if faults == Faults::Yes {
            if self.rng.random_bool(0.3) {
                let lives = self.world.lives;
                let fault = self.world.fault(&mut self.rng);
                if self.world.lives != lives {
                    // Its uid fences the one that is gone.
                    self.stale = None;
                }
                if self.world.recorded().is_none() {
                    // Whoever erases the status erases the fence of a step that is about to be taken.
                    self.stale = self.stale.take().filter(|step| !matches!(step, Step::Act(_)));
                }
                self.note(format!("fault: {fault}"));
            }
            if let Some(stale) = self.stale.take_if(|_| self.rng.random_bool(0.1)) {
                self.take_late(stale);
            }
        }
        self.world.tick(&mut self.rng, faults == Faults::Yes);
        let observed = self.world.observe(&mut self.rng, faults == Faults::Yes);
        let plan = plan(&observed);
        self.check_recovery(&observed, &plan);
        if faults == Faults::No {
            self.world.heed(&observed, &plan.notes);
        }
        self.check_words(&plan);
        self.note(format!("plan: {}. {} {:?}", plan.step.begun("demo"), plan.reason, plan.notes));
        match faults {
            Faults::Yes if self.rng.random_bool(0.2) => self.stale = Some(plan.step),
            _ => self.take(plan.step),
        }
    }

    fn take(&mut self, step: Step) {
        let (before, interrupts) = (self.world.has_quorum(), self.world.may_interrupt(&step));
        if self.apply(&step, "operator")
            && let Step::ApplyAccess { sent } = &step
        {
            self.world.remember(*sent);
            if let Err(broken) = self.world.check() {
                self.fail(&broken);
            }
        }
        if before && !self.world.has_quorum() && !interrupts {
            self.fail(&format!("{step:?} cost the cluster its quorum"));
        }
    }

    /// An operator that was away since it planned this step. A pod that has crashed meanwhile is not
    /// its fault, but nothing may be deleted that the others have given up, or that is beside another
    /// step.
    fn take_late(&mut self, step: Step) {
        let recorded = self.world.recorded();
        if self.apply(&step, "stale operator")
            && let Step::Act(risky) = &step
            && recorded.as_ref() != Some(risky)
            && World::is_deletion(risky)
        {
            self.fail(&format!("{step:?} was taken late, beside {recorded:?}"));
        }
    }

    fn apply(&mut self, step: &Step, who: &str) -> bool {
        let lives = self.world.lives;
        let done = self.world.apply(step);
        if self.world.lives != lives {
            self.stale = None;
        }
        if done {
            self.taken.insert(step.kind());
            self.steps += u64::from(!step.is_idle());
        }
        if !step.is_idle() {
            self.note(format!("{who}: {step:?} -> {done}"));
        }
        if let Err(broken) = self.world.check() {
            self.fail(&broken);
        }
        done
    }

    fn note(&mut self, line: String) {
        if self.log.last() != Some(&line) {
            self.log.push(line);
        }
    }

    fn settle(&mut self) {
        self.stale = None;
        self.world.correct();
        for _ in 0..QUIET_ROUNDS {
            self.round(Faults::No);
            if self.world.unwanted().is_empty() {
                return;
            }
        }
        self.fail(&format!("it did not settle: {:?}", self.world.unwanted()));
    }

    /// Whoever is cut off from a leader, and hears of it by another member, recovers nothing.
    fn check_recovery(&self, observed: &Observed, plan: &Plan) {
        use kvorum_operator::step::Risky;
        let recovers = match &plan.step {
            Step::RaiseIncarnation { .. } => true,
            Step::Record(step) | Step::Act(step) => matches!(step, Risky::Recover { .. }),
            _ => false,
        };
        if recovers && observed.vouched().is_some() {
            self.fail(&format!("{:?} while a quorum is there", plan.step));
        }
    }

    /// What people are told is a sentence, with the names that `kubectl` knows.
    fn check_words(&self, plan: &Plan) {
        let sentence = |said: &str| said.starts_with(|first: char| first.is_ascii_uppercase());
        let by_number = |said: &str| {
            let words: Vec<_> = said.split_whitespace().collect();
            let number = |word: &str| word.trim_end_matches([',', '.', ':', ';']).parse::<u32>().is_ok();
            words.windows(2).any(|two| matches!(two[0], "pod" | "claim" | "member") && number(two[1]))
        };
        let told = plan.notes.iter().map(|note| &note.message).chain([&plan.reason]);
        if let Some(said) = told.into_iter().find(|said| !sentence(said) || by_number(said)) {
            self.fail(&format!("this is said to people: {said}"));
        }
        if !plan.reason.ends_with('.') {
            self.fail(&format!("this is no sentence: {}", plan.reason));
        }
    }

    fn fail(&self, what: &str) -> ! {
        let from = self.log.len().saturating_sub(60);
        panic!("{what}\n{}\n{}", self.log[from..].join("\n"), self.world);
    }
}
