//! Makes the plan of a run that failed as small as it can be and still fail in the same way.

use std::time::{Duration, Instant};

use crate::plan::{Fault, Plan};
use crate::run::Outcome;
use crate::world::TRUE_PPM;
use crate::world::clock::{Micros, SECOND};

/// How many runs are tried at most, and for how long.
const TRIES_MAX: u32 = 500;
const TIME_MAX: Duration = Duration::from_secs(15 * 60);

/// How runs are tried, and how many still may be.
struct Shrinker<'a> {
    run: &'a dyn Fn(&Plan) -> Option<Outcome>,
    /// How it failed, see [`manner`].
    manner: String,
    tries: u32,
    begun: Instant,
    smallest: Plan,
}

/// Answers the smallest plan that was found, of one that fails with this violation. `run` runs one.
pub fn shrink(plan: Plan, violation: &str, run: &dyn Fn(&Plan) -> Option<Outcome>) -> Plan {
    let manner = manner(violation);
    let mut shrinker = Shrinker { run, manner, tries: 0, begun: Instant::now(), smallest: plan };
    shrinker.cut_end();
    shrinker.drop_faults();
    shrinker.drop_broken();
    shrinker.drop_members();
    shrinker.set_clocks();
    shrinker.cut_end();
    shrinker.shorten();
    shrinker.smallest
}

/// How a run failed, without what differs from one run to another: members, revisions, times.
pub fn manner(violation: &str) -> String {
    let words = violation.split(|char: char| !char.is_alphabetic()).filter(|word| word.len() > 2);
    words.take(6).collect::<Vec<_>>().join(" ")
}

impl Shrinker<'_> {
    /// Takes a plan if it fails in the same way.
    fn accept(&mut self, plan: Plan) -> bool {
        if plan == self.smallest || self.tries >= TRIES_MAX || self.begun.elapsed() > TIME_MAX {
            return false;
        }
        self.tries += 1;
        let failed = (self.run)(&plan).and_then(|outcome| outcome.violation);
        let is_same = failed.is_some_and(|violation| manner(&violation) == self.manner);
        if is_same {
            eprintln!("shrunk to {} faults in {} s", plan.faults.len(), plan.lasts / SECOND);
            self.smallest = plan;
        }
        is_same
    }

    /// Nothing happens after a time, as early as possible.
    fn cut_end(&mut self) {
        let (mut fails, mut passes): (Micros, Micros) = (self.smallest.lasts, 0);
        while fails - passes > SECOND {
            let lasts = passes.midpoint(fails);
            let mut plan = self.smallest.clone();
            plan.lasts = lasts;
            plan.faults.retain(|fault| fault.at < lasts);
            if self.accept(plan) { fails = lasts } else { passes = lasts }
        }
    }

    /// Takes faults out, first in large pieces (ddmin).
    fn drop_faults(&mut self) {
        let mut piece = self.smallest.faults.len().div_ceil(2);
        while piece > 0 {
            let (mut at, mut dropped) = (0, false);
            while at < self.smallest.faults.len() {
                let mut plan = self.smallest.clone();
                plan.faults.drain(at..(at + piece).min(plan.faults.len()));
                if self.accept(plan) { dropped = true } else { at += piece }
            }
            if piece == 1 && !dropped {
                return;
            }
            piece = if piece == 1 { 1 } else { piece.div_ceil(2) };
        }
    }

    /// Nothing stays broken at the end.
    fn drop_broken(&mut self) {
        let plan = Plan { broken: None, ..self.smallest.clone() };
        self.accept(plan);
    }

    /// Goes down to as many members as still fail: one, three.
    fn drop_members(&mut self) {
        // How many there are is the KvCluster's affair, and each ordinal has its host.
        if self.smallest.operators > 0 {
            return;
        }
        for members in [1, 3] {
            let mut plan = self.smallest.clone();
            plan.clocks_ppm.truncate(members);
            let is_there = |fault: &Fault| fault.what.hosts().iter().all(|host| *host < members);
            plan.faults.retain(is_there);
            plan.broken =
                plan.broken.filter(|what| members > 1 && what.hosts().iter().all(|host| *host < members));
            if self.accept(plan) {
                return;
            }
        }
    }

    /// All clocks keep true time.
    fn set_clocks(&mut self) {
        let mut plan = self.smallest.clone();
        plan.clocks_ppm.fill(TRUE_PPM);
        self.accept(plan);
    }

    /// Each fault lasts half as long.
    fn shorten(&mut self) {
        for at in 0..self.smallest.faults.len() {
            let mut plan = self.smallest.clone();
            plan.faults[at].lasts /= 2;
            self.accept(plan);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::What;
    use crate::world::Death;

    fn fails(plan: &Plan) -> Option<Outcome> {
        let needed = [(What::Ring, 30 * SECOND), (What::Dies(1, Death::Killed), 70 * SECOND)];
        let is_there = |(what, at)| plan.faults.iter().any(|fault| (fault.what, fault.at) == (what, at));
        let violation = if needed.into_iter().all(is_there) { "member 7 lost 12 keys" } else { "late" };
        let violation = Some(violation.to_owned());
        Some(Outcome { violation, ..Outcome::default() })
    }

    /// Goal: of many faults the two are left that it takes, and none that fail in another way. Method: a made run, which
    /// fails by these two.
    #[test]
    fn what_it_takes_is_left() {
        let fault = |second: u64| {
            let what = match second {
                30 => What::Ring,
                70 => What::Dies(1, Death::Killed),
                _ => What::Loss(second as u32),
            };
            Fault { at: second * SECOND, lasts: SECOND, what }
        };
        let faults = (5..100).map(fault).collect();
        let clocks_ppm = vec![TRUE_PPM + 7; 5];
        let (about, broken) = (String::new(), Some(What::Alone(4)));
        let plan = Plan { about, seed: 1, lasts: 120 * SECOND, faults, clocks_ppm, broken, operators: 0 };
        let least = shrink(plan, "member 3 lost 2 keys", &fails);
        let left: Vec<_> = least.faults.iter().map(|fault| (fault.at / SECOND, fault.what)).collect();
        assert_eq!(left, [(30, What::Ring), (70, What::Dies(1, Death::Killed))]);
        assert!((70..=71).contains(&(least.lasts / SECOND)), "{least:?}");
        assert_eq!((least.clocks_ppm, least.broken), (vec![TRUE_PPM; 3], None));
    }
}
