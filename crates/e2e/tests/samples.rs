//! Goal: a program has access by the files that a pod of `manifests/samples` mounts, and by these alone, from Rust and from
//! Python, whose stubs are generated as their users do it.
//!
//! Method: real members that speak TLS only, with rights that count, and the directory of such a pod. The issuer of tokens
//! is the test's own, declared as the operator does it.

#[path = "../../auth/tests/issuer/mod.rs"]
mod issuer;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use kvorum_client::admin::{AdminClient, declared_mode, declared_role, v1};
use kvorum_client::auth::{Access, Mode};
use kvorum_client::{ConnectOptions, KeyRange};
use kvorum_e2e::{Context as _, Failure, Result, ensure, settings, stock};
use kvorum_faults::certificates::{Certificates, leaf};
use kvorum_faults::{Cluster, Layout, binary, wait};
use kvorum_tls::make::Subject;
use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;

/// The leader looks every 2 s whether all know users.
const LEVEL_LIMIT: Duration = Duration::from_secs(30);
/// A sample is done within this.
const SAMPLE_LIMIT: Duration = Duration::from_secs(30);

/// The users of the samples' pods.
const APP: &str = "app";

/// A cluster on which rights count, and the directories of pods.
struct Rig {
    directory: tempfile::TempDir,
    certificates: Arc<Certificates>,
    cluster: Cluster,
}

impl Rig {
    async fn found() -> Result<Rig> {
        let directory = tempfile::tempdir()?;
        let certificates = Arc::new(Certificates::make(directory.path())?);
        let flags = certificates.flags("required");
        let layout = Layout { flags, tls: Some(certificates.clone()), ..Layout::default() };
        let cluster = Cluster::found(3, layout).await?;
        let rig = Rig { directory, certificates, cluster };
        wait::until("users", LEVEL_LIMIT, async || rig.declare().await).await?;
        Ok(rig)
    }

    /// Declares what a KvCluster with the samples' `spec.access` does.
    async fn declare(&self) -> Result<()> {
        let node = &self.cluster.nodes()[0];
        let root = ConnectOptions::new().tls(self.certificates.root()?);
        let node = AdminClient::new(node.peer_address(), SAMPLE_LIMIT)?.connect_options(root);
        let level = node.status().await?.feature_level;
        ensure!(level >= 3, "the feature level is {level}");
        let user = |name: &str, role: &str| v1::DeclaredUser { name: name.into(), roles: vec![role.into()] };
        let request = v1::ApplyAccessRequest {
            users: vec![user("root", "root"), user(APP, APP), user(issuer::USER, APP)],
            roles: vec![declared_role(APP, [(KeyRange::prefix("app/"), Access::ReadWrite)])],
            issuer: Some(v1::TokenIssuer {
                issuer: issuer::ISSUER.into(),
                audience: issuer::AUDIENCE.into(),
                jwks: issuer::KEYS.jwks(),
            }),
            mode: declared_mode(Mode::Required),
        };
        node.apply_access(request).await.context("declare who may do what")
    }

    /// What the pod with a ServiceAccount mounts.
    fn of_account(&self, account: &str) -> Result<PathBuf> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("ask what time it is")?.as_secs();
        let claims = json!({"sub": account, "iat": now, "nbf": now, "exp": now + 3600});
        let token = issuer::KEYS.sign(&issuer::header("RS256", "rsa"), &issuer::with(claims));
        let directory = self.directory.path().join(account.replace(':', "-"));
        fs::create_dir_all(&directory)?;
        fs::copy(self.certificates.directory("root").join("ca.crt"), directory.join("ca.crt"))?;
        fs::write(directory.join("token"), token)?;
        Ok(directory)
    }

    /// What the pod with a certificate mounts.
    fn of_certificate(&self, user: &str) -> Result<PathBuf> {
        let ca = self.certificates.ca()?;
        self.certificates.write_as(user, &[&ca], &leaf(&ca, &Subject::User(user.into()))?)?;
        Ok(self.certificates.directory(user))
    }

    fn address(&self) -> String {
        self.cluster.nodes()[1].client_address().to_owned()
    }
}

/// Runs a sample; answers what it printed, or what it said when it failed.
async fn run(program: &Path, arguments: &[&str], path: Option<&Path>) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    if let Some(path) = path {
        command.env("PYTHONPATH", path);
    }
    let output = timeout(SAMPLE_LIMIT, command.output()).await.context("a sample takes too long")?;
    let output =
        output.map_err(|error: io::Error| Failure::new(format!("{}: {error}", program.display())))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        // The library's examples write where there is no pipe to break.
        true => Ok(text(&output.stdout) + &text(&output.stderr)),
        false => Err(Failure::new(text(&output.stderr))),
    }
}

/// It has written and read; and what it may not, it is told.
fn expect(sample: &str, outcome: Result<String>, denied: Result<String>) -> Result<()> {
    let printed = outcome.context(format!("run {sample}"))?;
    ensure!(printed.starts_with("app/greeting is hello as of revision "), "{sample} printed {printed}");
    let told = denied.err().context(format!("{sample} wrote for somebody who may not"))?.to_string();
    ensure!(told.contains("permission denied"), "{sample} was told: {told}");
    Ok(())
}

#[tokio::test]
async fn programs_in_rust_have_access_by_their_pods_files() -> Result<()> {
    let rig = Rig::found().await?;
    let address = rig.address();
    let other = "system:serviceaccount:shop:other";
    for (sample, own, other) in [
        ("service_account", rig.of_account(issuer::USER)?, rig.of_account(other)?),
        ("certificate", rig.of_certificate(APP)?, rig.of_certificate("other")?),
    ] {
        let program = binary::example(sample)?;
        let run =
            async |directory: &Path| run(&program, &[&address, &directory.display().to_string()], None).await;
        expect(sample, run(&own).await, run(&other).await)?;
    }
    rig.cluster.close()
}

#[tokio::test]
async fn programs_in_python_have_access_by_their_pods_files() -> Result<()> {
    let python = match stock::python().await {
        Ok(python) => python,
        Err(failure) => {
            eprintln!("SKIPPED samples in Python: its grpcio cannot be had: {failure}");
            return Ok(());
        }
    };
    let rig = Rig::found().await?;
    let (address, stubs) = (rig.address(), rig.directory.path().join("stubs"));
    fs::create_dir_all(&stubs)?;
    let (proto, out) = (settings::root().join("proto").display().to_string(), stubs.display().to_string());
    let source = format!("{proto}/kv/v1/kv.proto");
    let generate =
        ["-m", "grpc_tools.protoc", "-I", &proto, "--python_out", &out, "--grpc_python_out", &out, &source];
    run(&python, &generate, None).await.context("generate the stubs")?;
    let sample = settings::root().join("manifests/samples/client.py").display().to_string();
    let other = "system:serviceaccount:shop:other";
    for (who, own, other) in [
        ("a ServiceAccount", rig.of_account(issuer::USER)?, rig.of_account(other)?),
        ("a certificate", rig.of_certificate(APP)?, rig.of_certificate("other")?),
    ] {
        let run = async |directory: &Path| {
            let directory = directory.display().to_string();
            run(&python, &[&sample, &address, &directory], Some(&stubs)).await
        };
        expect(&format!("client.py with {who}"), run(&own).await, run(&other).await)?;
    }
    rig.cluster.close()
}
