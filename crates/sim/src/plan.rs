//! What will go wrong, drawn from the seed before anything runs.
//!
//! A seed has some kinds of faults and not others, and a third of all seeds has one kind, much of it: what hides
//! behind another fault shows where that one is absent.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::str::FromStr;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde::{Deserialize, Serialize};

use crate::kubernetes::MEMBERS_MAX;
use crate::world::clock::{MILLISECOND, Micros, SECOND};
use crate::world::disk::{OPS, Op};
use crate::world::names::Trouble;
use crate::world::network::HostId;
use crate::world::random::stream;
use crate::world::{Death, TRUE_PPM};

/// Before the first fault a cluster is founded.
const QUIET: Micros = 5 * SECOND;
/// Faults a minute, where a seed has them seldom and where it has them often. What comes of a fault only after a while,
/// as an alarm does, shows where nothing else happens meanwhile.
const SELDOM: (u64, u64) = (3, 10);
const OFTEN: (u64, u64) = (10, 60);
/// Bytes a second of a link that is narrow.
const NARROW: (u64, u64) = (48 << 10, 512 << 10);
/// The same of what happens to a world of operators, each of which has much to do for them.
const OPERATED_OFTEN: (u64, u64) = (2, 15);
/// Faults in a plan at most.
const FAULTS_MAX: usize = 10_000;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A process is killed, and started again.
    Kill,
    /// A machine loses its power, and gets it back.
    Power,
    /// A process is asked to stop, and started again.
    Stop,
    /// A process stands still.
    Pause,
    /// A member hears and says nothing.
    Isolate,
    /// A member is not heard by another one.
    OneWay,
    /// Each member hears one other.
    Ring,
    /// Packets are lost.
    Loss,
    /// Packets are late.
    Delay,
    /// Links carry little a second.
    Narrow,
    /// Connections between two members are reset.
    Reset,
    /// A machine loses its power while it syncs.
    AtSync,
    /// Syncs are slow.
    SlowDisk,
    /// Syncs do not end for a while.
    HungDisk,
    /// The disk is nearly full.
    FullDisk,
    /// Reads, writes or syncs fail.
    Errors,
    /// A bit of a file turns over.
    Rot,
    /// Names are looked up late, lead to where members were, or nowhere.
    Names,
    /// Clocks run at other rates, all the time.
    Clocks,
    /// A pod is deleted.
    Pod,
    /// A disk is lost, and the claim is not.
    Disk,
    /// A claim is deleted, with its pod.
    Claim,
    /// A machine is lost for good.
    Machine,
    /// A machine has no Node for a while.
    Away,
    /// Another number of members is wanted.
    Scale,
    /// All members are to restart, one after the other.
    Roll,
    /// An operator ends.
    Operator,
    /// An operator stands still.
    OperatorPause,
    /// An operator does not reach the members.
    OperatorCut,
    /// The API server is hard to reach.
    Server,
    /// All watches end.
    Watches,
}

/// All kinds, with the names that people give.
pub const KINDS: [(&str, Kind); 19] = [
    ("kill", Kind::Kill),
    ("power", Kind::Power),
    ("atsync", Kind::AtSync),
    ("stop", Kind::Stop),
    ("pause", Kind::Pause),
    ("isolate", Kind::Isolate),
    ("oneway", Kind::OneWay),
    ("ring", Kind::Ring),
    ("loss", Kind::Loss),
    ("delay", Kind::Delay),
    ("reset", Kind::Reset),
    ("slowdisk", Kind::SlowDisk),
    ("hungdisk", Kind::HungDisk),
    ("fulldisk", Kind::FullDisk),
    ("clocks", Kind::Clocks),
    ("errors", Kind::Errors),
    ("rot", Kind::Rot),
    ("names", Kind::Names),
    ("narrow", Kind::Narrow),
];

/// The kinds that there are where operators look after the members.
pub const OPERATED_KINDS: [(&str, Kind); 12] = [
    ("pod", Kind::Pod),
    ("disk", Kind::Disk),
    ("claim", Kind::Claim),
    ("machine", Kind::Machine),
    ("away", Kind::Away),
    ("scale", Kind::Scale),
    ("roll", Kind::Roll),
    ("operator", Kind::Operator),
    ("operatorpause", Kind::OperatorPause),
    ("operatorcut", Kind::OperatorCut),
    ("server", Kind::Server),
    ("watches", Kind::Watches),
];

fn all_kinds() -> impl Iterator<Item = (&'static str, Kind)> {
    KINDS.into_iter().chain(OPERATED_KINDS)
}

impl Kind {
    /// What people call it.
    pub fn name(self) -> &'static str {
        all_kinds().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Kind, String> {
        let known = all_kinds().find(|(known, _)| *known == name);
        known.map(|(_, kind)| kind).ok_or_else(|| {
            let names: Vec<_> = all_kinds().map(|(name, _)| name).collect();
            format!("'{name}' is no kind of fault; take some of {}", names.join(","))
        })
    }
}

