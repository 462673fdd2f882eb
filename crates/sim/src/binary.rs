//! Finds the programs that the tests run.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::{Context as _, Failure, Result};

/// A program of this workspace.
struct Program {
    name: &'static str,
    package: &'static str,
    /// The environment variable that names another one than the one beside the tests.
    variable: &'static str,
}

const NODE: Program = Program { name: "kvorum-node", package: "kvorum-node", variable: "KVORUM_NODE_BIN" };
const TOOL: Program = Program { name: "kvorum", package: "kvorum-client", variable: "KVORUM_TOOL_BIN" };
const BENCH: Program =
    Program { name: "kvorum-bench", package: "kvorum-bench", variable: "KVORUM_BENCH_BIN" };

/// The node's binary: `KVORUM_NODE_BIN`, else the one that cargo put beside the running test, which is
/// built if it is not there. An old one is not noticed: `cargo test --workspace` builds it anew, but
/// `cargo test -p kvorum-sim` does not.
pub fn node() -> Result<&'static Path> {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    once(&FOUND, &NODE)
}

/// The tool, `KVORUM_TOOL_BIN`; found as [`node`] is.
pub fn tool() -> Result<&'static Path> {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    once(&FOUND, &TOOL)
}

/// The load generator, `KVORUM_BENCH_BIN`; found as [`node`] is.
pub fn bench() -> Result<&'static Path> {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    once(&FOUND, &BENCH)
}

fn once(found: &'static OnceLock<PathBuf>, program: &Program) -> Result<&'static Path> {
    if let Some(path) = found.get() {
        return Ok(path);
    }
    let path = find(program)?;
    Ok(found.get_or_init(|| path))
}

fn find(program: &Program) -> Result<PathBuf> {
    let Program { name, package, variable } = program;
    if let Some(path) = env::var_os(variable) {
        let path = PathBuf::from(path);
        return match path.is_file() {
            true => Ok(path),
            false => Err(Failure::new(format!("{variable} names {}, which is no file", path.display()))),
        };
    }
    let profile = profile_directory()?;
    let path = profile.join(name);
    if !path.is_file() {
        build(&profile, program)?;
    }
    match path.is_file() {
        true => Ok(path),
        false => Err(Failure::new(format!(
            "there is no {}; run `cargo build -p {package}`, or set {variable}",
            path.display()
        ))),
    }
}

/// `target/debug` for a test that runs as `target/debug/deps/torture-…`.
fn profile_directory() -> Result<PathBuf> {
    let test = env::current_exe().context("find the running test")?;
    let directory = test.parent().context("find the directory of the running test")?;
    let profile = if directory.ends_with("deps") { directory.parent() } else { Some(directory) };
    profile.map(Path::to_owned).context("find the build directory")
}

fn build(profile: &Path, program: &Program) -> Result<()> {
    let Program { name, package, .. } = program;
    eprintln!("{} has no {name}; building it", profile.display());
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--package", package, "--bin", name]);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    if let Some(target) = profile.parent() {
        cargo.arg("--target-dir").arg(target);
    }
    let status = cargo.status().context(format!("run cargo build -p {package}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(Failure::new(format!("cargo build -p {package} failed ({status})"))),
    }
}
