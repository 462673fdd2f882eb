//! What clients do to the cluster meanwhile, with the real client crate, and what they were told.

mod compactions;
mod counters;
mod exercises;
mod finish;
mod forger;
mod groups;
mod history;
mod idle;
mod inserts;
mod mix;
mod reads;
mod registers;
mod rights;
mod sessions;
mod sweeps;
mod told;
mod ttls;
mod watchers;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use kvorum_client::admin::Operations;
use kvorum_client::{Client, ConnectOptions, Error, KeyRange};
use kvorum_store::auth::ROOT;

use self::mix::Mix;
use self::rights::Rights;
use self::told::Told;
use crate::cluster::Cluster;
use crate::orders::Orders;
use crate::plan::Plan;
use crate::world::clock::{Clock, Micros};
use crate::world::random::stream;
use crate::world::trace::Trace;
use crate::world::{HostNetwork, TRUE_PPM, World};

/// Hosts of clients, and the one of whoever administers.
const HOSTS: usize = 2;
const ADMIN: usize = HOSTS;
/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long founding may wait for a node.
const FOUND_TIMEOUT: Duration = Duration::from_secs(20);
/// Keys that are there from the start, so that something can be deleted where nothing may grow.
const SPARE_KEYS: u32 = 10;
/// Between two looks of a client that rests.
const REST: Duration = Duration::from_millis(100);

/// What all clients share.
pub struct Session {
    seed: u64,
    clock: Arc<Clock>,
    trace: Arc<Trace>,
    endpoints: Vec<String>,
    /// How far off true time the clocks of members are, in a million.
    drift_ppm: u64,
    told: Mutex<Told>,
    /// What is known of a user's rights.
    rights: Mutex<Rights>,
    /// Which clients there are.
    mix: Mix,
    /// Operators look after the members: they found the cluster, and change which members there are.
    is_operated: bool,
    orders: Arc<Orders>,
    /// How far the watchers of all keys are.
    watched: [AtomicU64; HOSTS],
    /// The last revision that anybody wanted to be the oldest one.
    compacted: AtomicU64,
    /// Nobody begins anything.
    rests: AtomicBool,
    healed: AtomicBool,
    exercised: AtomicBool,
    /// A recovery has begun a new history, which watchers do not follow into.
    new_history: AtomicBool,
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

    /// The same of a write. A member refuses by itself what has no space, and whatever else is refused or done a
    /// majority has taken.
    fn answered_write<T>(&self, what: &'static str, number: u64, answer: &Result<T, Error>) {
        self.answered(what, number, answer);
        match answer {
            Ok(_) | Err(Error::ConditionFailed { .. }) => self.orders.note_written(self.clock.now()),
            Err(Error::NoSpace { .. }) => self.orders.note_refused(self.clock.now()),
            Err(_) => {}
        }
    }

    /// Whether a write was taken since then, or refused where there is no space.
    pub fn has_written_since(&self, then: Micros) -> bool {
        self.orders.decided() > then
    }

    /// All is well from now on.
    pub fn set_healed(&self) {
        self.healed.store(true, Ordering::Relaxed);
    }

    fn is_healed(&self) -> bool {
        self.healed.load(Ordering::Relaxed)
    }

    fn set_exercised(&self) {
        self.exercised.store(true, Ordering::Relaxed);
    }

    /// Whether the exercise of the seed is over.
    pub fn is_exercised(&self) -> bool {
        self.exercised.load(Ordering::Relaxed)
    }

    /// A recovery begins a new history.
    pub fn set_new_history(&self) {
        self.new_history.store(true, Ordering::Relaxed);
        self.told(|told| told.has_new_history = true);
        // What came before can be read no more.
        self.compacted.store(u64::MAX, Ordering::Relaxed);
    }

    /// Whether revisions have gaps by now.
    fn has_new_history(&self) -> bool {
        self.new_history.load(Ordering::Relaxed)
    }

