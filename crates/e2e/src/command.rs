//! Programs that a user would run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::{Context as _, Failure, Result, Test, ensure, settings};

/// Runs `kubectl` and answers what it printed.
pub async fn kubectl<const N: usize>(arguments: [&str; N]) -> Result<String> {
    output("kubectl", arguments).await
}

/// Runs `kubectl` with something on its standard input.
pub async fn kubectl_with<const N: usize>(arguments: [&str; N], input: &str) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), input)?;
    let arguments = arguments.map(|argument| match argument {
        "-" => file.path().as_os_str(),
        other => OsStr::new(other),
    });
    output("kubectl", arguments).await
}

/// Runs a line of a shell as a user would type it, `kubectl` in the test's namespace, and prints the line and what it said.
pub async fn shown(test: &Test, line: &str) -> Result<String> {
    let shell = format!("kubectl() {{ command kubectl -n {} \"$@\"; }}; {line}", test.namespace);
    let said = output("sh", ["-ec", &shell]).await?;
    eprintln!("$ {line}\n{}", said.trim_end());
    Ok(said)
}

/// Runs `helm` and answers what it printed.
pub async fn helm(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String> {
    output("helm", arguments).await
}

/// Runs `kubectl kvorum` as it was built here.
pub async fn plugin<const N: usize>(arguments: [&str; N]) -> Result<String> {
    output(built("kubectl-kvorum")?, arguments).await
}

/// A program of the workspace, where cargo has put it.
pub fn built(program: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let directory = test.parent().and_then(Path::parent).context("tests are below a target directory")?;
    let path = directory.join(program);
    ensure!(path.is_file(), "there is no {}: cargo build --workspace --bins", path.display());
    Ok(path)
}

/// Runs a program in the workspace's root; fails with what it said.
pub async fn output(
    program: impl AsRef<Path>,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<String> {
    let mut command = Command::new(program.as_ref());
    command.args(arguments).current_dir(settings::root()).stdin(Stdio::null()).kill_on_drop(true);
    let said = format!("{:?}", command.as_std());
    let output = command.output().await.context(format!("run {said}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(printed),
        false => Err(Failure::new(format!(
            "{said} failed ({}): {}{printed}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ))),
    }
}
