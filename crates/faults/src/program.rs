//! A program that runs to its end: the tool, or a node that is expected not to start.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use crate::{Context as _, Failure, Result, binary, ensure};

/// Longer than anything a test asks of the tool may take, its own time-out included.
const RUN_LIMIT: Duration = Duration::from_secs(30);

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The command line, for failures.
    pub line: String,
    /// Its exit code; none after a signal.
    pub code: Option<i32>,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Ended {
    /// Fails unless it ended with this code, and with all these words in its standard error.
    pub fn expect(&self, code: i32, words: &[&str]) -> Result<()> {
        let said = words.iter().all(|word| self.stderr.contains(word));
        ensure!(
            self.code == Some(code) && said && !self.stderr.contains("panicked"),
            "`{}` was to end with {code} and to say {words:?}; it ended with {:?} and said\n{}",
            self.line,
            self.code,
            self.stderr
        );
        Ok(())
    }

    /// The standard output of a program that must have succeeded.
    pub fn output(&self) -> Result<&[u8]> {
        self.expect(0, &[])?;
        Ok(&self.stdout)
    }
}

/// Runs the tool against these endpoints.
pub async fn tool(endpoints: &[String], arguments: &[&str]) -> Result<Ended> {
    tool_with(endpoints, arguments, &[]).await
}

/// Runs the tool with something on its standard input.
pub async fn tool_with(endpoints: &[String], arguments: &[&str], input: &[u8]) -> Result<Ended> {
    let endpoints = endpoints.join(",");
    let all: Vec<&str> = ["--endpoints", &endpoints].into_iter().chain(arguments.iter().copied()).collect();
    run(binary::tool()?, &all, input).await
}

/// Runs a node that is expected to end by itself.
pub async fn node<S: AsRef<OsStr>>(arguments: &[S]) -> Result<Ended> {
    run(binary::node()?, arguments, &[]).await
}

/// Runs a program without the caller's environment, and waits for its end.
pub async fn run<S: AsRef<OsStr>>(program: &Path, arguments: &[S], input: &[u8]) -> Result<Ended> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("RUST_BACKTRACE", "1").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let words = arguments.iter().map(|argument| argument.as_ref().to_string_lossy());
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let line: Vec<_> = [name].into_iter().chain(words.map(shortened)).collect();
    let line = line.join(" ");
    let begun = Instant::now();
    let mut child = command.spawn().context(format!("run {line}"))?;
    let mut stdin = child.stdin.take().context("the standard input is a pipe")?;
    let work = async {
        // A program may end without reading what it is given.
        let _ = stdin.write_all(input).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let output = match timeout(RUN_LIMIT, work).await {
        Ok(output) => output?,
        Err(_) => return Err(Failure::new(format!("`{line}` still ran after {RUN_LIMIT:?}"))),
    };
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(Ended { line, code: output.status.code(), stdout: output.stdout, stderr, took: begun.elapsed() })
}

/// A value of a mebibyte says no more than its beginning.
fn shortened(word: std::borrow::Cow<'_, str>) -> std::borrow::Cow<'_, str> {
    match word.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &word[..end]).into(),
        None => word,
    }
}
