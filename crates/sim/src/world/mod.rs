//! The world: hosts, the network between them, their disks, and the time that passes for all.
//!
//! Everything runs on one thread, in windows of a millisecond: what is due is delivered, and then each host, in an
//! order drawn anew, sees its clock move and does all there is to do.

pub mod clock;
pub mod disk;
mod end;
mod host;
mod journal;
pub mod names;
pub mod network;
pub mod random;
pub mod rot;
mod runtime;
mod state_files;
mod streams;
mod threads;
pub mod trace;
pub mod weather;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvorum_node::blocking::Blocking;
use kvorum_node::machine::Machine;
use kvorum_node::observer::Observer;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use self::clock::{Clock, MILLISECOND, Micros};
use self::disk::{Disk, DiskFiles};
use self::end::Ends;
use self::host::Process;
pub use self::host::{Host, TRUE_PPM};
use self::network::{HostId, Network};
use self::runtime::HostRuntime;
use self::state_files::Kept;
pub use self::streams::{HostNetwork, Shared};
use self::threads::{HostPool, HostThreads};
use self::trace::Trace;

/// In one window every host runs once.
pub const WINDOW: Micros = MILLISECOND;
/// How long blocking work takes at most.
const BLOCKING_MAX: Duration = Duration::from_millis(3);

/// How a process ends from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Death {
    /// It is killed; what it has written is there.
    Killed,
    /// The machine has no power any more.
    PowerLost,
}

/// The world.
pub struct World {
    seed: u64,
    /// True time.
    pub clock: Arc<Clock>,
    /// What happens.
    pub trace: Arc<Trace>,
    /// The network.
    pub network: Shared,
    /// All hosts.
    pub hosts: Vec<Host>,
    /// Their disks.
    pub disks: Vec<Arc<Disk>>,
    ends: Ends,
    order: StdRng,
    /// How many processes were started, for streams of their own.
    lives: u64,
}

impl World {
    /// Without hosts yet. Events go to `all` too, where it is given.
    pub fn new(seed: u64, all: Option<File>) -> io::Result<World> {
        let system = match std::env::var_os("KVORUM_SIM_CLOCK") {
            Some(path) => Some(File::options().write(true).open(path)?),
            None => None,
        };
        let clock = Arc::new(Clock::new(system));
        let trace = Arc::new(Trace::new(clock.clone(), all));
        let streams = (random::stream(seed, "network"), random::stream(seed, "names"));
        let network = Network::new(streams.0, streams.1, trace.clone());
        Ok(World {
            seed,
            network: Shared::new(network),
            clock,
            trace,
            hosts: Vec::new(),
            disks: Vec::new(),
            ends: Ends::install(),
            order: random::stream(seed, "order"),
            lives: 0,
        })
    }

    /// Adds a machine with its data directory and the rate of its clock.
    pub fn add_host(&mut self, dir: PathBuf, clock_ppm: u64) -> HostId {
        let id = self.hosts.len();
        let random = random::stream(self.seed, &format!("disk {id}"));
        self.disks.push(Disk::new(dir.clone(), random, self.clock.clone(), self.trace.clone()));
        self.hosts.push(Host::new(dir, clock_ppm));
        id
    }

    /// The network as a host has it.
    pub fn network_of(&self, host: HostId) -> HostNetwork {
        HostNetwork { shared: self.network.clone(), host, user: None, breaks: None }
    }

    /// Starts a process on a host that has none, of which somebody may be told what it does.
    pub fn start(
        &mut self,
        host: HostId,
        observer: Option<Arc<dyn Observer>>,
        main: impl FnOnce(Machine, &Handle),
    ) -> io::Result<()> {
        self.lives += 1;
        let (runtime, threads) = (HostRuntime::new()?, HostThreads::new(self.disks[host].clone()));
        let random = random::stream(self.seed, &format!("blocking {}", self.lives));
        let pool = HostPool { random: Mutex::new(random), takes_max: BLOCKING_MAX };
        let machine = Machine {
            net: Arc::new(self.network_of(host)),
            blocking: Blocking::new(pool),
            observer,
            audit: None,
            store: kvorum_store::Machine {
                files: Arc::new(DiskFiles::new(self.disks[host].clone())),
                threads: Arc::new(threads.clone()),
            },
        };
        let now = self.clock.now();
        self.network.with(|network| {
            network.lighten(host);
            network.names.started(host, now);
        });
        main(machine, runtime.handle());
        self.hosts[host].begin(Process { runtime, threads });
        Ok(())
    }

    /// Ends the process of a host, if it has one.
    pub fn kill(&mut self, host: HostId, death: Death) -> io::Result<()> {
        let Some(process) = self.hosts[host].process.take() else { return Ok(()) };
        self.network.with(|network| {
            network.mute(host);
            if death == Death::PowerLost {
                network.darken(host);
            }
        });
        process.threads.kill();
        self.disks[host].freeze();
        let kept = Kept::of(&self.hosts[host].dir)?;
        self.ends.take_apart(|| {
            let Process { runtime, threads } = process;
            drop(runtime);
            threads.clear();
        });
        kept.put_back()?;
        self.disks[host].thaw();
        match death {
            Death::Killed => self.disks[host].process_killed(),
            Death::PowerLost => self.disks[host].power_lost()?,
        }
        self.network.with(|network| network.forget_process(host));
        Ok(())
    }

    /// The host, which has no process, has another disk, an empty one.
    pub fn wipe(&mut self, host: HostId) -> io::Result<()> {
        let dir = self.hosts[host].dir.clone();
        for path in [dir.with_extension("attic"), dir.clone()] {
            if path.exists() {
                std::fs::remove_dir_all(path)?;
            }
        }
        self.lives += 1;
        let random = random::stream(self.seed, &format!("disk {host} {}", self.lives));
        self.disks[host] = Disk::new(dir, random, self.clock.clone(), self.trace.clone());
        Ok(())
    }

    /// The host does nothing for a while.
    pub fn pause(&mut self, host: HostId, until: Micros) {
        self.hosts[host].stands_until = self.hosts[host].stands_until.max(until);
    }

    /// All hosts go on.
    pub fn resume_all(&mut self) {
        self.hosts.iter_mut().for_each(|host| host.stands_until = 0);
    }

    /// Lets a window pass. Answers which processes have ended by themselves in it, and why.
    pub fn step(&mut self) -> Vec<(HostId, String)> {
        let now = self.clock.now() + WINDOW;
        self.clock.advance_to(now);
        let wakers = self.network.with(|network| network.deliver(now));
        wakers.into_iter().for_each(std::task::Waker::wake);
        let mut order: Vec<HostId> = (0..self.hosts.len()).collect();
        order.shuffle(&mut self.order);
        let mut ended = Vec::new();
        for host in order {
            self.ends.runs(self.hosts[host].idle());
            self.hosts[host].run(WINDOW, now);
            if let Some(why) = self.ends.take() {
                self.network.with(|network| network.mute(host));
                ended.push((host, why));
            }
        }
        ended
    }
}
