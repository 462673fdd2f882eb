//! What clients do to the cluster meanwhile, with the real client crate, and what they were told.

mod finish;
mod inserts;
mod registers;
mod ttls;
mod watchers;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{FutureExt as _, join_all};
use kvorum_client::admin::Operations;
use kvorum_client::{Client, ConnectOptions, Error};
use kvorum_faults::linear::Record;
use kvorum_faults::timeline::Mark;

use crate::cluster::Cluster;
use crate::world::clock::Clock;
use crate::world::trace::Trace;
use crate::world::{HostNetwork, TRUE_PPM, World};

/// Hosts of clients, and clients of each kind.
const HOSTS: usize = 2;
const REGISTER_CLIENTS: u32 = 4;
const INSERT_CLIENTS: u32 = 2;
const TTL_CLIENTS: u32 = 3;
/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long founding may wait for a node.
const FOUND_TIMEOUT: Duration = Duration::from_secs(20);

/// What clients were told.
#[derive(Debug, Default)]
pub struct Told {
    /// What was done to registers.
    pub records: Vec<Record>,
    /// Revisions against the clock.
    pub marks: Vec<Mark>,
    /// Keys that were inserted, and the revision of each, if it was acknowledged.
    pub inserts: BTreeMap<String, Option<u64>>,
    /// Answers.
    pub answered: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Keys whose TTL was seen to end.
    pub ttls: u64,
    /// What must not be.
    pub violation: Option<String>,
}

/// What all clients share.
pub struct Session {
    seed: u64,
    clock: Arc<Clock>,
    trace: Arc<Trace>,
    endpoints: Vec<String>,
    /// How far off true time the clocks of members are, in a million.
    drift_ppm: u64,
    told: Mutex<Told>,
    founded: AtomicBool,
    stops: AtomicBool,
    /// The last revision, once nothing is written any more.
    last_revision: AtomicU64,
    finished: AtomicBool,
    /// Clients that still work.
    working: AtomicU64,
}

impl Session {
    /// What they were told so far.
    pub fn told<T>(&self, look: impl FnOnce(&mut Told) -> T) -> T {
        look(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn violated(&self, what: String) {
        self.trace.tell("violation", what.clone());
        self.told(|told| _ = told.violation.get_or_insert(what));
    }

    /// Counts an answer, and puts it into the trace.
    fn answered<T>(&self, what: &'static str, number: u64, answer: &Result<T, Error>) {
        self.trace.note(what, &[number, u64::from(answer.is_ok())], &[]);
        self.told(|told| if answer.is_ok() { told.answered += 1 } else { told.failed += 1 });
    }

    /// Whether the cluster is founded.
    pub fn is_founded(&self) -> bool {
        self.founded.load(Ordering::Relaxed)
    }

    /// Whether everything at the end has been looked at.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Relaxed)
    }

    /// Clients come to an end, and then look at what there is.
    pub fn stop(&self) {
        self.stops.store(true, Ordering::Relaxed);
    }

    fn stops(&self) -> bool {
        self.stops.load(Ordering::Relaxed)
    }
}

fn options(network: &HostNetwork) -> ConnectOptions {
    ConnectOptions::new().connector(network.clone())
}

fn client(session: &Session, network: &HostNetwork) -> Result<Client, Error> {
    Client::builder(session.endpoints.clone())
        .timeout(TIMEOUT)
        .connect_options(options(network))
        .connect_lazy()
}

/// Starts all clients on hosts of their own, and the founding of the cluster.
pub fn start(world: &mut World, cluster: &Cluster, seed: u64, dir: &Path) -> io::Result<Arc<Session>> {
    let drift = world.hosts.iter().map(|host| host.clock_ppm.abs_diff(TRUE_PPM)).max();
    let session = Arc::new(Session {
        seed,
        clock: world.clock.clone(),
        trace: world.trace.clone(),
        endpoints: cluster.endpoints(),
        drift_ppm: drift.unwrap_or_default(),
        told: Mutex::default(),
        founded: AtomicBool::new(false),
        stops: AtomicBool::new(false),
        last_revision: AtomicU64::new(0),
        finished: AtomicBool::new(false),
        working: AtomicU64::new(0),
    });
    let hosts: Vec<_> =
        (0..HOSTS).map(|number| world.add_host(dir.join(format!("c{number:02}")), TRUE_PPM)).collect();
    for (number, host) in hosts.into_iter().enumerate() {
        let (network, session) = (world.network_of(host), session.clone());
        let peers = if number == 0 { cluster.peers() } else { Vec::new() };
        world.start(host, None, |_, runtime| {
            runtime.spawn(async move {
                if let Err(error) = work(session.clone(), network, number as u32, peers).await {
                    session.violated(format!("a client of host {number} ended: {error}"));
                }
            });
        })?;
    }
    Ok(session)
}

/// What the clients of one host do. The first host's found the cluster.
async fn work(
    session: Arc<Session>,
    network: HostNetwork,
    number: u32,
    peers: Vec<String>,
) -> Result<(), Error> {
    if peers.is_empty() {
        while !session.is_founded() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    } else {
        let operations = Operations::at(peers.clone(), FOUND_TIMEOUT)?.connect_options(options(&network));
        { operations }.found(&peers, &mut |_| {}).await?;
        session.founded.store(true, Ordering::Relaxed);
    }
    session.working.fetch_add(1, Ordering::Relaxed);
    let of_host = |count: u32| (0..count).filter(move |client| client % HOSTS as u32 == number);
    let mut clients = Vec::new();
    for client_number in of_host(REGISTER_CLIENTS) {
        let client = client(&session, &network)?;
        clients.push(registers::work(session.clone(), client, client_number).boxed());
    }
    for client_number in of_host(INSERT_CLIENTS) {
        let client = client(&session, &network)?;
        clients.push(inserts::work(session.clone(), client, client_number).boxed());
    }
    for client_number in of_host(TTL_CLIENTS) {
        let client = client(&session, &network)?;
        clients.push(ttls::work(session.clone(), client, client_number).boxed());
    }
    let watched = watchers::follow(session.clone(), client(&session, &network)?);
    let clients = async {
        join_all(clients.into_iter().map(tokio::spawn)).await;
        session.working.fetch_sub(1, Ordering::Relaxed);
        if number == 0 {
            return finish::write_last(&session, &network).await;
        }
        Ok(())
    };
    let (journal, ended) = futures_util::future::join(watched, clients).await;
    ended?;
    session.trace.note("watched", &[journal.next()], &[]);
    if number == 0 {
        finish::look(&session, &network, journal).await?;
        session.finished.store(true, Ordering::Relaxed);
    }
    Ok(())
}
