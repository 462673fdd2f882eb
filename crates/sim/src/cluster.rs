//! The members of a simulated cluster: real nodes on the world's hosts, and what is done to them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kvorum_node::observer::Seen;
use kvorum_node::server::{self, StartError};
use tokio::sync::Notify;

use crate::calm::Calm;
use crate::check::{Checks, Member};
use crate::orders::{Order, Orders};
use crate::plan::{Fault, What};
use crate::setup::Setup;
use crate::world::clock::{Micros, SECOND};
use crate::world::names::name;
use crate::world::network::{CLIENT_PORT, HostId, PEER_PORT};
use crate::world::rot::Rot;
use crate::world::{Death, World};

/// How long a process that died by itself takes to be started again.
const RESTART: Micros = SECOND;
/// How long after a fault of its disk a process may end because of it.
const AFTERMATH: Micros = SECOND;
/// How a process says that its disk has failed, and that it is full.
const DISK_FAILED: &str = "os error 5";
const DISK_FULL: &str = "no storage space";
/// How it says that its disk has rotted.
const DAMAGED: [&str; 2] = ["damage", "missing"];
/// How long after a member is asked to lose its power in the midst of a sync it waits for one.
const AT_SYNC_MAX: Micros = 5 * SECOND;
/// While no fault has touched a majority for so long, writes are taken.
const WRITES_MAX: Micros = 20 * SECOND;
/// How long what stays broken at the end may: until the others have worked without it.
const BROKEN: Micros = 60 * SECOND;
/// A member whose disk has been full for so long has said so.
const FULL_MAX: Micros = 4 * SECOND;

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
    /// What has rotted.
    rotten: BTreeMap<HostId, Rot>,
    /// Until when each member's disk fails, and is full.
    errors_until: Vec<Micros>,
    full_until: Vec<Micros>,
    setup: Setup,
    /// The feature level that each member's process knows.
    levels: Vec<u32>,
    checks: Arc<Checks>,
    /// Who is left alone, and since when.
    pub calm: Calm,
    /// What clients want done to members.
    pub orders: Arc<Orders>,
    /// Who is to lose its power at its next sync, if that comes by then.
    at_sync: BTreeMap<HostId, (Micros, Micros)>,
    /// Since when disks are full.
    full: BTreeMap<HostId, Micros>,
    /// The last write that was taken, and the last look at all members.
    written: Micros,
    looked: Micros,
    /// Faults by kind, for the summary.
    pub faults: BTreeMap<&'static str, u64>,
    /// Processes that died although no fault killed them, which some faults make them do.
    pub deaths: u64,
}

impl Cluster {
    /// Adds the members to a world that has no hosts yet, and starts them.
    pub fn start(world: &mut World, dir: &Path, clocks_ppm: &[u64], setup: Setup) -> io::Result<Cluster> {
        let members = clocks_ppm.len();
        let mut cluster = Cluster {
            members,
            lives: vec![Life::default(); members],
            later: BTreeMap::new(),
            scheduled: 0,
            late: Vec::new(),
            lost: Vec::new(),
            rotten: BTreeMap::new(),
            errors_until: vec![0; members],
            full_until: vec![0; members],
            setup,
            levels: vec![0; members],
            checks: Checks::new(world.trace.clone()),
            calm: Calm::new(members),
            orders: Orders::new(),
            at_sync: BTreeMap::new(),
            full: BTreeMap::new(),
            written: 0,
            looked: 0,
            faults: BTreeMap::new(),
            deaths: 0,
        };
        for (member, clock_ppm) in clocks_ppm.iter().enumerate() {
            let host = world.add_host(dir.join(format!("n{member:02}")), *clock_ppm);
            cluster.start_member(world, host)?;
        }
        Ok(cluster)
    }

    /// `host:port` of every member's peer port.
    pub fn peers(&self) -> Vec<String> {
        (0..self.members).map(|member| format!("{}:{PEER_PORT}", name(member))).collect()
    }

