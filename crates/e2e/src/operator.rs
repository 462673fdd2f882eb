//! The operator: installed with Helm as users have it, or run here, so that it can be killed or halted
//! at a point.

use std::process::Stdio;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, ResourceExt};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, watch};

use crate::command::{built, helm, kubectl};
use crate::{Context as _, Failure, Result, ensure, settings, wait};

/// Where the operator is installed.
pub const NAMESPACE: &str = "kvorum-system";
/// The release, and the name of the Deployment and of the Lease.
pub const RELEASE: &str = "kvorum-operator";
/// The chart, from the workspace's root.
pub const CHART: &str = "charts/kvorum-operator";
/// How long an operator may take to be there.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How the operator is, as far as is known. All tests run in one process; one of them sees to it at a time.
static INSTALLED: AtomicU8 = AtomicU8::new(UNKNOWN);
static INSTALLING: Mutex<()> = Mutex::const_new(());
/// Some test has left it in a way of its own.
const UNKNOWN: u8 = 0;
/// As [`install`] leaves it.
const AS_USERS_HAVE_IT: u8 = 1;
/// Installed, without a pod.
const AWAY: u8 = 2;

/// Installs the operator with the values that tests expect, unless it is there.
pub async fn ensure_installed() -> Result<()> {
    let _one = INSTALLING.lock().await;
    if INSTALLED.load(Ordering::Relaxed) != AS_USERS_HAVE_IT {
        install(NAMESPACE, &[]).await?;
        INSTALLED.store(AS_USERS_HAVE_IT, Ordering::Relaxed);
    }
    Ok(())
}

/// Sees to it that no operator is at work in the cluster, but everything is there that one needs: those that run here
/// are alone.
pub async fn ensure_none(client: &Client) -> Result<()> {
    let _one = INSTALLING.lock().await;
    if INSTALLED.load(Ordering::Relaxed) != AWAY {
        install(NAMESPACE, &[]).await?;
        stand_by(client, 0).await?;
        INSTALLED.store(AWAY, Ordering::Relaxed);
    }
    Ok(())
}

/// The next test installs the operator anew: this one leaves it otherwise.
pub fn forget() {
    INSTALLED.store(UNKNOWN, Ordering::Relaxed);
}

/// `helm upgrade --install` with these values beside the image, and the wait until it is done.
pub async fn install(namespace: &str, values: &[&str]) -> Result<()> {
    install_image(namespace, &settings::image(), values).await
}

/// The same with another image.
pub async fn install_image(namespace: &str, image: &str, values: &[&str]) -> Result<()> {
    install_chart(namespace, CHART, image, values).await
}

/// The same with another chart, too.
pub async fn install_chart(namespace: &str, chart: &str, image: &str, values: &[&str]) -> Result<()> {
    forget();
    let (repository, tag) = image.rsplit_once(':').context(format!("{image} has no tag"))?;
    let (repository, tag) = (format!("image.repository={repository}"), format!("image.tag={tag}"));
    let mut arguments = vec!["upgrade", "--install", RELEASE, chart, "--namespace", namespace];
    arguments.extend(["--create-namespace", "--take-ownership", "--wait", "--timeout", "2m"]);
    arguments.extend(["--set", &repository, "--set", &tag]);
    values.iter().for_each(|value| arguments.extend(["--set", *value]));
    helm(arguments).await.map(drop)
}

/// `helm uninstall`, and the wait until its pods are gone.
pub async fn uninstall(namespace: &str) -> Result<()> {
    forget();
    helm(["uninstall", RELEASE, "--namespace", namespace, "--wait", "--timeout", "2m"]).await?;
    wait::until("the end of the operator's pods", START_LIMIT, async || {
        let pods = kubectl(["get", "pods", "-n", namespace, "-o", "name"]).await?;
        ensure!(!pods.contains(RELEASE), "{pods}");
        Ok(())
    })
    .await
}

/// The operator's pods.
pub async fn pods(client: &Client) -> Result<Vec<Pod>> {
    let selected = ListParams::default().labels("app.kubernetes.io/name=kvorum-operator");
    Ok(Api::<Pod>::namespaced(client.clone(), NAMESPACE).list(&selected).await?.items)
}

