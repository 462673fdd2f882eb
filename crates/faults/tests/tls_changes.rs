//! Goal: certificates and CAs are replaced, and a plain cluster comes to speak TLS only, without a request that
//! fails or an election; and what has ended is let go.
//!
//! Method: writers at work, without a retry of the test's own, while files are replaced or nodes restarted. What
//! each member has loaded is read off its Status, and what its connections show off its metrics.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use futures_util::future::join_all;
use kvorum_client::{Client, ConnectOptions, KeyRange, Tls};
use kvorum_faults::certificates::{Certificates, ca};
use kvorum_faults::latency::Distribution;
use kvorum_faults::process::Release;
use kvorum_faults::writers::{self, Ledger, Style, Writers};
use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, rpc, settings, wait};
use kvorum_tls::make::{self, Made, Subject};
use kvorum_tls::pem_fingerprint;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// Files are compared every 10 s; a step is seen by all members within this on a busy machine.
const STEP_LIMIT: Duration = Duration::from_secs(60);
/// How long one call may take.
const CALL_LIMIT: Duration = Duration::from_secs(20);
const WRITERS: u32 = 4;
/// Connections that say nothing.
const SILENT: usize = 1_000;
/// What puts may take beside them, at the 99th percentile; `LATENCY_SCALE` scales it in per cent.
const SILENT_PUT_LIMIT: Duration = Duration::from_millis(50);

/// One cluster at a time has the machine.
static MACHINE: Mutex<()> = Mutex::const_new(());

async fn found(members: usize, mode: &str) -> Result<(TempDir, Arc<Certificates>, Cluster)> {
    let directory = tempfile::tempdir()?;
    let certificates = Arc::new(Certificates::make(directory.path())?);
    let flags = if mode == "off" { Vec::new() } else { certificates.flags(mode) };
    let layout = Layout { flags, tls: Some(certificates.clone()), ..Layout::default() };
    Ok((directory, certificates, Cluster::found(members, layout).await?))
}

/// Writers with clients of their own, numbered from `first` on.
async fn load(cluster: &Cluster, first: u32, options: &ConnectOptions) -> Result<Writers> {
    let mut clients = Vec::new();
    for _ in 0..WRITERS {
        let builder = Client::builder(cluster.endpoints()).connect_options(options.clone());
        clients.push(builder.connect().await?);
    }
    let style = Style { pause: Duration::from_millis(5), ..Style::default() };
    Ok(Writers::by(clients, first, style, Instant::now()))
}

/// Waits until every member has loaded this bundle, and a leaf other than the one before.
async fn loaded(cluster: &Cluster, bundle: [u8; 32], old_leaf: &[u8]) -> Result<()> {
    wait::until("the members' look at their files", STEP_LIMIT, async || {
        for node in cluster.nodes() {
            let tls = node.status().await?.tls.context("it speaks no TLS")?;
            ensure!(tls.bundle_sha256 == bundle[..], "{} has another bundle yet", node.name());
            ensure!(tls.leaf_sha256 != old_leaf, "{} has the old certificate yet", node.name());
        }
        Ok(())
    })
    .await
}

async fn leaf_of(cluster: &Cluster) -> Result<Vec<u8>> {
    let tls = cluster.nodes()[0].status().await?.tls.context("it speaks no TLS")?;
    Ok(tls.leaf_sha256.to_vec())
}

/// Waits until no connection between members shows a certificate by another CA than the members' own.
async fn no_old_connection(cluster: &Cluster) -> Result<()> {
    wait::until("the end of connections by the old CA", STEP_LIMIT, async || {
        for node in cluster.nodes() {
            let old = "kvorum_connections{ca=\"old\",port=\"peer\",tls=\"yes\"}";
            let count = rpc::metric(node.http_address(), old).await.unwrap_or(0.0);
            // One is the test's own, as root, over which it asks for the status.
            ensure!(count <= 1.0, "{} has {count} connections by the old CA", node.name());
        }
        Ok(())
    })
    .await
}

fn fingerprint(cas: &[&Made]) -> Result<[u8; 32]> {
    let bundle: String = cas.iter().map(|ca| ca.certificate.as_str()).collect();
    Ok(pem_fingerprint(&bundle)?)
}

#[tokio::test]
async fn a_whole_ca_is_replaced_under_load() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let (_files, files, cluster) = found(3, "required").await?;
    let (old, new) = (files.ca()?, ca("test 2")?);
    let leader = cluster.leader().await?;
    let term = leader.status().await?.term;
    let load = load(&cluster, 0, &cluster.connect_options()?).await?;

    // A new certificate of the same CA.
    let leaf = leaf_of(&cluster).await?;
    files.write(&[&old], &old)?;
    loaded(&cluster, fingerprint(&[&old])?, &leaf).await?;
    // Trust, issue, drop.
    files.write_bundle(&[&old, &new])?;
    loaded(&cluster, fingerprint(&[&old, &new])?, &leaf).await?;
    let leaf = leaf_of(&cluster).await?;
    files.write(&[&old, &new], &new)?;
    loaded(&cluster, fingerprint(&[&old, &new])?, &leaf).await?;
    no_old_connection(&cluster).await?;
    files.write_bundle(&[&new])?;
    loaded(&cluster, fingerprint(&[&new])?, &leaf).await?;

    let client = Client::builder(cluster.endpoints()).tls(files.root()?).connect().await?;
    client.set("after", "the rotation").await?;
    let ledgers = load.finish().await?;
    eprintln!("tls: a CA was replaced beside {}", summary(&ledgers)?);
    writers::check_no_failure(&ledgers)?;
    let status = leader.status().await?;
    ensure!(status.term == term, "there was an election: term {} after {term}", status.term);
    for node in cluster.nodes() {
        let taken = rpc::metric(node.http_address(), "kvorum_tls_reloads_total{result=\"taken\"}").await?;
        ensure!(taken >= 4.0, "{} took {taken} of four changes", node.name());
    }
    cluster.compare_stores(cluster.nodes()).await?;
    cluster.close()
}

