//! `kvorum`, the command-line tool of a Kvorum cluster, and what `kubectl kvorum` shares with it: the commands on
//! keys, tables, the way results are printed and how a command fails.
#![forbid(unsafe_code)]

pub mod args;
mod auth;
mod batch;
mod cert;
pub mod failure;
pub mod keys;
mod member;
pub mod output;
mod password;
mod snapshot;
mod status;
pub mod table;
pub mod text;
pub mod watch;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};
use kvorum_client::{Client, ConnectOptions, Tls};

use crate::args::{Args, ClusterCommand, Command, LeaderCommand, SnapshotCommand, TlsArgs, User, WhoArgs};
use crate::failure::Failure;
use crate::output::Output;

/// The whole tool.
pub fn main() -> ExitCode {
    let mut command = args::command();
    let matches = command.get_matches_mut();
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit());
    execute(Output::new(args.output), async |output| run(args, output).await)
}

/// Runs the one command of a tool to its end on a runtime of its own, prints what is left, and says how it went.
pub fn execute(
    mut output: Output,
    command: impl AsyncFnOnce(&mut Output) -> Result<(), Failure>,
) -> ExitCode {
    if let Err(error) = kvorum_tls::keep_out_of_core_files() {
        let said = format!(
            "a core file of this process could be written, and would hold keys and passwords: {error}"
        );
        Failure::Other(said).report();
    }
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Other(format!("start the runtime: {error}")))
        .and_then(|runtime| runtime.block_on(command(&mut output)))
        .and_then(|()| output.flush());
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // What was printed before the failure still counts.
            let _ = output.flush();
            failure.report();
            ExitCode::from(failure.exit_code())
        }
    }
}

async fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    // A command makes few calls, so that the way to the leader is not worth a question of its own.
    let client = || -> Result<Client, Failure> {
        let builder = Client::builder(&args.endpoints).timeout(args.timeout).without_leader_search();
        Ok(builder.connect_options(connect_options(&args.tls, &args.who)?).connect_lazy()?)
    };
    match args.command {
        Command::Get(get) => keys::get(&client()?, get, output).await,
        Command::Set(set) => keys::set(&client()?, set, output).await,
        Command::Del(del) => keys::del(&client()?, del, output).await,
        Command::Ttl { key } => keys::ttl(&client()?, key, output).await,
        Command::Expire { key, ttl } => keys::expire(&client()?, key, ttl, output).await,
        Command::Persist { key } => keys::persist(&client()?, key, output).await,
        Command::Scan(scan) => keys::scan(&client()?, scan, output).await,
        Command::Compact { revision } => keys::compact(&client()?, revision, output).await,
        Command::Watch(watch) => watch::watch(&client()?, watch, output).await,
        Command::Batch { file } => batch::batch(&client()?, &file, output).await,
        Command::Status => status::status(&client()?, output).await,
        Command::Cluster { command: ClusterCommand::Init { members } } => {
            member::init(&members, args.timeout, connect_options(&args.tls, &args.who)?, output).await
        }
        Command::Member { command } => member::member(&client()?, args.timeout, command, output).await,
        Command::Leader { command: LeaderCommand::Transfer { id } } => {
            member::transfer(&client()?, args.timeout, id, output).await
        }
        Command::Snapshot { command: SnapshotCommand::Save { file, from } } => {
            snapshot::save(&client()?, args.timeout, &file, from, output).await
        }
        Command::Snapshot { command: SnapshotCommand::Restore { file, data_dir } } => {
            snapshot::restore(&file, &data_dir, output)
        }
        Command::User { command } => auth::user(&client()?, command, output).await,
        Command::Role { command } => auth::role(&client()?, command, output).await,
        Command::Auth { command } => auth::auth(&client()?, command, output).await,
        Command::Cert { command } => cert::cert(command, output),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "kvorum", output.stdout());
            Ok(())
        }
    }
}

/// TLS as the flags say, or else as the library finds it; and who calls.
fn connect_options(tls: &TlsArgs, who: &WhoArgs) -> Result<ConnectOptions, Failure> {
    let mut options = ConnectOptions::new();
    if let Some(ca) = &tls.cacert {
        options = options.tls(Tls::files(ca, tls.cert.as_ref().zip(tls.key.as_ref()))?);
    }
    if let Some(User { name, password }) = &who.user {
        let password = password.clone().map_or_else(|| password::of(name), Ok)?;
        options = options.user(name, password);
    }
    if let Some(file) = &who.token_file {
        options = options.token_file(file);
    }
    Ok(options)
}