/// A fault that is going to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// When it begins.
    pub at: Micros,
    /// How long it lasts.
    pub lasts: Micros,
    /// What it is.
    pub what: What,
}

/// A fault, and to whom it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A process ends.
    Dies(HostId, Death),
    /// A machine loses its power at the next sync; syncs take up to so much longer until then.
    DiesAtSync(HostId, Micros),
    /// A process is asked to stop.
    Stops(HostId),
    /// A process stands still, from the next moment on in which another member's message is under way to it.
    Stands(HostId),
    /// A member is alone.
    Alone(HostId),
    /// The first is not heard by the second.
    Unheard(HostId, HostId),
    /// Each member hears the next one only.
    Ring,
    /// So many packets in a million are lost.
    Loss(u32),
    /// Every packet takes up to so much longer.
    Late(Micros),
    /// Each link carries so many bytes a second, each way.
    Narrow(u64),
    /// Connections are reset.
    Reset(HostId, HostId),
    /// Syncs take up to so much longer.
    SlowDisk(HostId, Micros),
    /// Syncs do not end.
    HungDisk(HostId),
    /// The disk has room for so many bytes more.
    FullDisk(HostId, u64),
    /// One call of the disk in two fails, of those of a kind.
    DiskErrors(HostId, Op),
    /// A bit of a file turns over while the process is down; the draw says which.
    Rots(HostId, u64),
    /// Looking names up is in trouble.
    Names(Trouble),
    /// Somebody deletes a pod.
    PodDeleted(HostId),
    /// A disk is emptied; its claim stays.
    DiskLost(HostId),
    /// Somebody deletes a claim and its pod.
    ClaimDeleted(HostId),
    /// A machine is dead for good, the one of an ordinal's pod.
    MachineLost(HostId),
    /// A machine has no Node object for a while, the one of an ordinal's pod.
    MachineAway(HostId),
    /// Somebody wants so many members.
    Resized(u32),
    /// Somebody wants all members to restart.
    Restarted,
    /// An operator's process ends.
    OperatorDies(usize),
    /// An operator's process stands still.
    OperatorStands(usize),
    /// An operator does not reach the members.
    OperatorAlone(usize),
    /// Requests to the API server, and its answers, are lost.
    ServerAway,
    /// All watches break off.
    WatchesEnd,
}

/// Everything that will go wrong in a run. As a file it is what a run was shrunk to, and runs again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What it is kept for, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// All else follows from it.
    pub seed: u64,
    /// For how long faults go on.
    pub lasts: Micros,
    /// By the time at which they begin.
    pub faults: Vec<Fault>,
    /// How fast the clock of each member runs.
    pub clocks_ppm: Vec<u64>,
    /// What stays broken at the end while all else is healed, if anything: too little to keep the others from working.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<What>,
    /// How many operators look after the members; none: nobody does.
    #[serde(default, skip_serializing_if = "is_none")]
    pub operators: usize,
}

fn is_none(operators: &usize) -> bool {
    *operators == 0
}

impl Plan {
    /// Draws a plan for so many members and so long; of these kinds, or of some that are drawn too.
    pub fn draw(seed: u64, members: usize, lasts: Micros, kinds: Option<&[Kind]>) -> Plan {
        let mut random = stream(seed, "plan");
        let drawn = draw_kinds(&mut random);
        let kinds = kinds.map_or(drawn, <[Kind]>::to_vec);
        let clocks_ppm = (0..members).map(|_| draw_clock(&mut random, &kinds)).collect();
        let a_minute = if random.random_range(0..3) == 0 { SELDOM } else { OFTEN };
        let often = random.random_range(a_minute.0..=a_minute.1);
        let pause_max = 2 * 60 * SECOND / often;
        let longest = *[2 * SECOND, 8 * SECOND, 20 * SECOND].choose(&mut random).unwrap_or(&SECOND);
        let happening: Vec<Kind> = kinds.into_iter().filter(|kind| *kind != Kind::Clocks).collect();
        let mut faults = Vec::new();
        let mut at = QUIET;
        while at < lasts && faults.len() < FAULTS_MAX {
            let Some(kind) = happening.choose(&mut random) else { break };
            let lasts = random.random_range(100 * MILLISECOND..=longest);
            faults.push(Fault { at, lasts, what: draw_what(&mut random, *kind, members) });
            at += random.random_range(0..=pause_max);
        }
        let broken = draw_broken(&mut stream(seed, "broken"), members);
        Plan { about: String::new(), seed, lasts, faults, clocks_ppm, broken, operators: 0 }
    }

