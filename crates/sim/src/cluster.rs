//! The members of a simulated cluster: real nodes on the world's hosts, and what is done to them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser as _;
use kvorum_node::config::{Cli, Config};
use kvorum_node::limits::Limits;
use kvorum_node::server::{self, StartError};
use tokio::sync::Notify;

use crate::check::{Checks, Member};
use crate::plan::{Fault, What};
use crate::world::clock::{Micros, SECOND};
use crate::world::names::{name, own_address};
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
/// Raft log that is kept, so that who was away for long gets a snapshot.
const LOG_RETAIN_BYTES: &str = "64KiB";

/// Where members serve HTTP.
const HTTP_PORT: u16 = 2381;

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
    checks: Arc<Checks>,
    /// Faults by kind, for the summary.
    pub faults: BTreeMap<&'static str, u64>,
    /// Processes that died although no fault killed them, which some faults make them do.
    pub deaths: u64,
}

impl Cluster {
    /// Adds the members to a world that has no hosts yet, and starts them.
    pub fn start(world: &mut World, dir: &Path, clocks_ppm: &[u64]) -> io::Result<Cluster> {
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
            checks: Checks::new(world.trace.clone()),
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
        if world.hosts[host].is_up() {
            return Ok(());
        }
        let config = config(host, &world.hosts[host].dir).map_err(io::Error::other)?;
        let life = Life::default();
        self.lives[host] = life.clone();
        let observer = Arc::new(Member { checks: self.checks.clone(), host });
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
        self.schedule(world.clock.now() + lasts, Later::Start(host));
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
        if !matches!(what, What::Dies(..) | What::Stops(_) | What::Stands(_) | What::Reset(..)) {
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
            What::FullDisk(host, _) => world.disks[host].fill_up(u64::MAX / 2),
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

    /// Everything is well from now on.
    pub fn heal(&mut self, world: &mut World) -> Result<(), Violation> {
        for later in std::mem::take(&mut self.later).into_values() {
            if let Later::End(what) = later {
                self.end(world, what)?;
            }
        }
        world.disks.iter().for_each(|disk| disk.heal());
        world.resume_all();
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

fn config(host: HostId, dir: &Path) -> Result<Config, String> {
    let (ip, name) = (own_address(host), name(host));
    let dir = dir.to_string_lossy();
    let ports = [("client", CLIENT_PORT), ("peer", PEER_PORT), ("http", HTTP_PORT)];
    let listen = ports.map(|(name, port)| format!("--listen-{name}={ip}:{port}"));
    let flags =
        ["kvorum-node", "--cache-bytes=8MiB", "--log-retain-bytes", LOG_RETAIN_BYTES, "--data-dir", &dir];
    let advertise = [("client", CLIENT_PORT), ("peer", PEER_PORT)];
    let advertise = advertise.map(|(name_of, port)| format!("--advertise-{name_of}={name}:{port}"));
    let flags = flags.into_iter().map(str::to_owned).chain(listen).chain(advertise);
    let cli = Cli::try_parse_from(flags).map_err(|error| error.to_string())?;
    let config = cli.flags.validate().map_err(|error| error.to_string())?;
    let store = kvorum_store::Limits { repeatable: true, ..config.limits.store };
    Ok(Config { client_threads: 0, limits: Limits { store, ..config.limits }, ..config })
}
