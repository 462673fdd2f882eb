//! Many seeds and plans, each in a process of its own.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use crate::plan::Plan;
use crate::run::Outcome;
use crate::shrink;
use crate::summary::Summary;
use crate::{SYSTEM_SEED, Shape};

/// Between two lines that say how far it is.
const PROGRESS: Duration = Duration::from_secs(10);
/// Whoever runs for so long has to reach all there is to be reached.
const LONG: Duration = Duration::from_secs(3600);
/// What the second of two runs logs, which the trace must not show.
const OTHER_LOG_LEVEL: &str = "info,kvorum_node=debug,kvorum_store=debug";

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
    /// No seed is begun after so many hours; from one on all marks have to be reached
    #[arg(long, conflicts_with = "minutes")]
    hours: Option<f64>,
    /// No seed is begun once those before have taken so many minutes of processor time
    #[arg(long)]
    core_minutes: Option<f64>,
    /// How many run at a time
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Run each twice, with other log levels, and compare the traces
    #[arg(long)]
    twice: bool,
    /// Begin nothing more once one has failed
    #[arg(long)]
    until_failure: bool,
    /// Make the plan of the first that fails as small as it can be, and write it to this file
    #[arg(long, value_name = "FILE")]
    shrink: Option<PathBuf>,
    /// Run this plan, or all plans in this directory, instead of seeds
    #[arg(long, value_name = "PATH")]
    plan: Option<PathBuf>,
    #[command(flatten)]
    shape: Shape,
}

/// What a process runs.
#[derive(Clone, Debug)]
enum Job {
    Seed(u64),
    Plan(PathBuf),
}

/// A job that has ended.
struct Done {
    job: Job,
    outcome: Result<Outcome, String>,
}