    /// What is known of the user's rights whose are taken and given.
    fn rights(&self) -> Rights {
        *self.rights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_rights(&self, rights: Rights) {
        self.trace.tell("rights", format!("{rights:?}"));
        *self.rights.lock().unwrap_or_else(PoisonError::into_inner) = rights;
    }

    /// Since when nothing has gone wrong.
    fn calm_since(&self) -> Duration {
        Duration::from_micros(self.orders.calm_since())
    }

    /// From now on clients rest, or no longer.
    pub fn rest(&self, rests: bool) {
        self.rests.store(rests, Ordering::Relaxed);
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

    /// Returns when nobody is to rest.
    async fn rested(&self) {
        while self.rests.load(Ordering::Relaxed) && !self.stops() {
            tokio::time::sleep(REST).await;
        }
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

/// The same, of which the connections break off.
fn breaking(session: &Session, network: &HostNetwork, name: &str) -> Result<Client, Error> {
    client(session, &network.breaking_off(stream(session.seed, name)))
}

/// Starts all clients on hosts of their own, and the founding of the cluster.
pub fn start(world: &mut World, cluster: &Cluster, plan: &Plan, dir: &Path) -> io::Result<Arc<Session>> {
    let (seed, is_operated) = (plan.seed, plan.operators > 0);
    let drift = world.hosts.iter().map(|host| host.clock_ppm.abs_diff(TRUE_PPM)).max();
    let session = Arc::new(Session {
        seed,
        clock: world.clock.clone(),
        trace: world.trace.clone(),
        endpoints: cluster.endpoints(),
        drift_ppm: drift.unwrap_or_default(),
        told: Mutex::default(),
        rights: Mutex::default(),
        mix: if is_operated { Mix::draw(seed).operated() } else { Mix::draw(seed) },
        is_operated,
        orders: cluster.orders.clone(),
        watched: Default::default(),
        compacted: AtomicU64::new(1),
        rests: AtomicBool::new(false),
        healed: AtomicBool::new(false),
        exercised: AtomicBool::new(false),
        new_history: AtomicBool::new(false),
        founded: AtomicBool::new(false),
        stops: AtomicBool::new(false),
        last_revision: AtomicU64::new(0),
        finished: AtomicBool::new(false),
        working: AtomicU64::new(0),
    });
    let hosts: Vec<_> =
        (0..=ADMIN).map(|number| world.add_host(dir.join(format!("c{number:02}")), TRUE_PPM)).collect();
    for (number, host) in hosts.into_iter().enumerate() {
        let (network, session, peers) = (world.network_of(host), session.clone(), cluster.peers());
        let network = network.of_user(Some(ROOT));
        world.start(host, None, |_, runtime| {
            runtime.spawn(async move {
                if number == ADMIN && session.is_operated {
                    return session.set_exercised();
                }
                if number == ADMIN {
                    if session.mix.forges {
                        session.orders.set_forged();
                        tokio::spawn(forger::work(session.clone(), network.clone(), peers.clone()));
                    }
                    return exercises::work(session, network, peers).await;
                }
                if let Err(error) = work(session.clone(), network, number, peers).await {
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
    number: usize,
    peers: Vec<String>,
) -> Result<(), Error> {
    if number == 0 {
        if !session.is_operated {
            let operations = Operations::at(peers.clone(), FOUND_TIMEOUT)?.connect_options(options(&network));
            { operations }.found(&peers, &mut |_| {}).await?;
        }
        let client = client(&session, &network)?;
        while write_spares(&client).await.is_err() {
            tokio::time::sleep(REST).await;
        }
        session.orders.note_founded(session.clock.now());
        session.founded.store(true, Ordering::Relaxed);
    }
    while !session.is_founded() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    session.working.fetch_add(1, Ordering::Relaxed);
    let clients = clients(&session, &network, number)?;
    let watched = watchers::follow(session.clone(), client(&session, &network)?, number);
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
    session.told(|told| told.journals.push(journal));
    if number == 0 {
        finish::look(&session, &network).await?;
        session.finished.store(true, Ordering::Relaxed);
    }
    Ok(())
}

async fn write_spares(client: &Client) -> Result<(), Error> {
    let mut batch = client.batch().delete(KeyRange::prefix("gone/"));
    for number in 0..SPARE_KEYS {
        batch = batch.set(format!("spare/{number}"), "");
    }
    batch.await.map(drop)
}

/// The clients of one host.
fn clients(
    session: &Arc<Session>,
    network: &HostNetwork,
    number: usize,
) -> Result<Vec<BoxFuture<'static, ()>>, Error> {
    let mix = session.mix;
    let of_host = |count: u32| (0..count).filter(move |client| *client as usize % HOSTS == number);
    let mut clients: Vec<BoxFuture<'static, ()>> = Vec::new();
    for client_number in of_host(mix.registers) {
        clients.push(registers::work(session.clone(), client(session, network)?, client_number).boxed());
    }
    for client_number in of_host(mix.groups) {
        clients.push(groups::work(session.clone(), client(session, network)?, client_number).boxed());
    }
    for client_number in of_host(mix.counters) {
        clients.push(counters::work(session.clone(), client(session, network)?, client_number).boxed());
    }
    for client_number in of_host(mix.inserts) {
        let client = client(session, network)?;
        clients.push(inserts::work(session.clone(), client, client_number, inserts::ONE).boxed());
    }
    for client_number in of_host(mix.bursts).map(|number| mix.inserts + number) {
        let client = client(session, network)?;
        clients.push(inserts::work(session.clone(), client, client_number, inserts::MANY).boxed());
    }
    for client_number in of_host(mix.ttls) {
        clients.push(ttls::work(session.clone(), client(session, network)?, client_number).boxed());
    }
    for client_number in of_host(mix.sweeps) {
        clients.push(sweeps::work(session.clone(), client(session, network)?, client_number).boxed());
    }
    for client_number in of_host(mix.scans) {
        let breaking = breaking(session, network, &format!("breaks of scans {client_number}"))?;
        let steady = client(session, network)?;
        clients.push(reads::scan(session.clone(), steady, breaking, client_number).boxed());
    }
    for client_number in of_host(mix.visits) {
        let breaking = breaking(session, network, &format!("breaks of visits {client_number}"))?;
        let steady = client(session, network)?;
        clients.push(watchers::visit(session.clone(), steady, breaking, client_number).boxed());
    }
    for client_number in of_host(mix.idle) {
        clients.push(idle::work(session.clone(), client(session, network)?, client_number).boxed());
    }
    if mix.rights {
        for endpoint in session.endpoints.iter().skip(number).step_by(HOSTS) {
            clients.push(rights::write_at(session.clone(), network.clone(), endpoint.clone()).boxed());
            clients.push(rights::watch_at(session.clone(), network.clone(), endpoint.clone()).boxed());
        }
        let root = client(session, network)?;
        clients.push(match number {
            0 => rights::change(session.clone(), root).boxed(),
            _ => sessions::work(session.clone(), network.clone(), root).boxed(),
        });
    }
    if mix.looks {
        for (at, endpoint) in (0..).zip(&session.endpoints).filter(|(at, _)| *at as usize % HOSTS == number) {
            clients.push(reads::look(session.clone(), network.clone(), endpoint.clone(), at).boxed());
        }
    }
    if mix.compacts && number == 0 {
        clients.push(compactions::work(session.clone(), client(session, network)?).boxed());
    }
    Ok(clients)
}
