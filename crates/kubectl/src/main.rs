//! `kubectl kvorum`: KvClusters from a terminal.
//!
//! One command: `args` -> `session` (who asks, where, and the way to the members' ports) -> a command's file. What is
//! shown or foreseen is made by pure functions of what was read (`status/render`, `forecast`).
#![forbid(unsafe_code)]

mod args;
mod ask;
mod complete;
mod drill;
mod forecast;
mod forward;
mod observe;
mod plan;
mod recover;
mod release;
mod report;
mod restart;
mod session;
mod status;
mod transfer;

use std::process::ExitCode;

use clap::Parser as _;
use kvorum_cli::failure::Failure;
use kvorum_cli::output::Output;
use kvorum_cli::{keys, watch};

use crate::args::{Args, Command};
use crate::session::Session;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    kvorum_cli::execute(Output::new(args.output), async |output| {
        run(args, output).await.map_err(session::of_members)
    })
}

async fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    match args.command {
        Command::Completion { of } => complete::script(of, output),
        Command::Complete { words } => complete::words(args.access, &words, output).await,
        command => on_a_cluster(Session::open(args.access).await?, command, output).await,
    }
}

async fn on_a_cluster(session: Session, command: Command, output: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Status(status) => status::status(&session, status, output).await,
        Command::Get { name, get } => keys::get(&session.data(&name).await?, get, output).await,
        Command::Set { name, set } => keys::set(&session.data(&name).await?, set, output).await,
        Command::Del { name, del } => keys::del(&session.data(&name).await?, del, output).await,
        Command::Scan { name, scan } => keys::scan(&session.data(&name).await?, scan, output).await,
        Command::Watch { name, watch } => watch::watch(&session.data(&name).await?, watch, output).await,
        Command::Plan(change) => plan::plan(&session, change, output).await,
        Command::Transfer { name, to } => transfer::transfer(&session, &name, to.as_deref(), output).await,
        Command::Restart { name } => restart::restart(&session, &name, output).await,
        Command::Recover { name, token } => recover::recover(&session, &name, token, output).await,
        Command::Release { name, claim, yes } => {
            release::release(&session, &name, claim.as_deref(), yes, output).await
        }
        Command::Drill(drill) => drill::drill(&session, drill, output).await,
        Command::Report { name, file } => report::report(&session, &name, file, output).await,
        Command::Completion { .. } | Command::Complete { .. } => Ok(()),
    }
}
