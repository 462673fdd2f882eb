//! `kvorum-operator`: watches KvClusters.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kube::Client;
use kvorum_operator::controller::{Context, run};
use kvorum_operator::elect::{Election, LEASE};
use kvorum_operator::http::{Duty, Health, serve};
use kvorum_operator::options::Options;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The operator of Kvorum clusters.
#[derive(Debug, Parser)]
#[command(name = "kvorum-operator", version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    task: Option<Task>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Print the CustomResourceDefinition of KvCluster as YAML
    Crd,
}

#[derive(Debug, Args)]
struct Flags {
    /// The image of clusters whose spec names none
    #[arg(long, env = "KVORUM_IMAGE", default_value = concat!("ghcr.io/kvorum/kvorum:", env!("CARGO_PKG_VERSION")))]
    image: String,

    /// When that image is pulled: Always, IfNotPresent or Never [default: as Kubernetes has it]
    #[arg(long, env = "KVORUM_IMAGE_PULL_POLICY")]
    image_pull_policy: Option<String>,

    /// Watch these namespaces only; several with commas in between, or the flag again [default: all]
    #[arg(
        long = "watch-namespace",
        env = "KVORUM_WATCH_NAMESPACE",
        value_name = "NAMESPACE",
        value_delimiter = ','
    )]
    watch_namespaces: Vec<String>,

    /// The domain of the cluster's DNS; members' certificates hold their names with it too
    #[arg(long, env = "KVORUM_CLUSTER_DOMAIN", default_value = "cluster.local", value_name = "DOMAIN")]
    cluster_domain: String,

    /// Make NetworkPolicies for clusters, which let in the operators that run as pods in this namespace
    #[arg(long, env = "KVORUM_NETWORK_POLICIES_FOR", value_name = "NAMESPACE")]
    network_policies_for: Option<String>,

    /// The name of the Lease that one of several operators with the same task holds
    #[arg(long, env = "KVORUM_LEASE_NAME", default_value = LEASE)]
    lease_name: String,

    /// Where the Lease is that one of several operators holds [default: the operator's own namespace]
    #[arg(long, env = "KVORUM_LEASE_NAMESPACE")]
    lease_namespace: Option<String>,

    /// The name under which it is held
    #[arg(long, env = "POD_NAME", default_value = "kvorum-operator")]
    identity: String,

    /// Existing clusters follow this operator's image and pod template
    #[arg(long, env = "KVORUM_UPGRADE_CLUSTERS")]
    upgrade_clusters: bool,

    /// host:port to listen on for /metrics, /livez, /readyz and /version
    #[arg(long, env = "KVORUM_LISTEN_HTTP", default_value = "[::]:8080")]
    listen_http: String,

    /// How the log on standard error is written
    #[arg(long, env = "KVORUM_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace
    #[arg(long, env = "KVORUM_LOG_LEVEL", default_value = "info")]
    log_level: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Cli { task, flags } = Cli::parse();
    match task {
        Some(Task::Crd) => print_definition(),
        None => match operate(flags).await {
            Ok(code) => code,
            Err(error) => {
                eprintln!("kvorum-operator: {error}");
                ExitCode::FAILURE
            }
        },
    }
}

#[expect(clippy::print_stdout, reason = "the definition is this command's output")]
fn print_definition() -> ExitCode {
    print!("{}", serde_yaml_ng::to_string(&kvorum_crd::definition()).expect("a definition is plain data"));
    ExitCode::SUCCESS
}

/// Why the operator did not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("--log-level: {0}")]
    Log(#[from] tracing_subscriber::filter::ParseError),
    #[error("listen on {0}: {1}; choose another --listen-http")]
    Listen(String, std::io::Error),
    #[error("handle signals: {0}")]
    Signal(std::io::Error),
    #[error("reach Kubernetes: {0}; set KUBECONFIG, or run it in a pod with a service account")]
    Kubernetes(#[from] kube::Error),
    #[error("take part in the election: {0}; the operator needs rights on Leases in its namespace")]
    Election(#[from] kube_lease_manager::LeaseManagerError),
}

/// Works until a signal comes or the Lease is lost.
async fn operate(flags: Flags) -> Result<ExitCode, StartError> {
    log_to_stderr(flags.log_format, &flags.log_level)?;
    if let Err(error) = kvorum_tls::keep_out_of_core_files() {
        tracing::warn!(%error, "a core file of this process could be written, and would hold the CAs' keys");
    }
    let listener = TcpListener::bind(&flags.listen_http).await;
    let listener = listener.map_err(|error| StartError::Listen(flags.listen_http.clone(), error))?;
    let (stop, stopped) = watch::channel(false);
    let health = Health::default();
    let port = tokio::spawn(serve(listener, health.clone(), wait(stopped.clone())));
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signal)?;
    let signals = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
        signals.send_replace(true);
    });

    let client = Client::try_default().await?;
    client.apiserver_version().await?;
    let namespace = flags.lease_namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    // Two operators that were given one name are two all the same.
    let identity = format!("{}-{:08x}", flags.identity, rand::random::<u32>());
    let lease = format!("{namespace}/{}", flags.lease_name);
    let mut election = Election::begin(client.clone(), &namespace, &flags.lease_name, &identity).await?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), identity, lease, "waiting for the lease");
    health.does(Duty::StandsBy { lease });
    let lost = tokio::select! {
        () = election.won() => {
            tracing::info!("this operator holds the lease and works");
            health.does(Duty::Works);
            let options = Options {
                image: flags.image,
                pull_policy: flags.image_pull_policy,
                namespaces: flags.watch_namespaces,
                cluster_domain: flags.cluster_domain,
                policies_for: flags.network_policies_for,
                upgrade_clusters: flags.upgrade_clusters,
            };
            let (lost, told) = (election.lost(), wait(stopped.clone()));
            let end = async move {
                tokio::select! {
                    () = lost => {}
                    () = told => {}
                }
            };
            run(Context::new(client, options, health.metrics.clone()), end).await;
            !*stopped.borrow()
        }
        () = wait(stopped.clone()) => false,
    };
    health.does(Duty::Stops);
    election.resign().await;
    stop.send_replace(true);
    // The port has ended by then, or it never could be served.
    let _ = port.await;
    if lost {
        tracing::error!("the lease was lost; another operator works");
        return Ok(ExitCode::FAILURE);
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

async fn wait(mut stop: watch::Receiver<bool>) {
    // A sender that is gone means that the process ends.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn log_to_stderr(format: LogFormat, level: &str) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::try_new(format!("kube=warn,hyper=warn,tower=warn,h2=warn,{level}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
