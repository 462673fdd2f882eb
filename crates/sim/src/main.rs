//! Whole clusters of real nodes in one process, on one thread, in simulated time, from a seed.
//!
//! `kvorum-sim` runs seeds, each in a process of its own, and says which fail; `kvorum-sim one` is such a process.
//! The nodes are the ones that are shipped: only what they are given of a machine is simulated here.
#![forbid(unsafe_code)]

mod calm;
mod check;
mod cluster;
mod driver;
mod kubernetes;
mod marks;
mod model;
mod orders;
mod plan;
mod run;
mod setup;
mod shrink;
mod spin;
mod summary;
mod workload;
mod world;

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::marks::Marks;
use crate::plan::{Kind, Plan};
use crate::run::Run;
use crate::world::clock::SECOND;

/// As in the node.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Where the members' files are: in memory. The name of a run's directory has always the same length, as it
/// stands in some of the files.
const FILES: &str = "/dev/shm";

/// What seeds time and random numbers of the process, in `system.c`.
const SYSTEM_SEED: &str = "KVORUM_SIM_SEED";

/// How long a run lasts, and with how many members, where nothing is said.
const SECONDS: u64 = 120;
const MEMBERS: usize = 3;

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
    /// The seed to draw a plan from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run what this file says, whatever the seed
    #[arg(long)]
    plan: Option<PathBuf>,
    #[command(flatten)]
    shape: Shape,
}

/// How runs are, whatever their seed.
#[derive(Clone, Debug, Args)]
struct Shape {
    /// Seconds of simulated time in which faults happen
    #[arg(long, default_value_t = SECONDS)]
    seconds: u64,
    /// Members of the cluster
    #[arg(long, default_value_t = MEMBERS)]
    members: usize,
    /// Operators on a simulated Kubernetes look after the members
    #[arg(long)]
    operator: bool,
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

impl Default for Shape {
    fn default() -> Self {
        Shape {
            seconds: SECONDS,
            members: MEMBERS,
            operator: false,
            faults: None,
            trace: None,
            log_level: None,
        }
    }
}

impl Shape {
    /// What will go wrong with a seed.
    fn draw(&self, seed: u64) -> Plan {
        if self.operator {
            return Plan::draw_operated(seed, self.seconds * SECOND, self.faults.as_deref());
        }
        Plan::draw(seed, self.members, self.seconds * SECOND, self.faults.as_deref())
    }
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
    let OneArgs { seed, plan, shape } = one;
    let plan = match plan {
        Some(path) => Plan::read(path)?,
        None => shape.draw(*seed),
    };
    if std::env::var_os(SYSTEM_SEED).is_none() {
        return Err(begin_anew(plan.seed));
    }
    let marks = Marks::default();
    log_to_stderr(shape.log_level.as_deref().unwrap_or("off"), marks.clone())?;
    let dir = PathBuf::from(FILES).join(format!("kvorum-sim-{:08}", std::process::id()));
    // What a process of this number has left that was killed.
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::create_dir(&dir)?;
    let run = Run { plan, trace: shape.trace.clone(), marks };
    let outcome = run::run(&run, &dir);
    std::fs::remove_dir_all(&dir)?;
    let outcome = outcome?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(outcome.violation.is_none())
}

/// Time and random numbers are the simulation's from the start of a process on, or not at all: a process that somebody
/// runs by hand begins anew with them. Returns only when that is not possible.
fn begin_anew(seed: u64) -> io::Error {
    match std::env::current_exe() {
        Ok(program) => {
            Command::new(program).args(std::env::args_os().skip(1)).env(SYSTEM_SEED, seed.to_string()).exec()
        }
        Err(error) => error,
    }
}

/// On another thread: making it draws random numbers, which the run would lack.
fn log_to_stderr(level: &str, marks: Marks) -> io::Result<()> {
    let filter = EnvFilter::try_new(level).map_err(io::Error::other)?;
    let logging = std::thread::spawn(move || {
        let lines =
            tracing_subscriber::fmt::layer().without_time().with_writer(io::stderr).with_filter(filter);
        tracing_subscriber::registry().with(marks.layer()).with(lines).init();
    });
    logging.join().map_err(|_| io::Error::other("the log could not be set up"))
}
