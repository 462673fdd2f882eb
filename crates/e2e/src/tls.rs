//! Clients with TLS and without, and what a cluster says of it.

use std::path::Path;
use std::time::Duration;
use std::{fmt, fs};

use futures_util::TryStreamExt as _;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::{Patch, PatchParams};
use kvorum_client::{Client, ConnectOptions, KeyRange, Tls};
use kvorum_crd::{KvCluster, TlsMode};
use kvorum_faults::latency::Distribution;
use kvorum_faults::writers::{self, Ledger, Style, Writers};
use kvorum_operator::certificates::{BUNDLE, CERTIFICATE, KEY};
use kvorum_operator::names;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::doors::Doors;
use crate::{Cluster, Context as _, Result, ensure, load, proofs, wait};

const WRITERS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(20);
/// How long a write may take, the client's own retries included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last look at all keys may take.
const LAST_LOOK_LIMIT: Duration = Duration::from_secs(30);
/// So often pods are touched, and clients get what is in root's Secret: the kubelet looks at the Secrets of a pod that
/// has changed, and otherwise every minute.
const TOUCH: Duration = Duration::from_secs(5);

/// Puts what proves that one is root into a directory, as a kubelet does for whoever mounts its Secret.
async fn mount_root(secrets: &Api<Secret>, cluster: &str, directory: &Path) -> Result<()> {
    let data = secrets.get(&names::root_tls(cluster)).await?.data.unwrap_or_default();
    for key in [BUNDLE, CERTIFICATE, KEY] {
        let bytes = data.get(key).context(format!("root's Secret lacks {key}"))?;
        let (new, path) = (directory.join("new"), directory.join(key));
        fs::write(&new, &bytes.0)?;
        fs::rename(&new, &path)?;
    }
    Ok(())
}

/// A client without TLS of a member's port.
pub async fn plain(cluster: &Cluster<'_>) -> Result<Client> {
    let address = cluster.pod(0).await?.status.and_then(|status| status.pod_ip);
    let address = address.context("pod 0 has no address")?;
    let endpoint = kvorum_operator::memory::host_port(&address, names::CLIENT_PORT);
    Ok(Client::builder([endpoint])
        .connect_options(ConnectOptions::new().plain())
        .timeout(TIMEOUT)
        .connect_lazy()?)
}

/// Writers at work, and the kubelets kept awake.
pub struct Writing {
    doors: Doors,
    options: ConnectOptions,
    first: u32,
    writers: Writers,
    touching: JoinHandle<()>,
    /// What the clients read anew.
    _mounted: TempDir,
}

/// What they saw, after it was found to be right.
#[derive(Debug)]
pub struct Written {
    ledgers: Vec<Ledger>,
    took: Distribution,
    count: usize,
}

impl Writing {
    /// Starts them as root, with TLS.
    pub async fn start(cluster: &Cluster<'_>) -> Result<Writing> {
        let (mounted, secrets) = (tempfile::tempdir()?, cluster.test().api());
        mount_root(&secrets, cluster.name(), mounted.path()).await?;
        let options = ConnectOptions::new().tls(Tls::directory(mounted.path())?);
        Writing::by(cluster, WRITERS, options, mounted, Some(secrets)).await
    }

    /// Starts them without TLS.
    pub async fn plain(cluster: &Cluster<'_>) -> Result<Writing> {
        Writing::by(cluster, 0, ConnectOptions::new().plain(), tempfile::tempdir()?, None).await
    }

    /// Starts them as pods of a ServiceAccount, with TLS and a token, whatever that may do.
    pub async fn account(cluster: &Cluster<'_>, account: &str) -> Result<Writing> {
        let mounted = tempfile::tempdir()?;
        let options = proofs::mount_account(cluster, account, mounted.path()).await?;
        Writing::by(cluster, 2 * WRITERS, options, mounted, None).await
    }

