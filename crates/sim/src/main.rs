//! Whole clusters of real nodes in one process, on one thread, in simulated time, from a seed.
//!
//! `kvorum-sim` runs seeds, each in a process of its own, and says which fail; `kvorum-sim one` is such a process.
//! The nodes are the ones that are shipped: only what they are given of a machine is simulated here.
#![forbid(unsafe_code)]

mod calm;
mod check;
mod cluster;
mod driver;
mod model;
mod orders;
mod plan;
mod run;
mod setup;
mod workload;
mod world;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::plan::Kind;
use crate::run::Run;
use crate::world::clock::SECOND;

/// Where the members' files are: in memory. The name of a run's directory has always the same length, as it
/// stands in some of the files.
const FILES: &str = "/dev/shm";

#[derive(Debug, Parser)]
#[command(name = "kvorum-sim", about = "Clusters of real nodes in simulated time, from a seed")]
struct Cli {
    #[command(subcommand)]
    one: Option<One>,
    #[command(flatten)]
    many: driver::Many,
}

#[derive(Debug, Subcommand)]
enum One {
    /// Run one seed in this process, and print what came of it as JSON
    One(OneArgs),
}

#[derive(Clone, Debug, Args)]
struct OneArgs {
    #[arg(long)]
    seed: u64,
    #[command(flatten)]
    shape: Shape,
}

/// How runs are, whatever their seed.
#[derive(Clone, Debug, Args)]
struct Shape {
    /// Seconds of simulated time in which faults happen
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Members of the cluster
    #[arg(long, default_value_t = 3)]
    members: usize,
    /// Kinds of faults, with commas between; drawn from the seed without this
    #[arg(long, value_delimiter = ',')]
    faults: Option<Vec<Kind>>,
    /// Write every event to this file
    #[arg(long)]
    trace: Option<PathBuf>,
    /// What the nodes log
    #[arg(long)]
    log_level: Option<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.one {
        Some(One::One(one)) => run_one(&one),
        None => driver::run(&cli.many),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("kvorum-sim: {error}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the outcome is this command's output")]
fn run_one(one: &OneArgs) -> io::Result<bool> {
    let OneArgs { seed, shape } = one;
    if let Some(level) = &shape.log_level {
        log_to_stderr(level)?;
    }
    let dir = PathBuf::from(FILES).join(format!("kvorum-sim-{:08}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let run = Run {
        seed: *seed,
        lasts: shape.seconds * SECOND,
        members: shape.members,
        kinds: shape.faults.clone(),
        trace: shape.trace.clone(),
    };
    let outcome = run::run(&run, &dir);
    std::fs::remove_dir_all(&dir)?;
    let outcome = outcome?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(outcome.violation.is_none())
}

/// On another thread: making it draws random numbers, which the run would lack.
fn log_to_stderr(level: &str) -> io::Result<()> {
    let filter = EnvFilter::try_new(level).map_err(io::Error::other)?;
    let logging = std::thread::spawn(move || {
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(io::stderr).init();
    });
    logging.join().map_err(|_| io::Error::other("the log could not be set up"))
}
