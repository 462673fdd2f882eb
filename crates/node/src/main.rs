//! `kvorum-node`: one member of a Kvorum cluster.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use clap::Parser as _;
use kvorum_node::audit::{Audit, StandardOutput};
use kvorum_node::config::{Cli, Config, Flags, LogFormat, Task};
use kvorum_node::machine::Machine;
use kvorum_node::net::listen::{FILES_WANTED, MEMORY_WANTED};
use kvorum_node::net::memory;
use kvorum_node::server::{self, Closing};
use kvorum_store::data_dir::{DataDir, DataDirError};
use kvorum_store::fatal::end_process;
use kvorum_store::log::{self, Log};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use tokio::signal::unix::{SignalKind, signal};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads for reads that block: scans, watches that fell behind, snapshots, metrics.
const BLOCKING_THREADS_MAX: usize = 64;

/// How long the closing of the store is waited for, twice, once all is flushed.
const CLOSE_MAX: Duration = Duration::from_millis(500);
/// Between two looks whether the store is closed.
const CLOSE_POLL: Duration = Duration::from_millis(1);

/// Lines of the log that wait to be written.
const LOG_LINES_MAX: usize = 4_096;
/// How long the last lines of log and audit may take, at the end, where somebody reads them.
const LAST_LINES_MAX: Duration = Duration::from_millis(1_500);

/// The exit code for a command line that cannot work, as clap has it.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Task::Verify { data_dir }) = cli.task {
        return verify(&data_dir);
    }
    let mut lines = match log_to_stderr(cli.flags.log_format, &cli.flags.log_level) {
        Ok(log) => vec![log],
        Err(error) => return fail(EXIT_USAGE, format!("--log-level: {error}")),
    };
    end_on_panic();
    // What is on disk is everybody's values: nobody but the owner reads what this process or RocksDB writes.
    umask(Mode::RWXG | Mode::RWXO);
    let audit = Audit::to(cli.flags.audit, || {
        let (output, guard) = StandardOutput::open();
        lines.push(guard);
        Arc::new(output)
    });
    let code = serve(cli.flags, Machine { audit, ..Machine::real() });
    write_last(lines);
    code
}

/// Runs a node to its end.
fn serve(flags: Flags, machine: Machine) -> ExitCode {
    let config = match flags.validate() {
        Ok(config) => config,
        Err(error) => return fail(EXIT_USAGE, error),
    };
    // One runtime on one thread: its calls cost a quarter less CPU than those of a multi-threaded one.
    // Log, apply and blocking reads have threads of their own; with more than two cores clients have too.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(config, machine));
            // Blocking reads that are still under way hold the store.
            runtime.shutdown_timeout(CLOSE_MAX);
            result
        }
        Err(error) => return fail(1, format!("start the runtime: {error}")),
    };
    match result {
        Ok(closing) if closed(&closing) => ExitCode::SUCCESS,
        Ok(_) => fail(1, "the store was not closed in time; nothing is lost, the next start takes longer"),
        Err(error) => fail(1, error),
    }
}

/// Waits until the store is closed; false when that takes too long. The runtime has ended, and with it whoever did
/// not let go before.
#[expect(clippy::disallowed_methods, reason = "only this thread is left")]
fn closed(closing: &Closing) -> bool {
    let looks = CLOSE_MAX.as_millis() / CLOSE_POLL.as_millis();
    (0..looks).any(|_| {
        let closed = closing.is_closed();
        if !closed {
            thread::sleep(CLOSE_POLL);
        }
        closed
    })
}

/// Runs the node until a signal.
async fn run(config: Config, machine: Machine) -> Result<Closing, Box<dyn std::error::Error>> {
    if let Err(error) = kvorum_tls::keep_out_of_core_files() {
        tracing::warn!(%error, "a core file of this process could be written, and would hold its keys");
    }
    raise_file_limit();
    tell_memory();
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|error| format!("handle SIGTERM: {error}"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| format!("handle SIGINT: {error}"))?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
    };
    Ok(server::run(config, machine, stop).await?)
}