    /// `first`: the number of the first writer; `root`: where root's Secret is, if they are root.
    async fn by(
        cluster: &Cluster<'_>,
        first: u32,
        options: ConnectOptions,
        mounted: TempDir,
        root: Option<Api<Secret>>,
    ) -> Result<Writing> {
        let doors = Doors::open(cluster.test(), cluster.name(), 3).await?;
        let mut clients = Vec::new();
        for _ in 0..WRITERS {
            let client =
                Client::builder(doors.addresses()).connect_options(options.clone()).without_leader_search();
            clients.push(client.connect_lazy()?);
        }
        wait::until("the first answer to a client", LAST_LOOK_LIMIT, async || {
            clients[0].set("first", "write").await?;
            Ok(())
        })
        .await?;
        let style = Style { pause: PAUSE, timeout: TIMEOUT, ..Style::default() };
        let writers = Writers::by(clients, first, style, Instant::now());
        let (pods, name) = (cluster.test().api::<Pod>(), cluster.name().to_owned());
        let directory = mounted.path().to_owned();
        let touching = tokio::spawn(async move {
            for round in 0_u64.. {
                tokio::time::sleep(TOUCH).await;
                if let Some(secrets) = &root {
                    // There is none while it is being written anew.
                    let _ = mount_root(secrets, &name, &directory).await;
                }
                let touch =
                    Patch::Merge(json!({"metadata": {"annotations": {"e2e/touched": round.to_string()}}}));
                for ordinal in 0..3 {
                    // One that is being replaced is not there for a moment.
                    let _ = pods.patch(&names::pod(&name, ordinal), &PatchParams::default(), &touch).await;
                }
            }
        });
        Ok(Writing { doors, options, first, writers, touching, _mounted: mounted })
    }

    /// Stops them and checks: no write failed, and all that was acknowledged is there.
    pub async fn finish(self) -> Result<Written> {
        self.touching.abort();
        let ledgers = self.writers.finish().await?;
        writers::check_no_failure(&ledgers)?;
        let client =
            Client::builder(self.doors.addresses()).connect_options(self.options).without_leader_search();
        let client = client.timeout(LAST_LOOK_LIMIT).connect_lazy()?;
        let mut there = 0;
        for writer in self.first..self.first + WRITERS {
            let keys = KeyRange::prefix(format!("{}{writer:04}/", writers::PREFIX));
            there +=
                client.scan(keys).keys_only().start().try_fold(0, async |count, _| Ok(count + 1)).await?;
        }
        let took = writers::latencies(&ledgers);
        // Some may be there that were not acknowledged before the end.
        ensure!(there >= took.len() && !took.is_empty(), "{there} keys are there of {} writes", took.len());
        Ok(Written { count: took.len(), took: Distribution::new(took), ledgers })
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p99, slowest] = [99, 100].map(|percent| self.took.percentile(percent).as_millis());
        write!(f, "{} writes, none failed, 99% took {p99} ms at most, the slowest {slowest} ms", self.count)
    }
}

/// How many writes these were told of, once all of them are there as they were written, and nobody else's.
pub async fn all_there(cluster: &Cluster<'_>, written: &[Written]) -> Result<usize> {
    let doors = Doors::open(cluster.test(), cluster.name(), 3).await?;
    let root = proofs::root(cluster).await?;
    let kvs = wait::until("a look at all keys", LAST_LOOK_LIMIT, async || {
        load::scan(root.raw(&doors.addresses()[0])?).await
    })
    .await?;
    let ledgers: Vec<Ledger> = written.iter().flat_map(|written| written.ledgers.clone()).collect();
    Ok(writers::check(&ledgers, &kvs)?.acknowledged)
}

/// Waits until the status says that the cluster is in this phase.
pub async fn phase(cluster: &Cluster<'_>, phase: &str, within: Duration) -> Result<()> {
    let is_there = |cluster: &KvCluster| {
        let tls = cluster.status.clone().and_then(|status| status.tls).unwrap_or_default();
        ensure!(tls.phase == phase, "it is {}, waiting for {:?}", tls.phase, tls.waiting_for);
        Ok(())
    };
    cluster.until(&format!("phase {phase}"), within, is_there).await?;
    Ok(())
}

/// Waits until all members were restarted so that they speak this, and all is as wanted.
pub async fn speaks(cluster: &Cluster<'_>, mode: TlsMode, within: Duration) -> Result<()> {
    let expected = kvorum_operator::build::tls_word(mode);
    wait::until(&format!("members that speak {mode:?}"), within, async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let pods = cluster.pods().await?;
        for (ordinal, pod) in &pods {
            let word = pod.metadata.annotations.as_ref().and_then(|all| all.get(names::TLS));
            ensure!(word.map(String::as_str) == expected, "member {ordinal} was made for {word:?}");
        }
        ensure!(pods.len() == 3, "{} pods", pods.len());
        Ok(())
    })
    .await?;
    cluster.settled(within).await?;
    Ok(())
}

/// Puts annotations on the KvCluster.
pub async fn annotate(cluster: &Cluster<'_>, annotations: Value) -> Result<()> {
    let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
    cluster.api().patch(cluster.name(), &PatchParams::default(), &patch).await?;
    Ok(())
}