#[tokio::test]
async fn a_plain_cluster_comes_to_speak_tls_only() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let (_files, files, cluster) = found(3, "off").await?;
    let plain = load(&cluster, 0, &ConnectOptions::new().plain()).await?;
    roll(&cluster, files.flags("optional")).await?;
    let secured = load(&cluster, WRITERS, &ConnectOptions::new().tls(files.root()?)).await?;
    let mut ledgers = plain.finish().await?;
    roll(&cluster, files.flags("required")).await?;
    ledgers.extend(secured.finish().await?);
    eprintln!("tls: from plain to TLS beside {}", summary(&ledgers)?);
    writers::check_no_failure(&ledgers)?;
    let stranger = Client::builder(cluster.endpoints()).connect_options(ConnectOptions::new().plain());
    let refused = stranger.timeout(Duration::from_secs(2)).connect().await;
    ensure!(refused.is_err(), "a plain client is served");
    cluster.compare_stores(cluster.nodes()).await?;
    cluster.close()
}

/// Restarts all nodes with these flags, one after the other.
async fn roll(cluster: &Cluster, flags: Vec<String>) -> Result<()> {
    for node in cluster.nodes() {
        node.terminate().await?;
        node.set_release(&Release { binary: None, flags: flags.clone() });
        node.start().await?;
        cluster.wait_healthy().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_thousand_silent_connections_cost_nobody_his_time() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let (_files, files, cluster) = found(3, "required").await?;
    let client = cluster.client().await?;
    let silent = |address: &str| {
        let address = address.to_owned();
        async move { TcpStream::connect(address).await }
    };
    let leader = cluster.leader().await?;
    let term = leader.status().await?.term;
    let mut held = Vec::new();
    for address in [leader.client_address(), leader.peer_address()] {
        held.extend(join_all((0..SILENT / 2).map(|_| silent(address))).await);
    }
    let begun = Instant::now();
    let mut took = Vec::new();
    while begun.elapsed() < Duration::from_secs(3) {
        let at = Instant::now();
        client.set("k", "v").await?;
        took.push(at.elapsed());
    }
    let at = Instant::now();
    Client::builder(cluster.endpoints()).tls(files.root()?).connect().await?.set("new", "client").await?;
    let new = at.elapsed();
    let puts = Distribution::new(took);
    let (p50, p99) = (puts.percentile(50), puts.percentile(99));
    eprintln!(
        "tls: beside {} silent connections puts take {p50:?}, {p99:?} at p99; a new client {new:?}",
        held.len()
    );
    let limit = SILENT_PUT_LIMIT * settings::number("LATENCY_SCALE", 100) / 100;
    ensure!(p99 <= limit, "puts take {p99:?} at p99, the limit is {limit:?}");
    ensure!(leader.status().await?.term == term, "there was an election");
    drop(held);
    cluster.close()
}

#[tokio::test]
async fn a_connection_ends_soon_after_its_certificate() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let (_files, files, cluster) = found(1, "required").await?;
    let life = Duration::from_secs(8);
    let short =
        make::leaf(&files.ca()?, &Subject::User("short".into()), life).context("make a certificate")?;
    files.write_as("short", &[&files.ca()?], &short)?;
    let tls = Tls::directory(files.directory("short"))?;
    let client =
        Client::builder(cluster.endpoints()).tls(tls).timeout(Duration::from_secs(2)).connect().await?;
    let mut changes = client.watch(KeyRange::all()).start().await?;
    client.set("k", "v").await?;
    timeout(CALL_LIMIT, changes.try_next()).await.context("wait for an event")??;
    // Told to go, and cut off 30 s later: no new call is served on what is open, nor on a new connection.
    let refused = wait::until("the end of a certificate", STEP_LIMIT, async || {
        let Err(error) = client.get("k").await else {
            return Err(kvorum_faults::Failure::new("it is served"));
        };
        Ok(error.to_string())
    })
    .await?;
    ensure!(refused.contains("has expired"), "it was told {refused:?}");
    wait::until("the end of its connection", STEP_LIMIT, async || {
        let open = "kvorum_connections{ca=\"current\",port=\"client\",tls=\"yes\"}";
        let count = rpc::metric(cluster.nodes()[0].http_address(), open).await?;
        ensure!(count == 0.0, "{count} connections are open");
        Ok(())
    })
    .await?;
    cluster.close()
}

/// How many writes there were, and how long they took.
fn summary(ledgers: &[Ledger]) -> Result<String> {
    let took = writers::latencies(ledgers);
    ensure!(!took.is_empty(), "nothing was written");
    let (count, took) = (took.len(), Distribution::new(took));
    let (p50, p99, longest) = (took.percentile(50), took.percentile(99), took.percentile(100));
    Ok(format!("{count} writes of {p50:?}, {p99:?} at p99, {longest:?} at most"))
}
