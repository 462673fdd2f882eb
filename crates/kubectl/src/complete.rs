//! Completions: of a shell for `kubectl-kvorum`, and of kubectl for `kubectl kvorum`, which asks a program
//! `kubectl_complete-kvorum` beside it for each word.

use clap::{Command, CommandFactory as _};
use kube::ResourceExt as _;
use kube::api::ListParams;
use kvorum_cli::failure::Failure;
use kvorum_cli::output::Output;
use kvorum_crd::KvCluster;
use serde_json::Value;

use crate::args::{Access, Args, Completer};
use crate::session::Session;

/// Of no more clusters than so many the names are offered.
const CLUSTERS_MAX: u32 = 200;
/// What kubectl calls: a file of this text, which can be executed, named `kubectl_complete-kvorum` in the PATH.
const KUBECTL: &str = "#!/bin/sh\nexec kubectl-kvorum __complete -- \"$@\"";
/// Tells kubectl that no file names belong here.
const NO_FILES: &str = ":4";

/// Prints the completions of a shell, or kubectl's.
pub(crate) fn script(completer: Completer, output: &mut Output) -> Result<(), Failure> {
    match completer.shell() {
        None => output.line(KUBECTL, Value::Null),
        Some(shell) => {
            clap_complete::generate(shell, &mut Args::command(), "kubectl-kvorum", output.stdout());
            Ok(())
        }
    }
}

/// Answers kubectl's question for the last of these words.
pub(crate) async fn words(access: Access, words: &[String], output: &mut Output) -> Result<(), Failure> {
    let (last, before) =
        words.split_last().map_or(("", [].as_slice()), |(last, before)| (last.as_str(), before));
    let candidates = match wanted(&Args::command(), before, last) {
        Wanted::These(candidates) => candidates,
        Wanted::Cluster => clusters(access, before).await,
    };
    for candidate in candidates.iter().filter(|candidate| candidate.starts_with(last)) {
        output.line(candidate, Value::Null)?;
    }
    output.line(NO_FILES, Value::Null)
}

/// What may come next.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// One of these.
    These(Vec<String>),
    /// The name of a KvCluster.
    Cluster,
}

fn wanted(command: &Command, before: &[String], last: &str) -> Wanted {
    let mut plain = before.iter().filter(|word| !word.starts_with('-'));
    let chosen = plain.find_map(|word| command.find_subcommand(word));
    match chosen {
        Some(chosen) if last.starts_with('-') => Wanted::These(flags(chosen).chain(flags(command)).collect()),
        None if last.starts_with('-') => Wanted::These(flags(command).collect()),
        None => {
            let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
            Wanted::These(shown.map(|command| command.get_name().to_owned()).collect())
        }
        // The cluster comes first in each command that is about one.
        Some(chosen) => {
            let first = chosen.get_positionals().next();
            let about_one = first.is_some_and(|first| first.get_id() == "name") && plain.next().is_none();
            let values = first.filter(|_| !about_one).map(clap::Arg::get_possible_values).unwrap_or_default();
            match about_one {
                true => Wanted::Cluster,
                false => Wanted::These(values.iter().map(|value| value.get_name().to_owned()).collect()),
            }
        }
    }
}

fn flags(command: &Command) -> impl Iterator<Item = String> {
    command.get_arguments().filter_map(|argument| Some(format!("--{}", argument.get_long()?)))
}

/// Names of clusters; none where they cannot be read, since nobody sees an error here.
async fn clusters(mut access: Access, before: &[String]) -> Vec<String> {
    let after =
        |flag: &str| before.iter().position(|word| word == flag).and_then(|at| before.get(at + 1).cloned());
    access.namespace = after("-n").or_else(|| after("--namespace"));
    access.context = after("--context");
    let Ok(session) = Session::open(access).await else { return Vec::new() };
    let listed = session.api::<KvCluster>().list(&ListParams::default().limit(CLUSTERS_MAX)).await;
    listed.map(|listed| listed.items.iter().map(|cluster| cluster.name_any()).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what may come next is offered, and no more. Method: a table of lines as kubectl asks for them.
    #[test]
    fn the_next_word_is_known() {
        let asked = |line: &[&str], last: &str| {
            let before: Vec<String> = line.iter().map(|word| word.to_string()).collect();
            wanted(&Args::command(), &before, last)
        };
        let Wanted::These(commands) = asked(&[], "") else { panic!("no command is chosen") };
        assert!(commands.contains(&"drill".to_owned()) && !commands.iter().any(|name| name.starts_with('_')));
        for line in [vec!["status"], vec!["-n", "shop", "get"], vec!["plan"], vec!["release"]] {
            assert_eq!(asked(&line, "de"), Wanted::Cluster, "{line:?}");
        }
        assert_eq!(asked(&["get", "demo"], ""), Wanted::These(vec![]), "a key");
        let Wanted::These(flags) = asked(&["plan", "demo"], "--lose-") else { panic!("it is a flag") };
        assert!(
            flags.contains(&"--lose-zone".to_owned()) && flags.contains(&"--context".to_owned()),
            "{flags:?}"
        );
        let Wanted::These(shells) = asked(&["completion"], "") else { panic!("it is a shell") };
        assert!(shells.contains(&"kubectl".to_owned()) && shells.contains(&"bash".to_owned()), "{shells:?}");
    }
}
