//! The members of a simulated cluster: real nodes on the world's hosts, and what is done to them.

mod faults;
mod look;
mod pods;
mod rest;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kvorum_node::observer::Seen;
use kvorum_node::server::{self, StartError};
use tokio::sync::Notify;

use self::pods::Operated;
use crate::calm::Calm;
use crate::check::{Checks, Member};
use crate::kubernetes::{Kubernetes, MEMBERS_MAX};
use crate::orders::{Order, Orders};
use crate::plan::{Fault, Plan, What};
use crate::setup::Setup;
use crate::world::clock::{Micros, SECOND};
use crate::world::names::name;
use crate::world::network::{CLIENT_PORT, HostId, PEER_PORT};
use crate::world::rot::Rot;
use crate::world::{Death, TRUE_PPM, World};

/// How long a process that died by itself takes to be started again.
const RESTART: Micros = SECOND;
/// How long after a fault of its disk a process may end because of it.
const AFTERMATH: Micros = SECOND;

/// Why a run has failed.
pub type Violation = String;

/// What is to be done at some time.
#[derive(Clone, Copy, Debug)]
enum Later {
    Start(HostId),
    End(What),
}

/// A process of a member: how it is asked to stop, and how it says that it has.
#[derive(Clone, Default)]
struct Life {
    stop: Arc<Notify>,
    has_stopped: Arc<AtomicBool>,
}

/// The members.
pub struct Cluster {
    members: usize,
    lives: Vec<Life>,
    later: BTreeMap<(Micros, u64), Later>,
    scheduled: u64,
    late: Vec<Micros>,
    lost: Vec<u32>,
    narrow: Vec<u64>,
    /// What has rotted.
    rotten: BTreeMap<HostId, Rot>,
    /// Until when each member's disk fails, and is full.
    errors_until: Vec<Micros>,
    full_until: Vec<Micros>,
    setup: Setup,
    /// The feature level that each member's process knows.
    levels: Vec<u32>,
    /// Since when each member's process is there.
    began: Vec<Micros>,
    /// Since when each member's process knows who leads, and with that what time it is.
    informed: Vec<Micros>,
    checks: Arc<Checks>,
    /// Who is left alone, and since when.
    pub calm: Calm,
    /// What clients want done to members.
    pub orders: Arc<Orders>,
    /// Who is to lose its power at its next sync, if that comes by then.
    at_sync: BTreeMap<HostId, (Micros, Micros)>,
    /// Who is to lose its power once it has installed a snapshot.
    after_install: BTreeSet<HostId>,
    /// Who is to stand still until then as soon as another member's message is under way, and from when on anyhow.
    at_message: BTreeMap<HostId, (Micros, Micros)>,
    /// Since when disks are full.
    full: BTreeMap<HostId, Micros>,
    /// The last write that was taken, and the last look at all members.
    written: Micros,
    looked: Micros,
    /// Faults by kind, for the summary.
    pub faults: BTreeMap<&'static str, u64>,
    /// Where operators look after the members.
    operated: Option<Operated>,
    kubernetes: Option<Kubernetes>,
}

impl Cluster {
    /// Adds the members to a world that has no hosts yet, and starts them.
    pub fn start(world: &mut World, dir: &Path, plan: &Plan, setup: Setup) -> io::Result<Cluster> {
        let members = plan.clocks_ppm.len();
        let mut cluster = Cluster {
            members,
            lives: vec![Life::default(); members],
            later: BTreeMap::new(),
            scheduled: 0,
            late: Vec::new(),
            lost: Vec::new(),
            narrow: Vec::new(),
            rotten: BTreeMap::new(),
            errors_until: vec![0; members],
            full_until: vec![0; members],
            setup,
            levels: vec![0; members],
            began: vec![0; members],
            informed: vec![Micros::MAX; members],
            checks: Checks::new(world.trace.clone(), plan.operators > 0),
            calm: Calm::new(members),
            orders: Orders::new(),
            at_sync: BTreeMap::new(),
            after_install: BTreeSet::new(),
            at_message: BTreeMap::new(),
            full: BTreeMap::new(),
            written: 0,
            looked: 0,
            faults: BTreeMap::new(),
            operated: None,
            kubernetes: None,
        };
        for (member, clock_ppm) in plan.clocks_ppm.iter().enumerate() {
            let host = world.add_host(dir.join(format!("n{member:02}")), *clock_ppm);
            if plan.operators == 0 {
                cluster.start_member(world, host)?;
            }
        }
        if plan.operators > 0 {
            cluster.start_operators(world, dir, plan)?;
        }
        Ok(cluster)
    }

