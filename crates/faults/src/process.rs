//! One node: its directory, its ports, and the process, while there is one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvorum_proto::admin::v1 as admin;
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::Channel;

use crate::certificates::Certificates;
use crate::network::Host;
use crate::{Context as _, Failure, Result, binary, ensure, ports, rpc, wait};

type AdminClient = admin::admin_client::AdminClient<Channel>;

/// A node opens its store and listens within this, also under a tracer on a busy machine. The replay of
/// its log is no part of it.
const START_LIMIT: Duration = Duration::from_secs(30);
/// What SIGTERM may take, as the product promises, and a moment.
const TERMINATE_LIMIT: Duration = Duration::from_secs(11);
/// A process that is told to abort is gone within this.
const ABORT_LIMIT: Duration = Duration::from_secs(10);
/// A node that does not say how it is within this counts as silent.
const STATUS_LIMIT: Duration = Duration::from_secs(2);
/// Reading a whole store takes longer.
const HASH_LIMIT: Duration = Duration::from_secs(60);
/// Lines of a node's log that are worth reading when it failed.
const LOG_LINES: usize = 25;

/// The memory that a member has on Kubernetes where nothing is said of it, in bytes.
pub const MEMORY_LIMIT: u64 = 704 << 20;

/// What the kernel says of a process's memory, such as VmHWM, in bytes.
pub fn memory(process: Option<u32>, field: &str) -> Result<u64> {
    let process = process.context("the process does not run")?;
    let status = fs::read_to_string(Path::new("/proc").join(process.to_string()).join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()).context(format!("there is no {field}"))?;
    Ok(kib.parse::<u64>()? * 1024)
}

/// What a node is started with, the same at each start.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How the node is called in logs and failures.
    pub name: String,
    /// Its data directory.
    pub data: PathBuf,
    /// Where its standard error goes; each start appends.
    pub log: PathBuf,
    /// Flags beside those for directory and ports.
    pub flags: Vec<String>,
    /// A system call that returns success and does nothing, which is how a test shows that it would
    /// notice its absence: its name, and perhaps `:when=100+`, from which call on, as `strace` counts
    /// them in each thread.
    pub omitted_syscall: Option<String>,
    /// The certificates by which the test itself reaches the node, where it speaks TLS.
    pub tls: Option<Arc<Certificates>>,
}

/// A node that can be started, killed and started again. The lock around its process is held for moments
/// only, so that one task may kill a node that others talk to.
#[derive(Debug)]
pub struct Node {
    setup: Setup,
    host: Option<Host>,
    client_address: String,
    peer_address: String,
    http_address: String,
    release: Mutex<Release>,
    child: Mutex<Option<Child>>,
    admin: AdminClient,
}

/// Which release a node is started as.
#[derive(Clone, Debug, Default)]
pub struct Release {
    /// Its binary; the one of this workspace without it.
    pub binary: Option<PathBuf>,
    /// Flags beside those of the setup.
    pub flags: Vec<String>,
}

impl Node {
    /// A node that has its ports and was not started yet.
    pub fn new(setup: Setup) -> Result<Node> {
        Node::on(setup, None)
    }

    /// The same on a host of a network; without one, on this machine's own.
    pub fn on(setup: Setup, host: Option<Host>) -> Result<Node> {
        let ip = host.as_ref().map_or("127.0.0.1", |host| &host.address);
        let address = || ports::free().map(|port| format!("{ip}:{port}"));
        let (client_address, peer_address, http_address) = (address()?, address()?, address()?);
        let channel = match &setup.tls {
            None => rpc::channel(&peer_address)?,
            Some(tls) => rpc::secured_channel(&peer_address, tls.raw_root()?)?,
        };
        let admin = AdminClient::new(channel);
        let (release, child) = (Mutex::default(), Mutex::new(None));
        Ok(Node { setup, host, client_address, peer_address, http_address, release, child, admin })
    }

