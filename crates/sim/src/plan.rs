//! What will go wrong, drawn from the seed before anything runs.
//!
//! A seed has some kinds of faults and not others, and a third of all seeds has one kind, much of it: what hides
//! behind another fault shows where that one is absent.

use std::str::FromStr;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use crate::world::clock::{MILLISECOND, Micros, SECOND};
use crate::world::network::HostId;
use crate::world::random::stream;
use crate::world::{Death, TRUE_PPM};

/// Before the first fault a cluster is founded.
const QUIET: Micros = 5 * SECOND;
/// Faults a minute, where a seed has them often and seldom.
const FAULTS_A_MINUTE: (u64, u64) = (10, 60);
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
    /// Clocks run at other rates, all the time.
    Clocks,
}

/// All kinds, with the names that people give.
pub const KINDS: [(&str, Kind); 15] = [
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
];

impl Kind {
    /// What people call it.
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Kind, String> {
        let known = KINDS.iter().find(|(known, _)| *known == name);
        known.map(|(_, kind)| *kind).ok_or_else(|| {
            let names: Vec<_> = KINDS.iter().map(|(name, _)| *name).collect();
            format!("'{name}' is no kind of fault; take some of {}", names.join(","))
        })
    }
}

/// A fault that is going to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When it begins.
    pub at: Micros,
    /// How long it lasts.
    pub lasts: Micros,
    /// What it is.
    pub what: What,
}

/// A fault, and to whom it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A process ends.
    Dies(HostId, Death),
    /// A machine loses its power at the next sync; syncs take up to so much longer until then.
    DiesAtSync(HostId, Micros),
    /// A process is asked to stop.
    Stops(HostId),
    /// A process stands still.
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
    /// Connections are reset.
    Reset(HostId, HostId),
    /// Syncs take up to so much longer.
    SlowDisk(HostId, Micros),
    /// Syncs do not end.
    HungDisk(HostId),
    /// The disk has room for so many bytes more.
    FullDisk(HostId, u64),
}

/// Everything that will go wrong in a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// By the time at which they begin.
    pub faults: Vec<Fault>,
    /// How fast the clock of each member runs.
    pub clocks_ppm: Vec<u64>,
    /// What stays broken at the end while all else is healed: too little to keep the others from working.
    pub broken: What,
}

impl Plan {
    /// Draws a plan for so many members and so long; of these kinds, or of some that are drawn too.
    pub fn draw(seed: u64, members: usize, lasts: Micros, kinds: Option<&[Kind]>) -> Plan {
        let mut random = stream(seed, "plan");
        let drawn = draw_kinds(&mut random);
        let kinds = kinds.map_or(drawn, <[Kind]>::to_vec);
        let clocks_ppm = (0..members).map(|_| draw_clock(&mut random, &kinds)).collect();
        let often = random.random_range(FAULTS_A_MINUTE.0..=FAULTS_A_MINUTE.1);
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
        Plan { faults, clocks_ppm, broken: draw_broken(&mut stream(seed, "broken"), members) }
    }
}

fn draw_kinds(random: &mut StdRng) -> Vec<Kind> {
    let all = KINDS.map(|(_, kind)| kind);
    if random.random_range(0..3) == 0 {
        return all.choose(random).copied().into_iter().collect();
    }
    all.into_iter().filter(|_| random.random_range(0..2) == 0).collect()
}

/// 200 millionths off as a rule, and up to a tenth where clocks are what goes wrong.
fn draw_clock(random: &mut StdRng, kinds: &[Kind]) -> u64 {
    let usual = TRUE_PPM - 200 + random.random_range(0..=400);
    let wild = TRUE_PPM - 100_000 + random.random_range(0..=200_000);
    let is_wild = random.random_range(0..2) == 0;
    if kinds.contains(&Kind::Clocks) && is_wild { wild } else { usual }
}

fn draw_broken(random: &mut StdRng, members: usize) -> What {
    let host = random.random_range(0..members);
    let all = [
        What::HungDisk(host),
        What::Stands(host),
        What::Alone(host),
        What::Dies(host, Death::Killed),
        What::Dies(host, Death::PowerLost),
    ];
    all.choose(random).copied().unwrap_or(What::HungDisk(host))
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
        Kind::Reset => What::Reset(host, other),
        Kind::SlowDisk => What::SlowDisk(host, late),
        Kind::HungDisk => What::HungDisk(host),
        Kind::FullDisk => What::FullDisk(host, lost.into()),
    }
}