    /// Draws a plan for a world in which operators look after the members: what happens to it, and between that what
    /// happens to members anyhow.
    pub fn draw_operated(seed: u64, lasts: Micros, kinds: Option<&[Kind]>) -> Plan {
        let plan = Plan::draw(seed, MEMBERS_MAX, lasts, kinds);
        let mut random = stream(seed, "operated");
        let drawn = draw_of(&mut random, &OPERATED_KINDS.map(|(_, kind)| kind));
        let is_operated = |kind: &Kind| OPERATED_KINDS.iter().any(|(_, of)| of == kind);
        let kinds = kinds.map_or(drawn, |kinds| kinds.iter().copied().filter(is_operated).collect());
        let often = random.random_range(OPERATED_OFTEN.0..=OPERATED_OFTEN.1);
        let operators = *[1, 1, 2].choose(&mut random).unwrap_or(&1);
        let thinned = random.random_range(1..=4);
        let mut faults: Vec<Fault> =
            plan.faults.into_iter().step_by(thinned).filter(|fault| is_operated_too(fault.what)).collect();
        let mut at = 0;
        while at < lasts && faults.len() < FAULTS_MAX {
            let Some(kind) = kinds.choose(&mut random) else { break };
            at += random.random_range(0..=2 * 60 * SECOND / often);
            let lasts = random.random_range(100 * MILLISECOND..=20 * SECOND);
            faults.push(Fault { at, lasts, what: draw_operated(&mut random, *kind, operators) });
        }
        faults.sort_by_key(|fault| fault.at);
        Plan { faults, operators, broken: None, ..plan }
    }

    /// What a file holds.
    pub fn read(path: &Path) -> io::Result<Plan> {
        let told =
            |error: &dyn Display| io::Error::other(format!("cannot read plan {}: {error}", path.display()));
        let text = std::fs::read(path).map_err(|error| told(&error))?;
        let plan: Plan = serde_json::from_slice(&text).map_err(|error| told(&error))?;
        let members = plan.clocks_ppm.len();
        let mut happening = plan.faults.iter().map(|fault| fault.what).chain(plan.broken);
        if members == 0 || happening.any(|what| what.hosts().iter().any(|host| *host >= members)) {
            return Err(told(&"a fault is of a member that there is not"));
        }
        if plan.operators > 0 && members != MEMBERS_MAX {
            return Err(told(&format!("operators need clocks for {MEMBERS_MAX} members")));
        }
        Ok(plan)
    }

    /// Makes a file of it, a fault a line.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let line = |fault: &Fault| Ok(format!("  {}", serde_json::to_string(fault)?));
        let faults: io::Result<Vec<String>> = self.faults.iter().map(line).collect();
        let head = Plan { faults: Vec::new(), ..self.clone() };
        let head = serde_json::to_string_pretty(&head)?;
        let text = head.replace("\"faults\": []", &format!("\"faults\": [\n{}\n  ]", faults?.join(",\n")));
        std::fs::write(path, text + "\n")
    }
}

impl What {
    /// To whom it happens.
    pub fn hosts(self) -> Vec<HostId> {
        match self {
            What::PodDeleted(host)
            | What::DiskLost(host)
            | What::ClaimDeleted(host)
            | What::MachineLost(host)
            | What::MachineAway(host)
            | What::Dies(host, _)
            | What::DiesAtSync(host, _)
            | What::Stops(host)
            | What::Stands(host)
            | What::Alone(host)
            | What::SlowDisk(host, _)
            | What::HungDisk(host)
            | What::FullDisk(host, _)
            | What::DiskErrors(host, _)
            | What::Rots(host, _) => vec![host],
            What::Unheard(one, other) | What::Reset(one, other) => vec![one, other],
            What::Ring
            | What::Loss(_)
            | What::Late(_)
            | What::Narrow(_)
            | What::Names(_)
            | What::Resized(_)
            | What::Restarted
            | What::OperatorDies(_)
            | What::OperatorStands(_)
            | What::OperatorAlone(_)
            | What::ServerAway
            | What::WatchesEnd => Vec::new(),
        }
    }

    /// Whether it goes on until somebody ends it.
    pub fn ends(self) -> bool {
        !matches!(
            self,
            What::Dies(..)
                | What::DiesAtSync(..)
                | What::Stops(_)
                | What::Stands(_)
                | What::Reset(..)
                | What::PodDeleted(_)
                | What::DiskLost(_)
                | What::ClaimDeleted(_)
                | What::MachineLost(_)
                | What::MachineAway(_)
                | What::Resized(_)
                | What::Restarted
                | What::OperatorDies(_)
                | What::OperatorStands(_)
                | What::WatchesEnd
        )
    }
}

fn draw_kinds(random: &mut StdRng) -> Vec<Kind> {
    draw_of(random, &KINDS.map(|(_, kind)| kind))
}

