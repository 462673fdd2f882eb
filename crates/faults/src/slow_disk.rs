//! Disks that hang, fail, or take long for each sync, beneath a node that runs: strace holds up that system call
//! of the one thread that writes the log, and of nothing else. When it lets go, the sync is carried out. A thread that
//! stands still is made in the same way.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::process::Node;
use crate::{Context as _, Failure, Result, ensure};

/// How a node calls the thread that writes its log.
const LOG_THREAD: &str = "log-writer";
/// How a node calls the thread that writes its store.
const APPLY_THREAD: &str = "apply";
/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// A node's disk that takes its time, until this is dropped.
#[derive(Debug)]
pub struct SlowDisk {
    strace: Child,
}

impl SlowDisk {
    /// Why disks cannot be made slow here, if they cannot.
    pub fn missing() -> Option<String> {
        let traced = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).output();
        match traced {
            Err(error) => Some(format!("strace cannot be run ({error}); install it")),
            Ok(output) if !output.status.success() => {
                Some(format!("strace may not trace: {}", String::from_utf8_lossy(&output.stderr).trim()))
            }
            Ok(_) => None,
        }
    }

    /// From now on no sync of the node's log ends.
    pub fn hang(node: &Node) -> Result<SlowDisk> {
        SlowDisk::delay(node, FOR_EVER)
    }

    /// From now on each sync of the node's log takes longer by this.
    pub fn delay(node: &Node, delay: Duration) -> Result<SlowDisk> {
        SlowDisk::inject(node, LOG_THREAD, &format!("fdatasync:delay_enter={}", delay.as_micros()))
    }

    /// From now on each sync of the node's log fails.
    pub fn fail(node: &Node) -> Result<SlowDisk> {
        SlowDisk::inject(node, LOG_THREAD, "fdatasync:error=EIO")
    }

    /// From now on the thread that writes the node's store does not wake from its next wait.
    pub fn hang_apply(node: &Node) -> Result<SlowDisk> {
        SlowDisk::inject(node, APPLY_THREAD, &format!("futex:delay_exit={}", FOR_EVER.as_micros()))
    }

    fn inject(node: &Node, thread: &str, what: &str) -> Result<SlowDisk> {
        let process = node.process_id().context(format!("{} does not run", node.name()))?;
        let thread = thread_id(process, thread)?;
        let mut strace = Command::new("strace");
        let call = what.split(':').next().unwrap_or(what);
        strace.args(["-p", &thread, "-o", "/dev/null", "-e"]).arg(format!("trace={call}"));
        strace.arg("-e").arg(format!("inject={what}"));
        strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut strace = strace.spawn().context("run strace")?;
        let said = strace.stderr.take().context("what strace says is piped")?;
        let slow = SlowDisk { strace };
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line).context("read what strace says")?;
        ensure!(line.contains("attached"), "strace does not trace {}: {line}", node.name());
        Ok(slow)
    }
}

impl Drop for SlowDisk {
    /// strace lets go of the thread when it is told to end.
    fn drop(&mut self) {
        let id = i32::try_from(self.strace.id()).ok().and_then(Pid::from_raw);
        if id.is_none_or(|id| kill_process(id, Signal::TERM).is_err()) {
            let _ = self.strace.kill();
        }
        let _ = self.strace.wait();
    }
}

fn thread_id(process: u32, thread: &str) -> Result<String> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).context("read the node's threads")?;
    for task in tasks.flatten() {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.trim() == thread {
            return Ok(task.file_name().to_string_lossy().into_owned());
        }
    }
    Err(Failure::new(format!("process {process} has no thread {thread}")))
}