    /// `host:port` of every member's client port.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members).map(|member| format!("{}:{CLIENT_PORT}", name(member))).collect()
    }

    fn start_member(&mut self, world: &mut World, host: HostId) -> io::Result<()> {
        if world.hosts[host].is_up() || self.orders.is_held_down(host) {
            return Ok(());
        }
        let (dir, now) = (world.hosts[host].dir.clone(), world.clock.now());
        let config = self.setup.config(host, &dir, now).map_err(io::Error::other)?;
        let life = Life::default();
        self.lives[host] = life.clone();
        self.levels[host] = self.setup.level(host, now);
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
            let why = why.replace(&*world.hosts[host].dir.to_string_lossy(), "DATA");
            if host >= self.members {
                return Err(format!("the clients of host {host} died: {why}"));
            }
            if !self.is_expected(world, host, &why) {
                return Err(format!("member {host} died: {why}"));
            }
            self.deaths += 1;
            world.trace.tell("death", format!("member {host} ends by itself: {why}"));
            self.end_process(world, host, Death::Killed, RESTART)?;
        }
        for host in 0..self.members {
            if world.hosts[host].is_up() && self.lives[host].has_stopped.load(Ordering::Relaxed) {
                self.end_process(world, host, Death::Killed, RESTART)?;
            }
        }
        self.follow_orders(world)?;
        self.lose_power_at_sync(world)?;
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
        Ok(())
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
                Order::Recovered(last) => self.checks.recovered(last),
            }
        }
        Ok(())
    }

    fn lose_power_at_sync(&mut self, world: &mut World) -> Result<(), Violation> {
        let now = world.clock.now();
        for (host, (until, lasts)) in self.at_sync.clone() {
            if world.disks[host].is_syncing() && world.hosts[host].is_up() {
                world.trace.tell("fault", format!("member {host} loses its power in the midst of a sync"));
                self.at_sync.remove(&host);
                world.disks[host].slow_down(0);
                self.end_process(world, host, Death::PowerLost, lasts)?;
            } else if now > until {
                self.at_sync.remove(&host);
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

    /// The look of every second.
    fn look(&mut self, world: &World) -> Result<(), Violation> {
        let (now, seen) = (world.clock.now(), self.seen(world));
        let furthest = seen.values().map(|seen| seen.positions.applied).max().unwrap_or_default();
        for (host, seen) in &seen {
            self.checks.look(*host, now, seen, self.calm.since(*host), furthest);
        }
        self.written = self.written.max(self.orders.written());
        let since = self.calm.majority_since().max(self.written).max(self.orders.founded());
        if self.orders.founded() > 0 && !self.orders.is_over() && now > since + WRITES_MAX {
            let seconds = (now - since) / SECOND;
            return Err(format!("no write was taken for {seconds} s, though a majority was left alone"));
        }
        for (host, since) in &self.full {
            let Some(node_id) = seen.get(host).map(|seen| seen.place.node_id) else { continue };
            let is_told = seen.values().any(|seen| seen.store.space_alarms().contains(&node_id));
            if now > self.calm.majority_since().max(*since) + FULL_MAX && !is_told {
                return Err(format!("the disk of member {host} is full, and nobody is told"));
            }
        }
        Ok(())
    }

    fn schedule(&mut self, at: Micros, later: Later) {
        self.scheduled += 1;
        self.later.insert((at, self.scheduled), later);
    }

    /// A fault begins.
    pub fn begin(&mut self, world: &mut World, fault: Fault) -> Result<(), Violation> {
        let Fault { lasts, what, .. } = fault;
        let until = world.clock.now() + lasts;
        let seconds = lasts as f64 / SECOND as f64;
        world.trace.tell("fault", format!("{what:?} for {seconds:.1} s"));
        let name = match what {
            What::Dies(host, death) => {
                if world.hosts[host].is_up() {
                    self.end_process(world, host, death, lasts)?;
                }
                if death == Death::Killed { "kill" } else { "power" }
            }
            What::DiesAtSync(host, slow) => {
                world.disks[host].slow_down(slow);
                let until = world.clock.now() + AT_SYNC_MAX;
                self.at_sync.insert(host, (until, lasts));
                self.calm.disturb(host, until);
                "atsync"
            }
            What::Stops(host) => {
                self.lives[host].stop.notify_one();
                "stop"
            }
            What::Stands(host) => {
                world.pause(host, until);
                "pause"
            }
            What::Alone(_) => self.cut(world, what, "isolate"),
            What::Unheard(..) => self.cut(world, what, "oneway"),
            What::Ring => self.cut(world, what, "ring"),
            What::Loss(lost) => {
                self.lost.push(lost);
                "loss"
            }
            What::Late(late) => {
                self.late.push(late);
                "delay"
            }
            What::Reset(one, other) => {
                world.network.with(|network| network.reset_between(one, other));
                "reset"
            }
            What::SlowDisk(host, by) => {
                world.disks[host].slow_down(by);
                "slowdisk"
            }
            What::HungDisk(host) => {
                world.disks[host].hang_until(until);
                "hungdisk"
            }
            What::FullDisk(host, left_bytes) => {
                world.disks[host].fill_up(left_bytes);
                self.full_until[host] = self.full_until[host].max(until);
                self.full.entry(host).or_insert(world.clock.now());
                "fulldisk"
            }
            What::Names(trouble) => {
                world.network.with(|network| network.trouble_names(trouble, true));
                "names"
            }
            What::Rots(host, draw) => self.rot(world, host, draw)?,
            What::DiskErrors(host, op) => {
                world.disks[host].set_failing(op, true);
                self.errors_until[host] = self.errors_until[host].max(until);
                "errors"
            }
        };
        self.set_weather(world);
        *self.faults.entry(name).or_default() += 1;
        self.calm.note(what, until);
        self.orders.note_calm(self.calm.all_since());
        if !matches!(
            what,
            What::Dies(..) | What::DiesAtSync(..) | What::Stops(_) | What::Stands(_) | What::Reset(..)
        ) {
            self.schedule(until, Later::End(what));
        }
        Ok(())
    }

    /// What a member may end itself for, or refuse to start: a disk on which nothing has moved for a minute, one that
    /// failed, and one that was full for longer than apply waits.
    fn is_expected(&self, world: &World, host: HostId, why: &str) -> bool {
        let now = world.clock.now();
        let failed = now < self.errors_until[host] + AFTERMATH && why.contains(DISK_FAILED);
        let has_rotted = self.rotten.contains_key(&host) && DAMAGED.iter().any(|word| why.contains(word));
        let was_full = now < self.full_until[host] + AFTERMATH && why.contains(DISK_FULL);
        why.contains("the process ends, and the other members go on without it")
            || failed
            || was_full
            || has_rotted
    }

    /// Ends a process and lets its disk rot, unless so many others have rotted that no majority would be whole.
    fn rot(&mut self, world: &mut World, host: HostId, draw: u64) -> Result<&'static str, Violation> {
        let others = self.rotten.keys().filter(|other| **other != host).count();
        if self.rotten.contains_key(&host) || (others + 1) * 2 >= self.members {
            return Ok("rot, none");
        }
        self.end_process(world, host, Death::Killed, RESTART)?;
        if let Some(rot) = Rot::begin(&world.hosts[host].dir, draw).map_err(told)? {
            world.trace.tell("rot", format!("member {host}: {}", name_of(&rot.path)));
            self.rotten.insert(host, rot);
        }
        Ok("rot")
    }

    /// Somebody has put back what had rotted.
    fn end_rot(&mut self, world: &mut World, host: HostId) -> Result<(), Violation> {
        let Some(rot) = self.rotten.remove(&host) else { return Ok(()) };
        self.end_process(world, host, Death::Killed, RESTART)?;
        rot.end().map_err(told)
    }

    fn cut(&self, world: &World, what: What, name: &'static str) -> &'static str {
        let links = self.links(what);
        world.network.with(|network| links.iter().for_each(|(from, to)| network.cut(*from, *to)));
        name
    }

    /// The links that a fault cuts, one way each.
    fn links(&self, what: What) -> Vec<(HostId, HostId)> {
        let others = |host| (0..self.members).filter(move |other| *other != host);
        match what {
            What::Alone(host) => others(host).flat_map(|other| [(host, other), (other, host)]).collect(),
            What::Unheard(from, to) => vec![(from, to)],
            What::Ring => (0..self.members).map(|host| (host, (host + 1) % self.members)).collect(),
            _ => Vec::new(),
        }
    }

    fn end(&mut self, world: &mut World, what: What) -> Result<(), Violation> {
        let links = self.links(what);
        world.network.with(|network| links.iter().for_each(|(from, to)| network.mend(*from, *to)));
        match what {
            What::Loss(lost) => self.lost.retain(|other| *other != lost),
            What::Late(late) => self.late.retain(|other| *other != late),
            What::SlowDisk(host, _) => world.disks[host].slow_down(0),
            What::FullDisk(host, _) => {
                self.full.remove(&host);
                world.disks[host].fill_up(u64::MAX / 2);
            }
            What::DiskErrors(host, op) => world.disks[host].set_failing(op, false),
            What::Names(trouble) => world.network.with(|network| network.trouble_names(trouble, false)),
            What::Rots(host, _) => self.end_rot(world, host)?,
            _ => {}
        }
        self.set_weather(world);
        Ok(())
    }

    fn set_weather(&self, world: &World) {
        let late = self.late.iter().copied().max().unwrap_or_default();
        let lost = self.lost.iter().copied().max().unwrap_or_default();
        world.network.with(|network| network.set_weather((300, 1000 + late), lost));
    }

    /// Everything is well from now on but for one thing, which lasts.
    pub fn heal_most(&mut self, world: &mut World, broken: Option<What>) -> Result<(), Violation> {
        self.heal(world)?;
        let at = world.clock.now();
        broken.map_or(Ok(()), |what| self.begin(world, Fault { at, lasts: BROKEN, what }))
    }

    /// The last entry that any member has applied.
    pub fn furthest(&self, world: &World) -> u64 {
        self.seen(world).values().map(|seen| seen.positions.applied).max().unwrap_or_default()
    }

    /// Whether all members have.
    pub fn have_applied(&self, world: &World, index: u64) -> bool {
        let seen = self.seen(world);
        seen.len() == self.members && seen.values().all(|seen| seen.positions.applied >= index)
    }

    /// At the end all members hold the same, and say so.
    pub fn check_equal(&self, world: &World) -> Result<(), Violation> {
        let mut first = None;
        for (host, seen) in self.seen(world) {
            let revision = seen.store.revision();
            let hash = seen.store.hash(revision).map_err(|error| format!("member {host}: {error}"))?;
            let members: Vec<u64> = seen.place.members.iter().map(|member| member.node_id).collect();
            let (level, bytes) = (seen.store.feature_level(), seen.store.logical_bytes());
            let held = (revision, hash, members, level, bytes);
            let known = first.get_or_insert_with(|| held.clone());
            if *known != held {
                return Err(format!("member {host} ends with {held:x?}, and another one with {known:x?}"));
            }
        }
        Ok(())
    }

    /// Everything is well from now on.
    pub fn heal(&mut self, world: &mut World) -> Result<(), Violation> {
        for later in std::mem::take(&mut self.later).into_values() {
            if let Later::End(what) = later {
                self.end(world, what)?;
            }
        }
        self.at_sync.clear();
        self.full.clear();
        world.disks.iter().for_each(|disk| disk.heal());
        world.resume_all();
        self.calm.heal(world.clock.now());
        self.orders.note_calm(self.calm.all_since());
        for host in 0..self.members {
            self.start_member(world, host).map_err(told)?;
        }
        world.trace.tell("heal", "all is well again".to_owned());
        Ok(())
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The hook for panics takes it from here.
fn refuse(error: StartError) {
    panic!("it does not start: {error}");
}

fn told(error: io::Error) -> Violation {
    format!("the simulation itself failed: {error}")
}
