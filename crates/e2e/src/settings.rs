//! What the environment says, beside `KUBECONFIG`.

use std::env;
use std::path::PathBuf;

/// The image of operator and members, which the machines must have or be able to pull: `E2E_IMAGE`.
pub fn image() -> String {
    env::var("E2E_IMAGE").unwrap_or_else(|_| "localhost/kvorum:dev".into())
}

/// Another name for an image that works as well, for upgrades: `E2E_IMAGE_NEXT`.
pub fn image_next() -> String {
    env::var("E2E_IMAGE_NEXT").unwrap_or_else(|_| "localhost/kvorum:next".into())
}

/// An earlier release.
pub struct Before {
    /// Its image, which the machines have.
    pub image: String,
    /// Its chart's directory.
    pub chart: String,
}

/// The earlier release that `scripts/before` has made: `E2E_BEFORE_IMAGE` and `E2E_BEFORE_CHART`.
pub fn before() -> Option<Before> {
    let (image, chart) = (env::var("E2E_BEFORE_IMAGE").ok()?, env::var("E2E_BEFORE_CHART").ok()?);
    Some(Before { image, chart })
}

/// Where `scripts/cert-manager` has put cert-manager's controller and its definitions: `E2E_CERT_MANAGER`.
pub fn cert_manager() -> Option<PathBuf> {
    env::var_os("E2E_CERT_MANAGER").map(PathBuf::from)
}

/// A program that does to a machine what its first argument says (kill, start, isolate, join, wipe); the
/// second one names the Node: `E2E_MACHINES`. Without it nobody can pull a plug.
pub fn machines() -> Option<PathBuf> {
    env::var_os("E2E_MACHINES").map(PathBuf::from)
}

/// How pods are reached: directly, or by `kubectl port-forward` (`E2E_REACH=forward`), as where they are
/// behind a container engine of their own.
pub fn forwards() -> bool {
    env::var_os("E2E_REACH").is_some_and(|way| way == "forward")
}

/// By how many per cent a limit on latencies is stretched where others use the machine: `LATENCY_SCALE`.
pub fn latency_scale() -> u32 {
    kvorum_faults::settings::number("LATENCY_SCALE", 100)
}

/// How many tests run at a time: `E2E_JOBS`. Most of what they do is waiting.
pub fn jobs() -> usize {
    kvorum_faults::settings::number("E2E_JOBS", 4).max(1)
}

/// The workspace.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// How long clusters are idle in the test of that: `IDLE_SECONDS`.
pub fn idle_seconds(usual: u64) -> u64 {
    kvorum_faults::settings::number("IDLE_SECONDS", usual)
}