/// Runs them. True: none has failed, and a long run has reached all marks.
pub fn run(many: &Many) -> io::Result<bool> {
    let begun = Instant::now();
    let lasts = many.hours.map(|hours| hours * 3600.0).or(many.minutes.map(|minutes| minutes * 60.0));
    let lasts = lasts.map(Duration::from_secs_f64);
    let jobs = jobs(many, lasts.is_some() || many.core_minutes.is_some())?;
    let (next, has_failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let core_seconds = AtomicU64::new(0);
    let take = || {
        let is_used_up = |minutes| core_seconds.load(Ordering::Relaxed) as f64 > minutes * 60.0;
        let is_over =
            lasts.is_some_and(|lasts| begun.elapsed() > lasts) || many.core_minutes.is_some_and(is_used_up);
        if is_over || many.until_failure && has_failed.load(Ordering::Relaxed) {
            return None;
        }
        jobs(next.fetch_add(1, Ordering::Relaxed))
    };
    let (mut summary, mut first_failed) = (Summary::default(), None);
    thread::scope(|scope| {
        let (done, ended) = mpsc::channel();
        for _ in 0..many.jobs.max(1) {
            let (done, take) = (done.clone(), &take);
            scope.spawn(move || {
                while let Some(job) = take() {
                    let outcome = run_job(&job, many);
                    if done.send(Done { job, outcome }).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let mut told = Instant::now();
        for Done { job, outcome } in ended {
            let violation = outcome.as_ref().ok().and_then(|outcome| outcome.violation.clone());
            if let Some(violation) = violation {
                first_failed.get_or_insert((job.clone(), violation));
            }
            summary.take(&job.name(), outcome, &job.replay(&many.shape));
            core_seconds.store(summary.core_seconds(), Ordering::Relaxed);
            has_failed.store(!summary.failed.is_empty(), Ordering::Relaxed);
            if told.elapsed() > PROGRESS {
                told = Instant::now();
                eprintln!("{}", summary.line(begun.elapsed()));
            }
        }
    });
    eprintln!("{}", summary.line(begun.elapsed()));
    summary.tell();
    if let (Some(file), Some((job, violation))) = (&many.shrink, first_failed) {
        shrink_to(file, &job.plan(&many.shape)?, &violation)?;
    }
    let is_complete = lasts.is_none_or(|lasts| lasts < LONG) || summary.missing().is_empty();
    Ok(summary.failed.is_empty() && is_complete)
}

/// The jobs, by their numbers.
fn jobs(many: &Many, is_timed: bool) -> io::Result<impl Fn(usize) -> Option<Job>> {
    let plans = many.plan.as_deref().map(plans).transpose()?;
    let (seed, last) = (many.seed, many.seeds.or(if is_timed { None } else { Some(1) }));
    Ok(move |number: usize| match &plans {
        Some(plans) => plans.get(number).cloned().map(Job::Plan),
        None => last.is_none_or(|last| (number as u64) < last).then(|| Job::Seed(seed + number as u64)),
    })
}

/// A plan, or all in a directory.
fn plans(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let plans: io::Result<Vec<PathBuf>> = std::fs::read_dir(path)?.map(|file| Ok(file?.path())).collect();
    let mut plans = plans?;
    plans.retain(|path| path.extension().is_some_and(|kind| kind == "json"));
    plans.sort();
    Ok(plans)
}

impl Job {
    fn name(&self) -> String {
        match self {
            Job::Seed(seed) => format!("seed {seed}"),
            Job::Plan(path) => format!("plan {}", path.display()),
        }
    }

    fn plan(&self, shape: &Shape) -> io::Result<Plan> {
        match self {
            Job::Seed(seed) => Ok(shape.draw(*seed)),
            Job::Plan(path) => Plan::read(path),
        }
    }

    /// What runs it once more.
    fn replay(&self, shape: &Shape) -> String {
        let seed = match self {
            Job::Seed(seed) => seed,
            Job::Plan(path) => return format!("make simulate PLAN={}", path.display()),
        };
        let mut replay =
            format!("make simulate SEED={seed} SECONDS={} MEMBERS={}", shape.seconds, shape.members);
        if let Some(faults) = &shape.faults {
            let names: Vec<_> = faults.iter().map(|kind| kind.name()).collect();
            replay.push_str(&format!(" FAULTS={}", names.join(",")));
        }
        replay
    }
}

/// Runs a job, or says why that was not possible.
fn run_job(job: &Job, many: &Many) -> Result<Outcome, String> {
    let outcome = run_process(job, &many.shape).map_err(|error| error.to_string())?;
    if many.twice {
        let other = Shape { log_level: Some(OTHER_LOG_LEVEL.to_owned()), trace: None, ..many.shape.clone() };
        let again = run_quietly(job, &other).map_err(|error| error.to_string())?;
        if outcome.trace_hash != again.trace_hash {
            let (one, other) = (outcome.trace_hash, again.trace_hash);
            let (events, more) = (outcome.events, again.events);
            return Err(format!("two runs differ: {one:016x} of {events} events, {other:016x} of {more}"));
        }
    }
    Ok(outcome)
}

fn run_process(job: &Job, shape: &Shape) -> io::Result<Outcome> {
    run_command(job, shape, Stdio::inherit())
}

fn run_quietly(job: &Job, shape: &Shape) -> io::Result<Outcome> {
    run_command(job, shape, Stdio::null())
}

fn run_command(job: &Job, shape: &Shape, log: Stdio) -> io::Result<Outcome> {
    let seed = job.plan(shape)?.seed;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("one").args(arguments(job, shape)).env(SYSTEM_SEED, seed.to_string());
    let output = command.stdin(Stdio::null()).stderr(log).output()?;
    serde_json::from_slice(&output.stdout)
        .map_err(|_| io::Error::other(format!("its process ended without an outcome: {}", output.status)))
}

fn arguments(job: &Job, shape: &Shape) -> Vec<String> {
    let Shape { seconds, members, faults, trace, log_level } = shape;
    let mut arguments = match job {
        Job::Seed(seed) => vec![format!("--seed={seed}")],
        Job::Plan(path) => vec![format!("--plan={}", path.display())],
    };
    arguments.extend([format!("--seconds={seconds}"), format!("--members={members}")]);
    if let Some(faults) = faults {
        let names: Vec<_> = faults.iter().map(|kind| kind.name()).collect();
        arguments.push(format!("--faults={}", names.join(",")));
    }
    arguments.extend(trace.iter().map(|path| format!("--trace={}", path.display())));
    arguments.extend(log_level.iter().map(|level| format!("--log-level={level}")));
    arguments
}

/// Shrinks a plan that fails, and writes it to a file.
fn shrink_to(file: &Path, plan: &Plan, violation: &str) -> io::Result<()> {
    let attempt = file.with_extension("attempt");
    let shape = Shape::default();
    let run = |plan: &Plan| {
        plan.write(&attempt).ok()?;
        run_quietly(&Job::Plan(attempt.clone()), &shape).ok()
    };
    let least = shrink::shrink(plan.clone(), violation, &run);
    let least = Plan { about: violation.to_owned(), ..least };
    least.write(file)?;
    eprintln!("{} faults are left; again: make simulate PLAN={}", least.faults.len(), file.display());
    std::fs::remove_file(&attempt).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })
}
