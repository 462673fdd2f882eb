//! The end of raft's core that nobody asked for ends the process.
//!
//! openraft's core ends by itself where its log or the state machine fails, or where it panics. A process
//! that went on without it would answer calls, report a state that is none any more, and take part in
//! nothing; a new one reads what the disk really holds, and refuses what is damaged.

use kvorum_store::fatal::stop_process;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::Fatal;

use super::Raft;
use super::types::TypeConfig;

/// openraft puts the type of an error before its words.
const ERROR_TYPE: &str = "std::io::error::Error: ";

/// Looks at why the core has ended, and ends the process unless the node is stopping.
pub async fn check(raft: &Raft) {
    let Ok(core) = raft.core() else { return };
    if *raft.inner.stopping.borrow() {
        return;
    }
    // The core publishes why it ends just before it does; a panic leaves it no time for that.
    let ended = core.raft.metrics().borrow_watched().running_state.clone();
    stop_process("raft has ended by itself", reason(ended.err()));
}

fn reason(fatal: Option<Fatal<TypeConfig>>) -> String {
    match fatal {
        // What failed has said, in its own words, what is to be done.
        Some(Fatal::StorageError(error)) => error.to_string().replace(ERROR_TYPE, ""),
        Some(Fatal::Panicked) | None => {
            "it panicked, as the lines before this one say; start this node again, and report them".into()
        }
        Some(Fatal::Stopped) => "without a reason; start this node again, and report it".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use clap::Parser as _;
    use tempfile::TempDir;
    use tokio::time::{sleep, timeout};

    use crate::blocking::{Blocking, ThreadPool};
    use crate::config::Cli;
    use crate::machine::Machine;
    use crate::server::Node;

    /// Says to this test, run once more as a process of its own, that it is the one that dies, and how.
    const DIES: &str = "KVORUM_TEST_CORE_END";

    /// Goal: a core that ends by itself ends the process with a line that says so, and one that was asked to
    /// stop does not. Method: a node in a process of its own, which is this test again.
    #[tokio::test]
    async fn a_core_that_ends_by_itself_ends_the_process() {
        if let Ok(how) = std::env::var(DIES) {
            return run_node(&how).await;
        }
        let name = "raft::core_end::tests::a_core_that_ends_by_itself_ends_the_process";
        for (how, lives, said) in [
            ("panics", false, "kvorum: raft has ended by itself: it panicked"),
            ("ends", false, "kvorum: raft has ended by itself: without a reason"),
            ("is stopped", true, ""),
        ] {
            let mut again = Command::new(std::env::current_exe().unwrap());
            again.args([name, "--exact", "--nocapture"]).env(DIES, how);
            let output = Blocking::new(ThreadPool).run(move || again.output()).await.unwrap().unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), lives, "raft {how}: {}\n{text}", output.status);
            assert!(text.contains(said), "raft {how}:\n{text}");
        }
    }

    async fn run_node(how: &str) {
        let dir = TempDir::new().unwrap();
        let (path, any) = (dir.path().to_str().unwrap(), "127.0.0.1:0");
        let args = ["kvorum-node", "--data-dir", path, "--bootstrap", "single", "--listen-client", any];
        let args = args.into_iter().chain(["--listen-peer", any, "--listen-http", any]);
        let node =
            Node::start(Cli::parse_from(args).flags.validate().unwrap(), Machine::real()).await.unwrap();
        let raft = node.raft().clone();
        let core = raft.core().unwrap().raft.clone();
        match how {
            "panics" => _ = core.with_raft_state(|_| panic!("as the test wants it")).await,
            "ends" => _ = core.shutdown().await,
            _ => drop(timeout(Duration::from_secs(10), node.stop()).await.unwrap()),
        }
        // Nobody looks at a core that was asked to stop; the others' end is only a matter of time.
        sleep(Duration::from_secs(if how == "is stopped" { 1 } else { 30 })).await;
    }
}