fn fail(code: u8, error: impl Display) -> ExitCode {
    // Nothing can be done about a standard error that is closed.
    let _ = writeln!(io::stderr(), "kvorum-node: {error}");
    ExitCode::from(code)
}

/// Writes what still waits of log and audit. Whoever reads it may stand still, and then it is not waited for long: a guard
/// that cannot flush would tell the standard output so, which may be what stands still.
#[expect(clippy::disallowed_methods, reason = "nothing of a node is left, and the process is at its end")]
fn write_last(lines: Vec<WorkerGuard>) {
    let (writing, written) = mpsc::channel::<()>();
    for guard in lines {
        let writing = writing.clone();
        let flush = move || {
            drop(guard);
            drop(writing);
        };
        if let Err(error) = thread::Builder::new().name("last-lines".into()).spawn(flush) {
            fail(1, format!("the last lines of the log are lost: {error}"));
        }
    }
    drop(writing);
    // Nothing is ever sent: it ends when the last one is written.
    let _ = written.recv_timeout(LAST_LINES_MAX);
}

/// A thread that panics ends the process, even where nobody reads what it says of that.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        end_process(format_args!("{panic}\n{}", std::backtrace::Backtrace::capture()))
    }));
}

/// Lines are written by a thread of their own: who reads the standard error may be slow, or gone, and nobody else waits
/// for that. At most [`LOG_LINES_MAX`] wait; what comes then is lost. What still waits is written when the guard goes,
/// within a second.
///
/// openraft, hyper and h2 say at `info` what only their developers need; openraft at `warn` what the
/// network says once, several times a second while a member is down.
fn log_to_stderr(format: LogFormat, level: &str) -> Result<WorkerGuard, impl Display> {
    let filter = EnvFilter::try_new(format!("openraft=error,hyper=warn,h2=warn,tower=warn,{level}"))?;
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LOG_LINES_MAX)
        .thread_name("log-lines")
        .finish(io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        LogFormat::Text => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok::<WorkerGuard, tracing_subscriber::filter::ParseError>(guard)
}

/// Reads identity, log and state, and prints what is wrong with each. The directory is held
/// meanwhile, so that no node works on it.
#[expect(clippy::print_stdout, reason = "the findings are this command's output")]
fn verify(data_dir: &Path) -> ExitCode {
    if !data_dir.is_dir() {
        return fail(
            1,
            format!("{} is no data directory; give the one of a stopped node", data_dir.display()),
        );
    }
    let mut findings: Vec<String> = Vec::new();
    let held = match DataDir::open(data_dir) {
        Ok(held) => Some(held),
        // The other files are worth a look all the same.
        Err(
            error @ (DataDirError::Damage { .. }
            | DataDirError::NoIdentity { .. }
            | DataDirError::NoLog { .. }),
        ) => {
            findings.push(error.to_string());
            None
        }
        Err(error) => return fail(1, error),
    };
    if Log::exists(data_dir) {
        findings.extend(log::verify(data_dir).iter().map(ToString::to_string));
    }
    match kvorum_store::verify_state(data_dir) {
        Ok(found) => findings.extend(found.iter().map(ToString::to_string)),
        Err(error) => return fail(1, error),
    }
    drop(held);
    if findings.is_empty() {
        println!("{}: no damage found", data_dir.display());
        return ExitCode::SUCCESS;
    }
    findings.iter().for_each(|finding| println!("{finding}"));
    ExitCode::from(1)
}

/// With less memory it takes fewer connections.
fn tell_memory() {
    if let Some(bytes) = memory::limit().filter(|bytes| *bytes < MEMORY_WANTED) {
        let mib = bytes >> 20;
        tracing::info!(
            "this process may have {mib} MiB of memory, and takes as many connections as fit into a part"
        );
    }
}

/// The default soft limit of 1,024 descriptors is less than the connections a node can serve.
fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    if let Some(files) = getrlimit(Resource::Nofile).current.filter(|files| *files < FILES_WANTED) {
        tracing::warn!(
            "this process may open {files} files only, and takes fewer connections than it could; allow it \
             {FILES_WANTED}, by ulimit -n or LimitNOFILE="
        );
    }
}