/// Ends every operator's pod without any grace; the Deployment makes new ones.
pub async fn restart(client: &Client) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let params = DeleteParams::default().grace_period(0);
    let names: Vec<String> = pods(client).await?.iter().map(ResourceExt::name_any).collect();
    try_join_all(names.iter().map(|name| api.delete(name, &params))).await?;
    Ok(())
}

/// So many operators stand by in the cluster; with none, operators that run here are alone.
pub async fn stand_by(client: &Client, replicas: u32) -> Result<()> {
    forget();
    let flag = format!("--replicas={replicas}");
    kubectl(["scale", "-n", NAMESPACE, "deployment", RELEASE, &flag]).await?;
    let api: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    wait::until("the operator's pods", START_LIMIT, async || {
        let status = api.get(RELEASE).await?.status.unwrap_or_default();
        let (is, ready) = (pods(client).await?.len(), status.ready_replicas.unwrap_or(0));
        ensure!((is, ready) == (replicas as usize, replicas as i32), "{is} are there, {ready} ready");
        Ok(())
    })
    .await
}

/// An operator that runs here, for one namespace. Dropped, it is killed.
pub struct Local {
    process: Child,
    pid: Pid,
    log: watch::Receiver<Vec<String>>,
}

impl Local {
    /// Starts one for a namespace that holds its Lease in another: two with different ones work at once.
    pub fn start(namespace: &str, lease_namespace: &str, name: &str) -> Result<Local> {
        let mut command = Command::new(built("kvorum-operator")?);
        command.args(["--watch-namespace", namespace, "--lease-namespace", lease_namespace]);
        command.args(["--identity", name, "--image", &settings::image(), "--image-pull-policy=IfNotPresent"]);
        command.args(["--listen-http", "127.0.0.1:0"]);
        command.stderr(Stdio::piped()).stdin(Stdio::null()).kill_on_drop(true);
        let mut process = command.spawn().context("start the operator")?;
        let pid = process.id().and_then(|pid| Pid::from_raw(pid as i32)).context("the operator has ended")?;
        let said = process.stderr.take().context("read the operator's log")?;
        let (lines, log) = watch::channel(Vec::new());
        tokio::spawn(async move {
            let mut read = BufReader::new(said).lines();
            while let Ok(Some(line)) = read.next_line().await {
                lines.send_modify(|lines: &mut Vec<String>| lines.push(line));
            }
        });
        Ok(Local { process, pid, log })
    }

    /// Waits for a line of its log, from line `from` on, that holds all these words; answers its number.
    pub async fn says(&mut self, from: usize, words: &[&str], within: Duration) -> Result<usize> {
        let found = |lines: &Vec<String>| {
            let rest = lines.iter().enumerate().skip(from);
            rest.into_iter().find(|(_, line)| words.iter().all(|word| line.contains(word))).map(|(at, _)| at)
        };
        let waited = tokio::time::timeout(within, self.log.wait_for(|lines| found(lines).is_some())).await;
        match waited {
            Ok(Ok(lines)) => found(&lines).context("a log only grows"),
            _ => Err(Failure::new(format!("the operator did not say {words:?} within {within:?}"))),
        }
    }

    /// What it logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    /// It stands still, as on a machine that is suspended.
    pub fn halt(&self) -> Result<()> {
        Ok(kill_process(self.pid, Signal::STOP)?)
    }

    /// It goes on where it stood.
    pub fn go_on(&self) -> Result<()> {
        Ok(kill_process(self.pid, Signal::CONT)?)
    }

    /// SIGKILL; and its Lease goes, so that nobody has to wait until it is over.
    pub async fn kill(mut self, client: &Client, lease_namespace: &str) -> Result<()> {
        self.process.kill().await?;
        let leases: Api<Lease> = Api::namespaced(client.clone(), lease_namespace);
        // It may not have got so far as to make one.
        if leases.get_opt(RELEASE).await?.is_some() {
            leases.delete(RELEASE, &DeleteParams::default()).await?;
        }
        Ok(())
    }
}
