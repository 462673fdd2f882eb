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
const TOOL: Program = Program { name: "kvorum", package: "kvorum-cli", variable: "KVORUM_TOOL_BIN" };
const BENCH: Program =
    Program { name: "kvorum-bench", package: "kvorum-bench", variable: "KVORUM_BENCH_BIN" };

/// The node's binary: `KVORUM_NODE_BIN`, else the one that cargo put beside the running test, which is
/// built if it is not there. An old one is not noticed: `cargo test --workspace` builds it anew, but
/// `cargo test -p kvorum-faults` does not.
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

/// An example of the client library, built with the tests, or now.
pub fn example(name: &str) -> Result<PathBuf> {
    let profile = profile_directory()?;
    let path = profile.join("examples").join(name);
    if !path.is_file() {
        build(&profile, &["--package", "kvorum-client", "--example", name])?;
    }
    Ok(path)
}

/// The node's binary of an earlier release, by its commit: `KVORUM_OLD_NODE_BIN`, else the one in the build
/// directory, which is built there from the history if `KVORUM_BUILD_RELEASES` is set. `Err` within says why
/// there is none.
///
/// It is built in a directory of its own, all crates included, which takes long once: cargo would take what
/// it compiled of an earlier release for the crates of the same name here.
pub fn release(commit: &str) -> Result<Result<PathBuf, String>> {
    if let Some(path) = env::var_os("KVORUM_OLD_NODE_BIN") {
        return Ok(Ok(path.into()));
    }
    let profile = profile_directory()?;
    let target = profile.parent().context("find the build directory")?;
    let home = target.join("releases").join(commit);
    let binary = home.join("kvorum-node");
    if binary.is_file() {
        return Ok(Ok(binary));
    }
    if env::var_os("KVORUM_BUILD_RELEASES").is_none() {
        return Ok(Err(format!("there is no {}; `make upgrade-test` builds it", binary.display())));
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let known = Command::new("git").arg("-C").arg(here).args(["cat-file", "-e", commit]).output();
    if !known.is_ok_and(|known| known.status.success()) {
        return Ok(Err(format!("commit {commit} is not in the history of {}", here.display())));
    }
    let source = home.join("source");
    std::fs::create_dir_all(&source).context("make a directory for the earlier release")?;
    let root = here.ancestors().nth(2).context("find the repository")?;
    let mut archive = Command::new("git");
    archive.arg("-C").arg(root).args(["archive", "--format=tar", commit]);
    let archive = archive.output().context("run git archive")?;
    let tar = home.join("source.tar");
    std::fs::write(&tar, archive.stdout).context("write the earlier release")?;
    run(Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(&source))?;
    eprintln!("building release {commit} in {}, which takes some minutes once", home.display());
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--workspace", "--locked", "--bin", "kvorum-node"]).current_dir(&source);
    cargo.env("CARGO_TARGET_DIR", home.join("target"));
    run(&mut cargo)?;
    // Whole under its name, or not there.
    let (built, whole) = (home.join("target/debug/kvorum-node"), home.join("kvorum-node.new"));
    std::fs::copy(built, &whole).context("keep the earlier release")?;
    std::fs::rename(&whole, &binary).context("keep the earlier release")?;
    std::fs::remove_dir_all(home.join("target")).context("remove what was compiled")?;
    Ok(Ok(binary))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().context(format!("run {command:?}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(Failure::new(format!("{command:?} failed ({status})"))),
    }
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
        build(&profile, &["--package", package, "--bin", name])?;
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

fn build(profile: &Path, what: &[&str]) -> Result<()> {
    eprintln!("not everything is in {}; building {what:?}", profile.display());
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg("build").args(what);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    if let Some(target) = profile.parent() {
        cargo.arg("--target-dir").arg(target);
    }
    let status = cargo.status().context(format!("run cargo build {what:?}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(Failure::new(format!("cargo build {what:?} failed ({status})"))),
    }
}
