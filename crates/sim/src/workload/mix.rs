//! Which clients a seed has: what hides behind one load shows where that one is absent.

use rand::RngExt as _;

use crate::world::random::stream;

/// How many clients there are of each kind.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Of registers.
    pub registers: u32,
    /// Of groups of keys.
    pub groups: u32,
    /// Of counters.
    pub counters: u32,
    /// That insert.
    pub inserts: u32,
    /// That insert many at a time.
    pub bursts: u32,
    /// With keys that end.
    pub ttls: u32,
    /// That delete ranges.
    pub sweeps: u32,
    /// That scan.
    pub scans: u32,
    /// That look at single members.
    pub looks: bool,
    /// That come and go as watchers.
    pub visits: u32,
    /// Whether somebody compacts.
    pub compacts: bool,
    /// Whether somebody administers the cluster meanwhile.
    pub administers: bool,
    /// That ask for much and do not read it.
    pub idle: u32,
    /// Whether somebody forges what members say.
    pub forges: bool,
    /// Whether rights count, and one user's are taken and given again.
    pub rights: bool,
}

impl Mix {
    /// The same where operators look after the members: nobody else does.
    pub fn operated(self) -> Mix {
        Mix { administers: false, forges: false, ..self }
    }

    /// Draws one.
    pub fn draw(seed: u64) -> Mix {
        let mut random = stream(seed, "mix");
        let has_ttls = random.random_range(0..4) > 0;
        let mut some = |count: u32| if random.random_range(0..2) == 0 { count } else { 0 };
        Mix {
            registers: 2 + some(2),
            groups: some(2),
            counters: some(2),
            inserts: 1 + some(1),
            bursts: some(1),
            ttls: if has_ttls { 4 } else { 0 },
            sweeps: some(2),
            scans: some(2),
            looks: some(1) > 0,
            visits: some(2),
            compacts: some(1) > 0,
            administers: some(1) > 0,
            idle: some(1) * some(2),
            forges: some(1) * some(1) > 0,
            rights: some(1) > 0,
        }
    }
}
