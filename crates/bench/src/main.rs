//! `kvorum-bench`: a load generator for Kvorum and for any etcd v3 endpoint.
//!
//! It runs beside the servers that it measures, often on the same cores, so its own CPU per operation decides what
//! can be seen of theirs: one single-threaded runtime, generated clients straight on HTTP/2 connections, no retries.
#![forbid(unsafe_code)]

mod api;
mod args;
mod caller;
mod compare;
mod dataset;
mod declare;
mod echo;
mod endpoint;
mod load;
mod many;
mod pace;
mod process;
mod progress;
mod record;
mod report;
mod transport;
mod watch;
mod workload;

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::report::Report;
use crate::workload::Workload;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kvorum-bench: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (report, json) = match cli.command {
        Command::EchoServer(args) => {
            runtime.block_on(echo::run(args.listen))?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Connect(args) => {
            let seen = runtime.block_on(many::connect(&args)).map_err(|error| error as Box<dyn Error>)?;
            print(&format!("{seen}\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::LogIn(args) => {
            let seen = runtime.block_on(many::log_in(&args)).map_err(|error| error as Box<dyn Error>)?;
            print(&format!("{seen}\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Declare(args) => {
            runtime.block_on(declare::run(args))?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Compare(args) => {
            print(&compare::table(&args.files, &args.ratio)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Watch(args) => {
            args.load.check()?;
            (runtime.block_on(watch::run(&args))?, args.load.json)
        }
        Command::Put(args) => load_run(&runtime, Workload::Put, args)?,
        Command::Get(args) => load_run(&runtime, Workload::Get(args.reads.consistency()), args.load)?,
        Command::Mixed(args) => load_run(&runtime, args.workload(), args.load)?,
        Command::Scan(args) => load_run(&runtime, args.workload(), args.load)?,
        Command::Fill(args) => load_run(&runtime, args.workload(), args.load())?,
    };
    print(&if json { report.json()? } else { report.table() })?;
    // A run in which nothing succeeded measured nothing.
    Ok(if report.ops == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn load_run(
    runtime: &tokio::runtime::Runtime,
    workload: Workload,
    args: args::LoadArgs,
) -> Result<(Report, bool), Box<dyn Error>> {
    args.check()?;
    Ok((runtime.block_on(load::run(workload, &args))?, args.json))
}

fn print(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
