//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use kvorum_cli::args::{Del, Format, Get, Scan, Set, Watch, positive_duration};

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 error, 2 usage, 3 key not found, 4 condition failed.";

/// Looks after KvClusters, and reads and writes their keys.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-kvorum",
    bin_name = "kubectl kvorum",
    version,
    after_help = EXIT_CODES,
    max_term_width = 100
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) access: Access,

    /// How results are printed. With json, one object a line, bytes as UTF-8 beside base64.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which Kubernetes, and where in it: as kubectl has it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Access {
    /// The namespace; without it, the context's.
    #[arg(short, long, global = true)]
    pub(crate) namespace: Option<String>,
    /// The context of the kubeconfig; without it, the current one.
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
    /// The kubeconfig; without it, KUBECONFIG or ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// How long a call to the members may take, retries included, such as 500ms, 5s or 1m.
    #[arg(long, global = true, value_parser = positive_duration, default_value = "10s", value_name = "TIME")]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show a cluster: its members, machines and disks, its conditions, and what the operator does or waits for.
    Status(Status),
    /// Print the value of a key, raw.
    Get {
        /// The KvCluster.
        name: String,
        #[command(flatten)]
        get: Get,
    },
    /// Write a key.
    Set {
        /// The KvCluster.
        name: String,
        #[command(flatten)]
        set: Set,
    },
    /// Delete a key, or every key with a prefix.
    Del {
        /// The KvCluster.
        name: String,
        #[command(flatten)]
        del: Del,
    },
    /// Print keys and values, a tab between them.
    Scan {
        /// The KvCluster.
        name: String,
        #[command(flatten)]
        scan: Scan,
    },
    /// Follow changes as they happen.
    Watch {
        /// The KvCluster.
        name: String,
        #[command(flatten)]
        watch: Watch,
    },
    /// Say what the operator would do if something were lost or changed. Nothing is changed by it.
    Plan(Change),
    /// Hand leadership over.
    Transfer {
        /// The KvCluster.
        name: String,
        /// The member that takes it, such as demo-1; without it, the one that is furthest.
        to: Option<String>,
    },
    /// Replace all pods, one at a time, the leader last.
    Restart {
        /// The KvCluster.
        name: String,
    },
    /// Recover a cluster that has lost its quorum for good, from its best survivor.
    ///
    /// It shows each disk and what would be lost, and asks for the survivor's token.
    Recover {
        /// The KvCluster.
        name: String,
        /// The token, as this command prints it: it is not asked for then.
        #[arg(long)]
        token: Option<String>,
    },
    /// Let a disk go that is kept, because its member left or a recovery left it behind. Without CLAIM, list them.
    Release {
        /// The KvCluster.
        name: String,
        /// The claim, such as data-demo-2.
        claim: Option<String>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Lose something on purpose, and measure for how long writes are interrupted.
    Drill(Drill),
    /// Write all that a maintainer asks for to a tar file. It has no keys and no values.
    Report {
        /// The KvCluster.
        name: String,
        /// The file; without it, kvorum-report-NAME.tar.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Print completions: of a shell for kubectl-kvorum; or kubectl's own, to be put, executable, as
    /// kubectl_complete-kvorum into a directory of the PATH.
    Completion {
        /// Whose.
        #[arg(value_enum)]
        of: Completer,
    },
    /// What kubectl asks for while a line is typed.
    #[command(name = "__complete", hide = true)]
    Complete {
        /// The words after `kubectl kvorum`, the last of which is being typed.
        #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
        words: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// The KvCluster; without it, all of the namespace.
    pub(crate) name: Option<String>,
    /// All namespaces.
    #[arg(short = 'A', long, conflicts_with = "name")]
    pub(crate) all_namespaces: bool,
    /// Stay, and show what changes.
    #[arg(short, long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Change {
    /// The KvCluster.
    pub(crate) name: String,
    /// This machine is gone for good, with what only it has.
    #[arg(long, value_name = "MACHINE")]
    pub(crate) lose_machine: Vec<String>,
    /// All machines of this zone are gone for good.
    #[arg(long, value_name = "ZONE")]
    pub(crate) lose_zone: Vec<String>,
    /// This machine is drained, and comes back some day.
    #[arg(long, value_name = "MACHINE")]
    pub(crate) drain: Vec<String>,
    /// The spec has this image.
    #[arg(long, value_parser = image)]
    pub(crate) image: Option<String>,
    /// The spec has so many members.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=7))]
    pub(crate) members: Option<u32>,
}

/// What may be the name of an image; whether there is such a one, only a registry knows.
fn image(text: &str) -> Result<String, String> {
    match text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        true => Err("that names no image; kvorum:0.2.0 would".to_owned()),
        false => Ok(text.to_owned()),
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Drill {
    /// The KvCluster.
    pub(crate) name: String,
    /// What to lose, one after another: the leader (its pod, without a hand-over), a follower's pod, a follower's disk.
    #[arg(long, value_delimiter = ',', required = true, value_enum)]
    pub(crate) lose: Vec<Fault>,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

/// What a drill loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// The leader's pod, killed at once.
    Leader,
    /// A follower's pod.
    Pod,
    /// A follower's disk, with its pod.
    Disk,
}

/// Whose completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Completer {
    Kubectl,
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

impl Completer {
    /// The shell; none for kubectl itself.
    pub(crate) fn shell(self) -> Option<clap_complete::Shell> {
        Some(match self {
            Completer::Kubectl => return None,
            Completer::Bash => clap_complete::Shell::Bash,
            Completer::Elvish => clap_complete::Shell::Elvish,
            Completer::Fish => clap_complete::Shell::Fish,
            Completer::Powershell => clap_complete::Shell::PowerShell,
            Completer::Zsh => clap_complete::Shell::Zsh,
        })
    }
}

#[cfg(test)]
mod tests {
    //! Goal: the command line is consistent, and commands on keys are those of `kvorum` with a name before them.
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_cluster_comes_before_the_key() {
        let parsed =
            Args::try_parse_from(["kubectl-kvorum", "set", "demo", "k", "v", "--if-absent", "-n", "shop"]);
        let parsed = parsed.unwrap();
        assert_eq!(parsed.access.namespace.as_deref(), Some("shop"));
        let Command::Set { name, set } = parsed.command else { panic!("it is a set") };
        assert_eq!(
            (name.as_str(), set.key.as_str(), set.value.as_str(), set.if_absent),
            ("demo", "k", "v", true)
        );
        let parsed = Args::try_parse_from(["kubectl-kvorum", "watch", "demo"]).unwrap();
        let Command::Watch { watch, .. } = parsed.command else { panic!("it is a watch") };
        assert_eq!(watch.key, None, "every key");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            vec!["plan", "demo", "--members", "0"],
            vec!["plan", "demo", "--members", "9"],
            vec!["plan", "demo", "--image", ""],
            vec!["plan", "demo", "--image", "kvorum 0.2.0"],
            vec!["drill", "demo"],
            vec!["drill", "demo", "--lose", "everything"],
            vec!["status", "demo", "-A"],
            vec!["get", "demo"],
        ] {
            let command = ["kubectl-kvorum"].into_iter().chain(wrong.iter().copied());
            assert!(Args::try_parse_from(command).is_err(), "{wrong:?}");
        }
    }
}
