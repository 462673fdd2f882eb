//! A node from its start to its end: opens what is on disk, takes part in consensus, serves the
//! three ports, and stops without anybody noticing much.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use kvorum_proto::admin::v1::admin_server::AdminServer;
use kvorum_proto::peer::v1::peer_server::PeerServer;
use kvorum_store::data_dir::{DataDir, DataDirError, Identity};
use kvorum_store::log::{Log, LogError, LogOptions};
use kvorum_store::space::Space;
use kvorum_store::{OpenError, Store, StoreOptions};
use kvorum_tls::{MaterialError, MemberTls, Port};
use rand::Rng as _;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic_health::server::health_reporter;

use crate::api::admin::AdminService;
use crate::api::auth::AuthService;
use crate::api::client_port::{report_health, with_reflection};
use crate::api::kv::cluster::ClusterService;
use crate::api::kv::service::KvService;
use crate::api::peer::PeerService;
use crate::api::peer_port::may_call;
use crate::audit::Auditor;
use crate::boot::recover::{self, RecoverError};
use crate::boot::restore::{self, RestoreError};
use crate::config::{Bootstrap, Config, TlsConfig};
use crate::glance::RunningNode;
use crate::health::Health;
use crate::machine::Machine;
use crate::metrics::Metrics;
use crate::net::budget::Budget;
use crate::net::dialer::Dialer;
use crate::net::inbox::RECEIVE_BUDGET_BYTES;
use crate::net::listen::{self, BindError, bind};
use crate::net::network::Listener;
use crate::net::router::Router;
use crate::net::sizes::PEER_MESSAGE_BYTES_MAX;
use crate::net::tls::{self, Door, NodeTls};
use crate::net::transport::{self, stopped};
use crate::net::workers::Workers;
use crate::raft::start::Parts;
use crate::raft::{Raft, RaftOptions};
use crate::requests::Requests;
use crate::watch::WatchHub;
use crate::{duties, http, net};

/// The steps of a stop, together well under the 10 s that a stop may take.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);
/// See [`HAND_OVER_MAX`]. Calls that are still waiting for a leader then are told that there is none.
const DRAIN_MAX: Duration = Duration::from_millis(2500);
/// See [`HAND_OVER_MAX`]. Calls that are not answered then are cut off.
const LAST_ANSWERS_MAX: Duration = Duration::from_millis(500);
/// See [`HAND_OVER_MAX`]. Writes that are not answered by then have an unknown outcome.
const SETTLE_MAX: Duration = Duration::from_millis(500);
/// See [`HAND_OVER_MAX`].
const SHUTDOWN_MAX: Duration = Duration::from_secs(4);
/// See [`HAND_OVER_MAX`]. How long the last tasks may take to let go of the store.
const CLOSE_MAX: Duration = Duration::from_millis(500);
/// Between two looks whether the store is closed.
const CLOSE_POLL: Duration = Duration::from_millis(1);