    /// The same node, ports and directory included, to be started with other flags while this one does
    /// not run.
    pub fn with_flags<const N: usize>(&self, flags: [&str; N]) -> Node {
        let flags = flags.map(str::to_owned).to_vec();
        Node {
            setup: Setup { flags, ..self.setup.clone() },
            host: self.host.clone(),
            client_address: self.client_address.clone(),
            peer_address: self.peer_address.clone(),
            http_address: self.http_address.clone(),
            release: Mutex::default(),
            child: Mutex::new(None),
            admin: self.admin.clone(),
        }
    }

    /// From its next start on it is this release.
    pub fn set_release(&self, release: &Release) {
        *self.release.lock().unwrap_or_else(PoisonError::into_inner) = release.clone();
    }

    /// How it is called in logs and failures.
    pub fn name(&self) -> &str {
        &self.setup.name
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.setup.data
    }

    /// `host:port` for clients.
    pub fn client_address(&self) -> &str {
        &self.client_address
    }

    /// `host:port` for members and administration.
    pub fn peer_address(&self) -> &str {
        &self.peer_address
    }

    /// `host:port` for metrics and health.
    pub fn http_address(&self) -> &str {
        &self.http_address
    }

    /// The administration API, without retries.
    pub fn admin(&self) -> AdminClient {
        self.admin.clone()
    }

    /// Starts the process and waits until it answers.
    pub async fn start(&self) -> Result<()> {
        self.spawn()?;
        let what = format!("the start of {}", self.name());
        let start = wait::until(&what, START_LIMIT, async || self.status().await.map(drop));
        tokio::select! {
            started = start => started,
            ended = self.ended() => Err(ended),
        }
    }

    /// Starts the process and does not wait for it.
    pub fn spawn(&self) -> Result<()> {
        let mut child = self.child();
        ensure!(child.is_none(), "{} runs already", self.name());
        let log = File::options().create(true).append(true).open(&self.setup.log).context("open the log")?;
        let mut command = self.command()?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        *child = Some(command.spawn().context(format!("start {}", self.name()))?);
        Ok(())
    }

    fn command(&self) -> Result<Command> {
        let release = self.release.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let binary = match &release.binary {
            Some(binary) => binary,
            None => binary::node()?,
        };
        let mut command = match &self.setup.omitted_syscall {
            None => match &self.host {
                None => Command::new(binary),
                Some(host) => {
                    // It becomes the node: the process is our child, whom signals reach.
                    let mut command = Command::new("nsenter");
                    command.arg(format!("--net=/run/netns/{}", host.namespace)).arg(binary);
                    command
                }
            },
            Some(omitted) => {
                let (call, when) = omitted.split_at(omitted.find(':').unwrap_or(omitted.len()));
                let mut command = Command::new("strace");
                // With -D the node, and not strace, is our child, whom signals reach.
                command.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e"]).arg(format!("trace={call}"));
                command.arg("-e").arg(format!("inject={call}:retval=0{when}"));
                command.arg(binary);
                command
            }
        };
        // What the caller has in his environment must not change what is tested.
        command.env_clear().env("RUST_BACKTRACE", "1");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.arg("--data-dir").arg(&self.setup.data);
        command.args(["--listen-client", &self.client_address, "--listen-peer", &self.peer_address]);
        command.args(["--listen-http", &self.http_address, "--bootstrap", "wait"]);
        command.args(&self.setup.flags).args(&release.flags);
        Ok(command)
    }

    /// Everything the node knows of itself.
    pub async fn status(&self) -> Result<admin::StatusResponse> {
        self.ask_status(0, STATUS_LIMIT).await
    }

    /// The hash of everything that is visible at a revision.
    pub async fn hash(&self, revision: u64) -> Result<u64> {
        Ok(self.ask_status(revision, HASH_LIMIT).await?.hash)
    }

    async fn ask_status(&self, hash_revision: u64, limit: Duration) -> Result<admin::StatusResponse> {
        let mut request = tonic::Request::new(admin::StatusRequest { hash_revision, confirm: false });
        request.set_timeout(limit);
        let answer = tokio::time::timeout(limit, self.admin().status(request)).await;
        let doing = || format!("ask {} for its status", self.name());
        Ok(answer.context(doing())?.context(doing())?.into_inner())
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&self) -> Result<()> {
        let mut child = self.child();
        let child = child.take().context(format!("{} does not run", self.name()))?;
        self.end(child)
    }