    /// No member runs until a simulated Kubernetes has a pod for it.
    fn start_operators(&mut self, world: &mut World, dir: &Path, plan: &Plan) -> io::Result<()> {
        (0..self.members).for_each(|member| self.orders.hold_down(member, true));
        let kubernetes = Kubernetes::new(plan.seed, world);
        let hosts =
            (0..plan.operators).map(|number| world.add_host(dir.join(format!("o{number:02}")), TRUE_PPM));
        self.operated = Some(Operated {
            seed: plan.seed,
            server: kubernetes.server(),
            operators: hosts.collect(),
            starts: 0,
            flags: vec![None; MEMBERS_MAX],
            kept_until: 0,
        });
        self.kubernetes = Some(kubernetes);
        (0..plan.operators)
            .filter_map(|number| self.operator(number))
            .collect::<Vec<_>>()
            .into_iter()
            .try_for_each(|host| self.start_operator(world, host))
    }

    /// `host:port` of every member's peer port.
    pub fn peers(&self) -> Vec<String> {
        (0..self.members).map(|member| self.address_of(member, PEER_PORT)).collect()
    }

    /// `host:port` of every member's client port.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members).map(|member| self.address_of(member, CLIENT_PORT)).collect()
    }

    fn address_of(&self, member: HostId, port: u16) -> String {
        match self.operated {
            Some(_) => pods::address(member, port),
            None => format!("{}:{port}", name(member)),
        }
    }

    fn start_member(&mut self, world: &mut World, host: HostId) -> io::Result<()> {
        if self.is_operator(host) {
            return self.start_operator(world, host);
        }
        if world.hosts[host].is_up() || self.orders.is_held_down(host) {
            return Ok(());
        }
        let (dir, now) = (world.hosts[host].dir.clone(), world.clock.now());
        let flags = self.operated.as_ref().and_then(|operated| operated.flags[host].as_deref());
        let config =
            self.setup.config(host, &dir, now, flags.unwrap_or_default()).map_err(io::Error::other)?;
        let life = Life::default();
        self.lives[host] = life.clone();
        self.levels[host] = self.setup.level(host, now);
        (self.began[host], self.informed[host]) = (now, Micros::MAX);
        self.checks.starts(host, self.levels[host]);
        let (checks, disk) = (self.checks.clone(), world.disks[host].clone());
        let observer = Arc::new(Member { checks, host, dir, disk });
        world.start(host, Some(observer), |machine, runtime| {
            runtime.spawn(async move {
                let stopped = server::run(config, machine, life.stop.notified()).await;
                match stopped {
                    Ok(_) => life.has_stopped.store(true, Ordering::Relaxed),
                    Err(error) => refuse(error),
                }
            });
        })
    }

    /// Does what is due by now, and what follows from who has died by itself.
    pub fn step(&mut self, world: &mut World, ended: Vec<(HostId, String)>) -> Result<(), Violation> {
        self.checks.violation().map_or(Ok(()), Err)?;
        for (host, why) in ended {
            // Where its files are is another place in each run.
            let mut why = why.replace(&*world.hosts[host].dir.to_string_lossy(), "DATA");
            if self.is_operator(host) {
                return Err(format!("an operator died: {why}"));
            }
            if host >= self.members {
                return Err(format!("the clients of host {host} died: {why}"));
            }
            if !self.is_expected(world, host, &why) {
                return Err(format!("member {host} died: {why}"));
            }
            // So may be where in a file of RocksDB's a bit has turned over, and what that makes of its checksum.
            if self.rotten.contains_key(&host) {
                why.truncate(why.find('(').unwrap_or(why.len()));
                why.retain(|char| !char.is_ascii_digit());
            }
            world.trace.tell("death", format!("member {host} ends by itself: {why}"));
            self.end_process(world, host, Death::Killed, RESTART)?;
        }
        for host in 0..self.members {
            if world.hosts[host].is_up() && self.lives[host].has_stopped.load(Ordering::Relaxed) {
                self.end_process(world, host, Death::Killed, RESTART)?;
            }
        }
        self.follow_orders(world)?;
        self.lose_power_after_install(world)?;
        self.lose_power_at_sync(world)?;
        self.stand_at_message(world);
        if world.clock.now() >= self.looked + SECOND {
            self.looked = world.clock.now();
            self.upgrade(world);
            self.look(world)?;
        }
        while let Some((&key, _)) = self.later.first_key_value()
            && key.0 <= world.clock.now()
        {
            match self.later.remove(&key) {
                Some(Later::Start(host)) => self.start_member(world, host).map_err(told)?,
                Some(Later::End(what)) => self.end(world, what)?,
                None => {}
            }
        }
        let Some(mut kubernetes) = self.kubernetes.take() else { return Ok(()) };
        let stepped = kubernetes.step(self, world);
        self.kubernetes = Some(kubernetes);
        stepped
    }

    fn end_process(
        &mut self,
        world: &mut World,
        host: HostId,
        death: Death,
        lasts: Micros,
    ) -> Result<(), Violation> {
        world.kill(host, death).map_err(told)?;
        self.calm.disturb(host, world.clock.now() + lasts);
        self.orders.note_calm(self.calm.all_since());
        // In a log that has rotted nothing can be looked up.
        if death == Death::PowerLost && !self.rotten.contains_key(&host) {
            self.checks.power_lost(host, &world.hosts[host].dir);
        }
        self.schedule(world.clock.now() + lasts, Later::Start(host));
        Ok(())
    }

    /// Does what clients want done to members.
    fn follow_orders(&mut self, world: &mut World) -> Result<(), Violation> {
        for order in self.orders.take() {
            let now = world.clock.now();
            world.trace.tell("order", format!("{order:?}"));
            match order {
                Order::Kill(host, lasts) => self.end_process(world, host, Death::Killed, lasts)?,
                Order::Start(host) => self.schedule(now, Later::Start(host)),
                Order::Wipe(host) => {
                    self.end_process(world, host, Death::Killed, SECOND)?;
                    world.wipe(host).map_err(told)?;
                    self.checks.wiped(host);
                }
                Order::LosePowerAfterInstall(host) => _ = self.after_install.insert(host),
                Order::Isolate(host, lasts) => {
                    self.begin(world, Fault { at: now, lasts, what: What::Alone(host) })?;
                }
                Order::Recovered(last) => self.checks.recovered(last),
            }
        }
        Ok(())
    }

    /// Stops who is to be of a newer release by now; it is started as such.
    fn upgrade(&mut self, world: &World) {
        let now = world.clock.now();
        for host in 0..self.members {
            if world.hosts[host].is_up() && self.levels[host] < self.setup.level(host, now) {
                self.lives[host].stop.notify_one();
                self.calm.note(What::Stops(host), now);
                self.orders.note_calm(self.calm.all_since());
            }
        }
    }

    /// How members are, as they say themselves; those that stand still say nothing.
    pub fn seen(&self, world: &World) -> BTreeMap<HostId, Seen> {
        let speaks =
            |host: &HostId| world.hosts[*host].is_up() && !world.hosts[*host].stands(world.clock.now());
        (0..self.members).filter(speaks).filter_map(|host| Some((host, self.checks.glance(host)?))).collect()
    }

    fn schedule(&mut self, at: Micros, later: Later) {
        self.scheduled += 1;
        self.later.insert((at, self.scheduled), later);
    }

    /// The last entry that any member has applied.
    pub fn furthest(&self, world: &World) -> u64 {
        self.seen(world).values().map(|seen| seen.positions.applied).max().unwrap_or_default()
    }

    /// Whether all members have.
    pub fn have_applied(&self, world: &World, index: u64) -> bool {
        let seen = self.seen(world);
        seen.len() == self.there() && seen.values().all(|seen| seen.positions.applied >= index)
    }

    /// Whether all members serve, and have applied the same entries.
    pub fn is_level(&self, world: &World) -> bool {
        let seen = self.seen(world);
        let applied = |seen: &Seen| seen.positions.applied;
        let first = seen.values().next().map(applied);
        seen.len() == self.there() && seen.values().all(|seen| Some(applied(seen)) == first)
    }
}

/// The hook for panics takes it from here.
fn refuse(error: StartError) {
    panic!("it does not start: {error}");
}

fn told(error: io::Error) -> Violation {
    format!("the simulation itself failed: {error}")
}