/// Why a node did not start. Each message is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The raft log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// A restored snapshot.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A recovery.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The files for TLS.
    #[error("--tls-dir: {0}")]
    Tls(#[from] MaterialError),
    /// Consensus.
    #[error(transparent)]
    Raft(#[from] crate::raft::start::StartError),
    /// The new cluster of one could not be founded.
    #[error("found a cluster of one member: {0}")]
    Found(String),
    /// The operating system refused something.
    #[error("{0}: {1}")]
    System(&'static str, std::io::Error),
}

/// A running node.
pub struct Node {
    raft: Raft,
    hub: Arc<WatchHub>,
    /// Set when clients should go elsewhere, while they are still served.
    leaving: Arc<AtomicBool>,
    /// For how long that is.
    shutdown_delay: Duration,
    /// Set when clients are no longer served.
    stopping: Arc<AtomicBool>,
    /// Set when members are no longer served.
    gone: Arc<AtomicBool>,
    /// Ends the ports.
    stop_clients: watch::Sender<bool>,
    stop_peers: watch::Sender<bool>,
    clients: JoinHandle<()>,
    /// What else is served; it is cut off at the end.
    others: Vec<AbortHandle>,
    /// The addresses that are listened on.
    pub addresses: Addresses,
}

/// The addresses of the three ports.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// For clients.
    pub client: SocketAddr,
    /// For members.
    pub peer: SocketAddr,
    /// For HTTP.
    pub http: SocketAddr,
}

/// Runs a node until `stop`, or until it has to be started anew. The caller ends the runtime, and then waits.
pub async fn run(
    config: Config,
    machine: Machine,
    stop: impl Future<Output = ()>,
) -> Result<Closing, StartError> {
    let node = Node::start(config, machine).await?;
    let mut restart = node.raft.watch_restart();
    let asked = tokio::select! {
        () = stop => true,
        _ = restart.wait_for(|restart| *restart) => false,
    };
    if asked {
        node.leave().await;
    }
    Ok(node.stop().await)
}

/// A stopped node whose last threads and tasks may still hold the store.
///
/// RocksDB must be closed before the process tears down what it works with: a store that is open
/// when `main` returns aborts the process. Whoever holds the store holds the metrics too, and lets
/// go of them after it, so the metrics tell when the last one is gone.
pub struct Closing(Weak<Metrics>);

impl Closing {
    /// Whether the store is closed.
    pub fn is_closed(&self) -> bool {
        self.0.strong_count() == 0
    }

    async fn closed(&self) {
        while !self.is_closed() {
            sleep(CLOSE_POLL).await;
        }
    }
}

/// The ports, bound before anything on disk is touched.
struct Listeners {
    client: Box<dyn Listener>,
    peer: Box<dyn Listener>,
    http: Box<dyn Listener>,
}

impl Listeners {
    async fn bind(config: &Config, machine: &Machine) -> Result<(Listeners, Addresses), StartError> {
        let listeners = Listeners {
            client: bind(&machine.net, "--listen-client", &config.listen_client).await?,
            peer: bind(&machine.net, "--listen-peer", &config.listen_peer).await?,
            http: bind(&machine.net, "--listen-http", &config.listen_http).await?,
        };
        let address = |listener: &dyn Listener| {
            listener.address().map_err(|error| StartError::System("ask for a port's address", error))
        };
        let addresses = Addresses {
            client: address(&*listeners.client)?,
            peer: address(&*listeners.peer)?,
            http: address(&*listeners.http)?,
        };
        Ok((listeners, addresses))
    }
}

impl Node {
    /// Opens the data directory, joins consensus and serves.
    pub async fn start(config: Config, machine: Machine) -> Result<Node, StartError> {
        let tls = config.tls.as_ref().map(load_tls).transpose()?;
        let (listeners, addresses) = Listeners::bind(&config, &machine).await?;
        if tls.is_none() {
            warn_of_plain_ports(addresses);
        }
        let metrics = Arc::new(Metrics::new());
        let auditor = machine.audit.clone().map(|audit| audit.counted(metrics.audit_dropped.clone()));
        let parts = open_data(&config, addresses, metrics.clone(), machine, tls).await?;
        let hub = parts.hub.clone();
        let raft = Raft::start(parts, raft_options(&config, addresses)).await?;
        // A crash may have come between the two halves of founding.
        let founding = config.bootstrap == Bootstrap::Single && raft.founding();
        if raft.overview().cluster_id == 0 || founding {
            found_or_wait(&raft, &config, addresses).await?;
        }
        duties::start(raft.clone());
        tracing::info!(
            node = format!("{:016x}", raft.overview().node_id),
            cluster = format!("{:016x}", raft.overview().cluster_id),
            client = %addresses.client, peer = %addresses.peer, http = %addresses.http,
            version = env!("CARGO_PKG_VERSION"),
            "serving"
        );
        Node::serve(&config, raft, hub, metrics, auditor, listeners, addresses)
    }

    fn serve(
        config: &Config,
        raft: Raft,
        hub: Arc<WatchHub>,
        metrics: Arc<Metrics>,
        auditor: Option<Auditor>,
        listeners: Listeners,
        addresses: Addresses,
    ) -> Result<Node, StartError> {
        let (leaving, stopping, gone) = <(Arc<AtomicBool>, Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let (stop_clients, clients_stop) = watch::channel(false);
        let (stop_peers, peers_stop) = watch::channel(false);
        let health = Health::new(raft.clone(), leaving.clone());
        if let Some(observer) = raft.observer() {
            observer.serves(Arc::new(RunningNode::new(&health, &hub, config.send_budget_bytes)));
        }
        let limit = config.request_bytes_max;

        let (reporter, health_service) = health_reporter();
        let reporting = tokio::spawn(report_health(reporter, health.clone(), peers_stop.clone()));
        let starting = tokio::spawn(health.clone().watch_start(stopped(peers_stop.clone())));
        tokio::spawn(hub.clone().dispatch());
        tokio::spawn(end_watches_of_corrupt(raft.clone(), hub.clone()));
        let requests = Requests::new(raft.clone(), hub.clone(), limit);
        let budget = Budget::new(config.send_budget_bytes, config.send_patience, metrics.send_budget.clone());
        let [client_receive, peer_receive] = receive_budgets(&metrics);
        let router =
            Router::builder(metrics.clone(), stopping.clone(), limit, budget.clone(), client_receive)
                .status_only(raft.status_only())
                .audit(auditor.as_ref())
                .pages(http::metrics_page(health.clone()))
                .with(KvService::server(requests.clone()))
                .with(ClusterService::server(requests.clone()))
                .with(AuthService::server(requests.clone()))
                .with(health_service);
        let router = with_reflection(router).build();
        let (client_door, peer_door) = doors(&raft, &metrics, &peers_stop);
        let clients = match config.client_threads {
            0 => tokio::spawn(transport::serve(
                listeners.client,
                listen::Port::Client,
                client_door,
                router,
                stopped(clients_stop),
            )),
            count => {
                let workers = Workers::start(count, &client_door, &router, &clients_stop, &peers_stop)
                    .map_err(|error| StartError::System("start the threads that serve clients", error))?;
                tokio::spawn(workers.serve(listeners.client))
            }
        };

        let peer =
            PeerServer::new(PeerService::new(raft.clone())).max_decoding_message_size(PEER_MESSAGE_BYTES_MAX);
        let admin = AdminServer::new(AdminService::new(requests.clone()));
        let router = Router::builder(metrics, gone.clone(), PEER_MESSAGE_BYTES_MAX, budget, peer_receive)
            .status_only(raft.status_only())
            .audit(auditor.as_ref())
            .rights(move |identity, path| may_call(identity, requests.rights_count(), path))
            .with(peer)
            .with(admin);
        let peers = tokio::spawn(transport::serve(
            listeners.peer,
            listen::Port::Peer,
            peer_door,
            router.build(),
            stopped(peers_stop.clone()),
        ));
        let http = tokio::spawn(net::http::serve(listeners.http, http::routes(health), stopped(peers_stop)));
        let others = [reporting, starting, peers, http].iter().map(JoinHandle::abort_handle).collect();
        let shutdown_delay = config.shutdown_delay;
        Ok(Node {
            raft,
            hub,
            leaving,
            shutdown_delay,
            stopping,
            gone,
            stop_clients,
            stop_peers,
            clients,
            others,
            addresses,
        })
    }

    /// This node's part in consensus.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The node is not ready from now on, and serves all the same, new connections too, for as long as whoever
    /// sends clients here may take to follow. Leadership goes first: other members are asked the sooner. Without
    /// a delay all that is part of [`Node::stop`].
    pub async fn leave(&self) {
        if self.shutdown_delay.is_zero() {
            return;
        }
        let until = Instant::now() + self.shutdown_delay;
        self.leaving.store(true, Ordering::SeqCst);
        self.raft.stand_no_more();
        self.raft.hand_over(HAND_OVER_MAX.min(self.shutdown_delay)).await;
        sleep_until(until).await;
    }

    /// Hands leadership over, ends clients' calls, and closes the store, flushed, so that the next start is
    /// quick. Takes less than 10 s whatever happens. Only where something does not let go of the store in
    /// time is it still open then, and closed with the runtime.
    pub async fn stop(self) -> Closing {
        let Node {
            raft, hub, leaving, stopping, gone, stop_clients, stop_peers, mut clients, others, ..
        } = self;
        let closing = Closing(Arc::downgrade(raft.metrics()));
        leaving.store(true, Ordering::SeqCst);
        // Clients are served all through the transfer: once there is a new leader, what they ask
        // for here is forwarded, and nobody sees an error.
        raft.hand_over(HAND_OVER_MAX).await;
        hub.stop();
        // Each connection is told to go away. What its client sends before it has heard that is still served:
        // not every client would try a refused call again.
        stop_clients.send_replace(true);
        if timeout(DRAIN_MAX, &mut clients).await.is_err() {
            stopping.store(true, Ordering::SeqCst);
            raft.stop_waiting();
            if timeout(LAST_ANSWERS_MAX, &mut clients).await.is_err() {
                tracing::warn!("some clients' calls did not end in time and are cut off");
            }
        }
        // What other members sent here while this node led has its answer on the way.
        raft.settle(SETTLE_MAX).await;
        // Members are served until the end: as a follower this node still acknowledges writes.
        gone.store(true, Ordering::SeqCst);
        if timeout(SHUTDOWN_MAX, raft.shutdown()).await.is_err() {
            tracing::warn!("the store was not flushed in time; the next start repeats some of the log");
        }
        stop_peers.send_replace(true);
        clients.abort();
        others.iter().for_each(AbortHandle::abort);
        drop((raft, hub));
        if timeout(CLOSE_MAX, closing.closed()).await.is_err() {
            tracing::warn!("something still reads the store, which is closed when that is cut off");
        }
        tracing::info!("stopped");
        closing
    }
}

/// Reads the files for TLS: a few kilobytes, before anything is served.
fn load_tls(config: &TlsConfig) -> Result<NodeTls, StartError> {
    Ok(NodeTls { member: MemberTls::load(config.paths.clone())?, mode: config.mode })
}

/// What stands before the client port and the peer port, and, with TLS, who keeps that up to date until `stop`.
fn doors(raft: &Raft, metrics: &Metrics, stop: &watch::Receiver<bool>) -> (Door, Door) {
    let node_tls = raft.dialer().tls().cloned();
    let door = |port| Door::of(node_tls.as_ref(), port, metrics.tls.clone());
    let doors = (door(Port::Client), door(Port::Peer));
    if let Some(NodeTls { member, .. }) = node_tls {
        tokio::spawn(tls::keep_fresh(member, raft.blocking().clone(), metrics.tls.clone(), stop.clone()));
        tokio::spawn(raft.dialer().clone().keep_fresh(stop.clone()));
    }
    doors
}

/// A port without TLS is for this machine alone, or for a network that is trusted.
fn warn_of_plain_ports(addresses: Addresses) {
    for (port, address) in [("client", addresses.client), ("peer", addresses.peer)] {
        if !address.ip().to_canonical().is_loopback() {
            tracing::warn!(
                %address,
                "the {port} port is plain: whoever reaches it reads and changes everything; see --tls"
            );
        }
    }
}

/// Opens what is on disk, in the order in which a mistake is told best.
async fn open_data(
    config: &Config,
    addresses: Addresses,
    metrics: Arc<Metrics>,
    machine: Machine,
    tls: Option<NodeTls>,
) -> Result<Parts, StartError> {
    let Machine { net, blocking, store: on, observer, audit: _ } = machine;
    let dir = &config.data_dir;
    let data_dir = DataDir::open_on(&on, dir)?;
    let identity = data_dir.create_identity(rand::rng().next_u64().max(1))?;
    check_cluster(config, &identity)?;
    let space = Space::open_for_disk_on(&on, dir)
        .map_err(|error| StartError::System("reserve space in the data directory", error))?;
    let options = LogOptions {
        segment_bytes: space.options().segment_bytes(),
        observer: Some(metrics.clone()),
        space: Some(space.clone()),
        machine: on.clone(),
        cache_bytes: config.limits.log_cache_bytes,
        queue_bytes: config.limits.log_queue_bytes,
        limits: config.limits.store,
    };
    restore::take_state(&*on.files, config)?;
    let log = Log::open(dir, identity.node_id, options)?;
    let options = StoreOptions {
        cache_bytes: config.cache_bytes,
        compaction_bytes: space.options().compaction_bytes(),
        feature_level_max: config.feature_level_max,
        limits: config.limits.store,
        machine: on.clone(),
    };
    let store = Store::open(dir, options)?;
    let RaftOptions { advertise_peer, advertise_client, .. } = raft_options(config, addresses);
    let advertise = (&*advertise_peer, &*advertise_client);
    restore::found(&*on.files, config, &data_dir, &log, &store, advertise, identity).await?;
    recover::carry_out(&data_dir, &log, &store, advertise, identity).await?;
    let hub = WatchHub::new(store.revision(), config.limits.ring_bytes_max);
    let (dialer, threads) = (Dialer::new(net, tls), on.threads);
    Ok(Parts { data_dir, store, log, space, hub, metrics, dialer, blocking, threads, observer })
}

/// Refuses a disk of another cluster than the wanted one.
fn check_cluster(config: &Config, identity: &Identity) -> Result<(), DataDirError> {
    let path = config.data_dir.clone();
    let found = identity.cluster_id;
    match config.cluster_id {
        Some(wanted) if found != 0 && wanted != found => {
            Err(DataDirError::OtherCluster { path, found, wanted })
        }
        _ => Ok(()),
    }
}

/// Whoever watches a member whose data differs from the others' is to watch another one.
async fn end_watches_of_corrupt(raft: Raft, hub: Arc<WatchHub>) {
    let mut stopping = raft.watch_stopping();
    tokio::select! {
        () = raft.until_corrupt() => hub.stop(),
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
}

fn raft_options(config: &Config, addresses: Addresses) -> RaftOptions {
    let advertise =
        |given: &Option<String>, bound: SocketAddr| given.clone().unwrap_or_else(|| bound.to_string());
    RaftOptions {
        advertise_peer: advertise(&config.advertise_peer, addresses.peer),
        advertise_client: advertise(&config.advertise_client, addresses.client),
        cluster_id: config.cluster_id,
        incarnation_min: config.incarnation_min,
        election_timeout_ms: config.election_timeout.as_millis() as u64,
        heartbeat_interval_ms: config.heartbeat_interval.as_millis() as u64,
        log_retain_bytes: config.log_retain_bytes,
        quota_bytes: config.quota_bytes,
        auto_compaction_retention: config.auto_compaction_retention.unwrap_or_default(),
        compare_interval: config.compare_interval,
        feature_level_max: config.feature_level_max,
        limits: config.limits,
    }
}

async fn found_or_wait(raft: &Raft, config: &Config, addresses: Addresses) -> Result<(), StartError> {
    match config.bootstrap {
        Bootstrap::Single => {
            let founded = raft.initialize(0, false).await;
            founded.map(|_| ()).map_err(|error| StartError::Found(error.to_string()))
        }
        Bootstrap::Wait => {
            let peer = &raft_options(config, addresses).advertise_peer;
            tracing::info!(
                "the data directory is new and this node waits to be told its cluster: found one with \
                 `kvorum cluster init --members {peer},…`, or add the node to one with `kvorum member add {peer}`"
            );
            Ok(())
        }
    }
}

/// What the calls of each gRPC port may have received: clients can take nothing of what members need. Nobody waits
/// for room, so that there is no patience either.
fn receive_budgets(metrics: &Metrics) -> [Budget; 2] {
    ["client", "peer"].map(|port| {
        let gauge = metrics.receive_budget.with_label_values(&[port]);
        Budget::new(RECEIVE_BUDGET_BYTES, Duration::ZERO, gauge)
    })
}
