//! Faults of a plan: how they begin and end, and how everything is healed.

use std::path::Path;

use super::{Cluster, Later, RESTART, Violation, told};
use crate::plan::{Fault, What};
use crate::world::clock::{MILLISECOND, Micros, SECOND};
use crate::world::network::{HostId, PEER_PORT};
use crate::world::rot::Rot;
use crate::world::weather::{LATENCY, Weather};
use crate::world::{Death, World};

/// How long after a member is asked to lose its power in the midst of a sync it waits for one.
const AT_SYNC_MAX: Micros = 5 * SECOND;
/// How much longer syncs take for who is to lose its power after a snapshot.
const INSTALL_SYNC_TAKES: Micros = 20 * MILLISECOND;
/// How long after a member is to stand still it waits for a message under way to it.
const AT_MESSAGE_MAX: Micros = 500 * MILLISECOND;
/// How long what stays broken at the end may: until the others have worked without it.
const BROKEN: Micros = 60 * SECOND;

impl Cluster {
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
                self.at_message.insert(host, (until, world.clock.now() + AT_MESSAGE_MAX));
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
            What::Narrow(bytes_a_second) => {
                self.narrow.push(bytes_a_second);
                "narrow"
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
                self.checks.note_space(true);
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
            What::OperatorDies(number) => {
                self.end_operator(world, number, lasts)?;
                "operator"
            }
            What::OperatorStands(number) => {
                self.operator(number).into_iter().for_each(|host| world.pause(host, until));
                "operatorpause"
            }
            What::OperatorAlone(_) => self.cut(world, what, "operatorcut"),
            What::PodDeleted(_)
            | What::DiskLost(_)
            | What::ClaimDeleted(_)
            | What::MachineLost(_)
            | What::MachineAway(_)
            | What::Resized(_)
            | What::Restarted
            | What::ServerAway
            | What::WatchesEnd => self.of_kubernetes(world, what)?,
        };
        self.set_weather(world);
        *self.faults.entry(name).or_default() += 1;
        self.checks.note_fault();
        self.calm.note(what, until);
        self.note_kept(what, until);
        self.orders.note_calm(self.calm.all_since());
        if what.ends() {
            self.schedule(until, Later::End(what));
        }
        Ok(())
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
            What::OperatorAlone(number) => {
                let links = |operator| {
                    (0..self.members).flat_map(move |member| [(operator, member), (member, operator)])
                };
                self.operator(number).into_iter().flat_map(links).collect()
            }
            What::Ring => (0..self.members).map(|host| (host, (host + 1) % self.members)).collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn end(&mut self, world: &mut World, what: What) -> Result<(), Violation> {
        let links = self.links(what);
        world.network.with(|network| links.iter().for_each(|(from, to)| network.mend(*from, *to)));
        match what {
            What::Loss(lost) => self.lost.retain(|other| *other != lost),
            What::Late(late) => self.late.retain(|other| *other != late),
            What::Narrow(bytes_a_second) => self.narrow.retain(|other| *other != bytes_a_second),
            What::SlowDisk(host, _) => world.disks[host].slow_down(0),
            What::FullDisk(host, _) => {
                self.full.remove(&host);
                self.checks.note_space(!self.full.is_empty());
                world.disks[host].fill_up(u64::MAX / 2);
            }
            What::DiskErrors(host, op) => world.disks[host].set_failing(op, false),
            What::Names(trouble) => world.network.with(|network| network.trouble_names(trouble, false)),
            What::Rots(host, _) => self.end_rot(world, host)?,
            What::ServerAway => self.kubernetes.iter_mut().for_each(|kubernetes| kubernetes.end(what)),
            _ => {}
        }
        self.checks.note_fault();
        self.set_weather(world);
        Ok(())
    }

    fn set_weather(&self, world: &World) {
        let late = self.late.iter().copied().max().unwrap_or_default();
        let lost = self.lost.iter().copied().max().unwrap_or_default();
        let narrow = self.narrow.iter().copied().min();
        let weather = Weather::new((LATENCY.0, LATENCY.1 + late), lost, narrow);
        world.network.with(|network| network.set_weather(weather));
    }

    /// Everything is well from now on but for one thing, which lasts.
    pub fn heal_most(&mut self, world: &mut World, broken: Option<What>) -> Result<(), Violation> {
        self.heal(world)?;
        let at = world.clock.now();
        broken.map_or(Ok(()), |what| self.begin(world, Fault { at, lasts: BROKEN, what }))
    }

    /// Everything is well from now on.
    pub fn heal(&mut self, world: &mut World) -> Result<(), Violation> {
        for later in std::mem::take(&mut self.later).into_values() {
            if let Later::End(what) = later {
                self.end(world, what)?;
            }
        }
        self.at_sync.clear();
        self.at_message.clear();
        self.full.clear();
        self.checks.note_space(false);
        world.disks.iter().for_each(|disk| disk.heal());
        world.resume_all();
        self.calm.heal(world.clock.now());
        self.orders.note_calm(self.calm.all_since());
        let operators = self.operated.iter().flat_map(|operated| operated.operators.clone());
        for host in (0..self.members).chain(operators.collect::<Vec<_>>()) {
            self.start_member(world, host).map_err(told)?;
        }
        world.trace.tell("heal", "all is well again".to_owned());
        Ok(())
    }
    /// Who stands still while answers are under way finds them beside what has happened meanwhile.
    pub(super) fn stand_at_message(&mut self, world: &mut World) {
        let now = world.clock.now();
        self.at_message.retain(|host, (until, latest)| {
            let begins =
                now >= *latest || world.network.with(|network| network.is_under_way_to(*host, PEER_PORT));
            if begins {
                world.pause(*host, *until);
            }
            !begins
        });
    }

    /// Who has a new disk and a snapshot on it is to be the same after a crash, whatever of the log is gone by then.
    pub(super) fn lose_power_after_install(&mut self, world: &mut World) -> Result<(), Violation> {
        let at = world.clock.now();
        for host in self.after_install.clone() {
            if self.checks.has_installed(host) {
                self.after_install.remove(&host);
                self.begin(
                    world,
                    Fault { at, lasts: SECOND, what: What::DiesAtSync(host, INSTALL_SYNC_TAKES) },
                )?;
            }
        }
        Ok(())
    }

    pub(super) fn lose_power_at_sync(&mut self, world: &mut World) -> Result<(), Violation> {
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
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