/// One of them in a third of all draws, else each or not.
fn draw_of(random: &mut StdRng, all: &[Kind]) -> Vec<Kind> {
    if random.random_range(0..3) == 0 {
        return all.choose(random).copied().into_iter().collect();
    }
    all.iter().copied().filter(|_| random.random_range(0..2) == 0).collect()
}

/// 200 millionths off as a rule, and up to a tenth where clocks are what goes wrong.
fn draw_clock(random: &mut StdRng, kinds: &[Kind]) -> u64 {
    let usual = TRUE_PPM - 200 + random.random_range(0..=400);
    let wild = TRUE_PPM - 100_000 + random.random_range(0..=200_000);
    let is_wild = random.random_range(0..2) == 0;
    if kinds.contains(&Kind::Clocks) && is_wild { wild } else { usual }
}

/// Nothing where no majority would be left.
fn draw_broken(random: &mut StdRng, members: usize) -> Option<What> {
    if members < 3 {
        return None;
    }
    let host = random.random_range(0..members);
    let all = [
        What::HungDisk(host),
        What::Stands(host),
        What::Alone(host),
        What::Dies(host, Death::Killed),
        What::Dies(host, Death::PowerLost),
    ];
    all.choose(random).copied()
}

fn draw_what(random: &mut StdRng, kind: Kind, members: usize) -> What {
    let host = random.random_range(0..members);
    let other = (host + random.random_range(1..members.max(2))) % members;
    let (lost, late) = (random.random_range(1_000..=200_000), random.random_range(1..=300) * MILLISECOND);
    match kind {
        Kind::Kill => What::Dies(host, Death::Killed),
        Kind::Power => What::Dies(host, Death::PowerLost),
        Kind::AtSync => What::DiesAtSync(host, late),
        Kind::Stop => What::Stops(host),
        Kind::Pause | Kind::Clocks => What::Stands(host),
        Kind::Isolate => What::Alone(host),
        Kind::OneWay => What::Unheard(host, other),
        Kind::Ring => What::Ring,
        Kind::Loss => What::Loss(lost),
        Kind::Delay => What::Late(late),
        Kind::Narrow => What::Narrow(random.random_range(NARROW.0..=NARROW.1)),
        Kind::Reset => What::Reset(host, other),
        Kind::SlowDisk => What::SlowDisk(host, late),
        Kind::HungDisk => What::HungDisk(host),
        Kind::FullDisk => What::FullDisk(host, lost.into()),
        Kind::Names => What::Names(draw_trouble(random, late)),
        Kind::Rot => What::Rots(host, random.random()),
        Kind::Errors => What::DiskErrors(host, *OPS.choose(random).unwrap_or(&Op::Sync)),
        operated => draw_operated(random, operated, 1),
    }
}

/// Whether it may happen where operators look after the members: what rots waits for a person.
fn is_operated_too(what: What) -> bool {
    !matches!(what, What::Rots(..) | What::FullDisk(..))
}

fn draw_operated(random: &mut StdRng, kind: Kind, operators: usize) -> What {
    let (host, operator) = (random.random_range(0..MEMBERS_MAX), random.random_range(0..operators));
    match kind {
        Kind::Disk => What::DiskLost(host),
        Kind::Claim => What::ClaimDeleted(host),
        Kind::Machine => What::MachineLost(host),
        Kind::Away => What::MachineAway(host),
        Kind::Scale => What::Resized(random.random_range(1..=MEMBERS_MAX as u32)),
        Kind::Roll => What::Restarted,
        Kind::Operator => What::OperatorDies(operator),
        Kind::OperatorPause => What::OperatorStands(operator),
        Kind::OperatorCut => What::OperatorAlone(operator),
        Kind::Server => What::ServerAway,
        Kind::Watches => What::WatchesEnd,
        _ => What::PodDeleted(host),
    }
}

fn draw_trouble(random: &mut StdRng, late: Micros) -> Trouble {
    match random.random_range(0..3) {
        0 => Trouble::Late(10 * late),
        1 => Trouble::Stale,
        _ => Trouble::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a file says all of a plan, and a plan of which a fault is of nobody is refused. Method: plans of many seeds,
    /// which have all kinds of faults between them.
    #[test]
    fn a_plan_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.json");
        for seed in 0..50 {
            let mut plan = Plan::draw(seed, 3, 120 * SECOND, None);
            plan.write(&path).unwrap();
            assert_eq!(Plan::read(&path).unwrap(), plan);
            plan.faults.push(Fault { at: 0, lasts: 0, what: What::Stands(3) });
            plan.write(&path).unwrap();
            assert!(Plan::read(&path).unwrap_err().to_string().contains("a member that there is not"));
        }
    }
}