    /// SIGKILL for all of them at once, as when the power fails.
    pub fn kill_all<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Result<()> {
        let children: Vec<_> =
            nodes.into_iter().filter_map(|node| Some((node, node.child().take()?))).collect();
        for (_, child) in &children {
            kill_process(pid(child)?, Signal::KILL)?;
        }
        children.into_iter().try_for_each(|(node, child)| node.end(child))
    }

    fn end(&self, mut child: Child) -> Result<()> {
        match child.try_wait()? {
            Some(status) if killed(status) => return Ok(()),
            Some(status) => return Err(self.ended_by_itself(status)),
            // It is not reaped yet, so that its id cannot be another process.
            None => kill_process(pid(&child)?, Signal::KILL)?,
        }
        child.wait().context(format!("wait for the end of {}", self.name()))?;
        Ok(())
    }

    /// SIGTERM; returns when the process is gone, and fails when that was not in time or not with 0.
    pub async fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.wait_ended(TERMINATE_LIMIT).await?;
        ensure!(status.success(), "{} answered SIGTERM with {status}\n{}", self.name(), self.log_tail());
        Ok(())
    }

    /// SIGABRT, as a process ends that finds itself broken; returns when it is gone.
    pub async fn abort(&self) -> Result<ExitStatus> {
        self.signal(Signal::ABORT)?;
        self.wait_ended(ABORT_LIMIT).await
    }

    /// SIGSTOP: the process keeps its connections and does nothing.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT, after [`Node::pause`].
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child();
        let child = child.as_ref().context(format!("{} does not run", self.name()))?;
        Ok(kill_process(pid(child)?, signal)?)
    }

    /// Whether it was started and not killed since.
    pub fn is_running(&self) -> bool {
        self.child().is_some()
    }

    /// Fails if the process ended without being told to.
    pub fn check_alive(&self) -> Result<()> {
        let mut child = self.child();
        match child.as_mut().map(Child::try_wait).transpose()?.flatten() {
            Some(status) => Err(self.ended_by_itself(status)),
            None => Ok(()),
        }
    }

    async fn ended(&self) -> Failure {
        loop {
            if let Err(failure) = self.check_alive() {
                return failure;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn ended_by_itself(&self, status: ExitStatus) -> Failure {
        Failure::new(format!("{} ended by itself with {status}\n{}", self.name(), self.log_tail()))
    }

    /// Empties the data directory of a node that does not run.
    pub fn wipe(&self) -> Result<()> {
        ensure!(!self.is_running(), "{} runs", self.name());
        fs::remove_dir_all(&self.setup.data).context("empty the data directory")
    }

    /// Whether a snapshot is being received at this moment.
    pub fn is_receiving_snapshot(&self) -> bool {
        let Ok(entries) = fs::read_dir(&self.setup.data) else { return false };
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("incoming-"))
    }

    /// Its process id, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// Everything that it logged, since the first start.
    pub fn log(&self) -> Result<String> {
        let log = fs::read(&self.setup.log).context(format!("read the log of {}", self.name()))?;
        Ok(String::from_utf8_lossy(&log).into_owned())
    }

    /// The line that it ended with, the last time that it did so by itself.
    pub fn last_words(&self) -> Result<String> {
        let log = self.log()?;
        let last = log.lines().rfind(|line| line.starts_with("kvorum: "));
        last.map(str::to_owned).context("it ended without a word")
    }

    /// Waits for the end of a process that is expected to end by itself, and answers how it did.
    pub async fn wait_ended(&self, within: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name());
        let status = wait::until(&what, within, async || {
            let mut child = self.child();
            let child = child.as_mut().context("it was not started")?;
            child.try_wait()?.context("it still runs")
        });
        let status = status.await?;
        *self.child() = None;
        Ok(status)
    }

    /// The last lines that it logged.
    pub fn log_tail(&self) -> String {
        let log = fs::read(&self.setup.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Node {
    /// No process outlives its test.
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn pid(child: &Child) -> Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process id is a positive number")
}

fn killed(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    status.signal() == Some(Signal::KILL.as_raw())
}
