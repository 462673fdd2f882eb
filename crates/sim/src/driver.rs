//! Many seeds, each in a process of its own.

use std::collections::BTreeMap;
use std::io;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use crate::Shape;
use crate::run::Outcome;

/// Between two lines that say how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

/// What is to be run.
#[derive(Clone, Debug, Args)]
pub struct Many {
    /// The first seed; the next ones follow
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds; without a number, one, or as many as there is time for
    #[arg(long)]
    seeds: Option<u64>,
    /// No seed is begun after so many minutes
    #[arg(long)]
    minutes: Option<f64>,
    /// How many run at a time
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Run each seed twice and compare the traces
    #[arg(long)]
    twice: bool,
    /// Begin no further seed once one has failed
    #[arg(long)]
    until_failure: bool,
    #[command(flatten)]
    shape: Shape,
}

/// What all seeds together have come to.
#[derive(Default)]
struct Summary {
    seeds: u64,
    failed: Vec<u64>,
    simulated: Duration,
    faults: BTreeMap<String, u64>,
    answered: u64,
    refused: u64,
    ttls: u64,
}

/// Runs them. True: no seed has failed.
pub fn run(many: &Many) -> io::Result<bool> {
    let begun = Instant::now();
    let until = many.minutes.map(|minutes| begun + Duration::from_secs_f64(minutes * 60.0));
    let last = many.seeds.or(if until.is_some() { None } else { Some(1) });
    let (next, has_failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let take = || {
        if many.until_failure && has_failed.load(Ordering::Relaxed) {
            return None;
        }
        let count = next.fetch_add(1, Ordering::Relaxed);
        let in_time = until.is_none_or(|until| Instant::now() < until);
        (last.is_none_or(|last| count < last) && in_time).then_some(many.seed + count)
    };
    let mut summary = Summary::default();
    thread::scope(|scope| {
        let (done, outcomes) = mpsc::channel();
        for _ in 0..many.jobs.max(1) {
            let (done, take) = (done.clone(), &take);
            scope.spawn(move || {
                while let Some(seed) = take() {
                    if done.send((seed, run_seed(seed, many))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let mut told = Instant::now();
        for (seed, outcome) in outcomes {
            summary.take(seed, outcome, &many.shape);
            has_failed.store(!summary.failed.is_empty(), Ordering::Relaxed);
            if told.elapsed() > PROGRESS {
                told = Instant::now();
                eprintln!("{}", summary.line(begun.elapsed()));
            }
        }
    });
    eprintln!("{}", summary.line(begun.elapsed()));
    eprintln!("faults: {:?}", summary.faults);
    Ok(summary.failed.is_empty())
}

/// Runs a seed, or says why that was not possible.
fn run_seed(seed: u64, many: &Many) -> Result<Outcome, String> {
    let outcome = run_process(seed, &many.shape).map_err(|error| error.to_string())?;
    if many.twice {
        let again = run_process(seed, &many.shape).map_err(|error| error.to_string())?;
        let (one, other) = (outcome.trace_hash, again.trace_hash);
        if one != other {
            return Err(format!("two runs differ: {one:016x} and {other:016x}"));
        }
    }
    Ok(outcome)
}

fn run_process(seed: u64, shape: &Shape) -> io::Result<Outcome> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("one").args(arguments(seed, shape)).env("KVORUM_SIM_SEED", seed.to_string());
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    serde_json::from_slice(&output.stdout)
        .map_err(|_| io::Error::other(format!("its process ended without an outcome: {}", output.status)))
}

fn arguments(seed: u64, shape: &Shape) -> Vec<String> {
    let Shape { seconds, members, faults, trace, log_level } = shape;
    let mut arguments =
        vec![format!("--seed={seed}"), format!("--seconds={seconds}"), format!("--members={members}")];
    if let Some(faults) = faults {
        let names: Vec<_> = faults.iter().map(|kind| kind.name()).collect();
        arguments.push(format!("--faults={}", names.join(",")));
    }
    arguments.extend(trace.iter().map(|path| format!("--trace={}", path.display())));
    arguments.extend(log_level.iter().map(|level| format!("--log-level={level}")));
    arguments
}

impl Summary {
    fn take(&mut self, seed: u64, outcome: Result<Outcome, String>, shape: &Shape) {
        self.seeds += 1;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(why) => return self.fail(seed, &why, &[], shape),
        };
        self.simulated += Duration::from_micros(outcome.micros);
        for (name, count) in outcome.faults {
            *self.faults.entry(name).or_default() += count;
        }
        self.answered += outcome.answered;
        self.refused += outcome.failed;
        self.ttls += outcome.ttls;
        if let Some(violation) = outcome.violation {
            self.fail(seed, &violation, &outcome.lines, shape);
        }
    }

    fn fail(&mut self, seed: u64, why: &str, lines: &[String], shape: &Shape) {
        self.failed.push(seed);
        lines.iter().for_each(|line| eprintln!("  {line}"));
        eprintln!("seed {seed}, commit {}: {why}", commit());
        let mut replay = format!("make simulate SEED={seed} SECONDS={}", shape.seconds);
        if let Some(faults) = &shape.faults {
            let names: Vec<_> = faults.iter().map(|kind| kind.name()).collect();
            replay.push_str(&format!(" FAULTS={}", names.join(",")));
        }
        eprintln!("again: {replay}");
    }

    fn line(&self, real: Duration) -> String {
        let (simulated, real) = (self.simulated.as_secs_f64(), real.as_secs_f64().max(0.001));
        let faults: u64 = self.faults.values().sum();
        format!(
            "{} seeds, {} failed {:?}: {simulated:.0} s simulated in {real:.0} s ({:.1} times as fast), {faults} faults, \
             {} answers, {} calls failed, {} TTLs ended",
            self.seeds,
            self.failed.len(),
            self.failed,
            simulated / real,
            self.answered,
            self.refused,
            self.ttls
        )
    }
}

/// What is checked out, where that can be told.
fn commit() -> String {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let known = output.ok().filter(|output| output.status.success());
    known.map_or("unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
