//! What must hold at any moment, looked at whenever a node does something that others may rely on.

mod claims;
mod compactions;
mod room;
mod time;
mod vitals;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use kvorum_node::observer::{AppliedRun, Glance, Observer, Seen};
use kvorum_node::place::Overview;
use kvorum_proto::admin::v1::Membership;
use kvorum_store::Store;
use kvorum_store::command::{Answer, Outcome};
use kvorum_store::entry::{LogId, Payload};
use kvorum_store::log::{self, Vote};
use prost::Message as _;

use self::claims::Claims;
use self::compactions::{Compactions, Stage};
use self::room::Room;
use self::time::ClusterTime;
use self::vitals::Vitals;
use crate::world::clock::Micros;
use crate::world::disk::Disk;
use crate::world::network::HostId;
use crate::world::trace::{Trace, hash_bytes};

/// Entries whose content is remembered: more than any member lags behind another one.
const ENTRIES_MAX: usize = 1_000_000;
/// One of so many runs is compared with what the power would leave of the log just then.
const DURABLE_LOOK_EVERY: u64 = 128;
/// Terms that a member may be ahead of all others: elections in which it was alone.
const TERMS_MAX: u64 = 1000;
/// Snapshots that one life of a member may take from one leader from one fault to the next, while no disk is full: the
/// first one is to be enough.
const INSTALLS_MAX: u32 = 3;

/// What all members have done so far.
#[derive(Debug)]
pub struct Checks {
    trace: Arc<Trace>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By index: term and content of the entry, and what became of it.
    applied: BTreeMap<u64, Applied>,
    /// By incarnation and term: who led.
    leaders: BTreeMap<(u64, u64), u64>,
    /// The incarnation of the last one.
    incarnation: u64,
    /// Whether operators look after the members.
    is_operated: bool,
    disks: BTreeMap<HostId, OfDisk>,
    compactions: Compactions,
    cluster_time: ClusterTime,
    /// The last term that anybody was in.
    term: u64,
    /// Whether a disk is full: whoever has it keeps no log for the sake of others.
    is_space_short: bool,
    runs: u64,
    violation: Option<String>,
}

/// What is known of a host's disk, and of the process on it.
#[derive(Default)]
struct OfDisk {
    claims: Claims,
    vitals: Vitals,
    glance: Option<Arc<dyn Glance>>,
    /// What room there was after the last run of this life.
    room: Option<Room>,
    /// How far the compaction of its store was at the last run of this life.
    compacted: Option<Stage>,
    /// The highest feature level that it takes part in.
    level_max: u32,
    /// Snapshots in this life, by the term in which they were installed last.
    installs: (u64, u32),
    /// Whether there was any in this life.
    has_installed: bool,
    term: u64,
}

impl std::fmt::Debug for OfDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OfDisk").field("claims", &self.claims).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Applied {
    term: u64,
    payload: u64,
    /// None where a part of the entry was applied before the process was started.
    outcomes: Option<u64>,
}

/// The checks as one member's node is told of them.
pub struct Member {
    pub(crate) checks: Arc<Checks>,
    pub(crate) host: HostId,
    pub(crate) dir: PathBuf,
    pub(crate) disk: Arc<Disk>,
}

impl Checks {
    /// Nothing was done yet.
    pub fn new(trace: Arc<Trace>, is_operated: bool) -> Arc<Checks> {
        Arc::new(Checks { trace, state: Mutex::new(State { is_operated, ..State::default() }) })
    }

    /// What must not be and was, if anything.
    pub fn violation(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).violation.take()
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A process begins, of a release that knows so much.
    pub fn starts(&self, host: HostId, level_max: u32) {
        self.with(|state| {
            let disk = state.disks.entry(host).or_default();
            (disk.glance, disk.room, disk.compacted) = (None, None, None);
            (disk.vitals, disk.installs, disk.has_installed) = (Vitals::default(), (0, 0), false);
            disk.level_max = level_max;
        });
    }

    /// The disk is another one from now on.
    pub fn wiped(&self, host: HostId) {
        self.with(|state| state.disks.remove(&host));
    }

    /// A recovery goes on with the log up to here; what came after it counts for nothing.
    pub fn recovered(&self, last: u64) {
        self.with(|state| {
            _ = state.applied.split_off(&(last + 1));
            state.compactions.forget();
        });
    }

    /// Whether there is a disk that is full.
    pub fn note_space(&self, is_short: bool) {
        self.with(|state| state.is_space_short = is_short);
    }

    /// A fault begins or ends: who is cut off may need another snapshot.
    pub fn note_fault(&self) {
        self.with(|state| state.disks.values_mut().for_each(|disk| disk.installs = (disk.term, 0)));
    }

    /// The power was lost: what was promised must be there.
    pub fn power_lost(&self, host: HostId, dir: &Path) {
        self.with(|state| {
            if let Err(what) = state.check_disk(host, dir) {
                let what = format!("member {host}, of which the power was lost: {what}");
                state.violation.get_or_insert(what);
            }
        });
    }

    /// Whether a member's process has installed a snapshot.
    pub fn has_installed(&self, host: HostId) -> bool {
        self.with(|state| state.disks.get(&host).is_some_and(|disk| disk.has_installed))
    }

    /// How a member is now, if its process serves.
    pub fn glance(&self, host: HostId) -> Option<Seen> {
        let glance = self.with(|state| state.disks.get(&host)?.glance.clone());
        glance?.look()
    }

    /// The look of every second at a member that is not paused.
    pub fn look(&self, host: HostId, now: Micros, seen: &Seen, calm_since: Micros, furthest: u64) {
        self.with(|state| {
            let disk = state.disks.entry(host).or_default();
            if let Err(what) = disk.vitals.look(now, seen, calm_since, furthest) {
                let what = format!("member {host}: {what}");
                state.violation.get_or_insert(what);
            }
        });
    }

    /// The look of every second at who leads. For the rest see [`ClusterTime::look`].
    pub fn look_at_time(&self, now: Micros, leader_ms: u64, steady_since: Micros) {
        self.with(|state| {
            if let Err(what) = state.cluster_time.look(now, leader_ms, steady_since) {
                state.violation.get_or_insert(what);
            }
        });
    }
}

impl State {
    fn applied(&mut self, host: HostId, index: u64, now: Applied) {
        let known = *self.applied.entry(index).or_insert(now);
        let same_outcomes = match (known.outcomes, now.outcomes) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        if (known.term, known.payload) != (now.term, now.payload) || !same_outcomes {
            let what = format!("member {host} applied {now:x?} at {index}, and another one {known:x?}");
            self.violation.get_or_insert(what);
        }
        if known.outcomes.is_none() {
            self.applied.insert(index, now);
        }
        while self.applied.len() > ENTRIES_MAX {
            self.applied.pop_first();
        }
    }

    /// Terms rise by elections, one at a time, and some of those are split.
    fn enters(&mut self, host: HostId, term: u64) {
        self.disks.entry(host).or_default().term = term;
        if term > self.term + TERMS_MAX {
            let what =
                format!("member {host} went to term {term}, and no other one was beyond {}", self.term);
            self.violation.get_or_insert(what);
        }
        self.term = self.term.max(term);
    }

    fn leads(&mut self, place: &Overview) {
        let Overview { incarnation, term, node_id, .. } = *place;
        self.incarnation = self.incarnation.max(incarnation);
        let known = *self.leaders.entry((incarnation, term)).or_insert(node_id);
        if known != node_id {
            let what = format!("{known:016x} and {node_id:016x} both led in term {term}");
            self.violation.get_or_insert(what);
        }
    }

    /// Compares a data directory with what was promised of it.
    fn check_disk(&self, host: HostId, dir: &Path) -> Result<(), String> {
        let Some(disk) = self.disks.get(&host) else { return Ok(()) };
        if !dir.join("log").exists() {
            return Ok(());
        }
        let held = log::look(dir).map_err(|error| error.to_string())?;
        disk.claims.check(&held)
    }

    /// Counts a snapshot that a member has installed.
    fn installed(&mut self, host: HostId) {
        let disk = self.disks.entry(host).or_default();
        disk.claims.installed();
        disk.has_installed = true;
        if self.is_space_short {
            return;
        }
        let (term, count) = disk.installs;
        disk.installs = if term == disk.term { (term, count + 1) } else { (disk.term, 1) };
        if disk.installs.1 > INSTALLS_MAX {
            let (term, count) = disk.installs;
            let what = format!("member {host} has installed {count} snapshots of the leader of term {term}");
            self.violation.get_or_insert(what);
        }
    }

    /// What grows the store is refused where there is no room, and only there.
    fn check_room(&mut self, host: HostId, run: &AppliedRun<'_>) {
        let after = Room::of(run.store);
        let before = self.disks.entry(host).or_default().room.replace(after);
        // A run that an earlier life has begun, or a snapshot, begins anew.
        let before = before.filter(|_| run.commands_before == 0 && !run.entries.is_empty());
        if let Some(Err(what)) = before.map(|before| before.judge(after, run)) {
            self.violation.get_or_insert(format!("member {host} {what}"));
        }
    }

    /// Compares what a compaction leaves, when it takes effect and when it is done, and after each start.
    fn check_compaction(&mut self, host: HostId, store: &Store) {
        let stage = compactions::stage(store);
        if self.disks.entry(host).or_default().compacted.replace(stage) == Some(stage) {
            return;
        }
        if let Err(what) = self.compactions.judge(store) {
            self.violation.get_or_insert(format!("member {host} {what}"));
        }
    }

    /// Who leads hands over before it is removed, so that nobody waits for an election: what takes its vote from it is none
    /// of its own entries.
    fn check_membership(&mut self, run: &AppliedRun<'_>) {
        let incarnation = self.incarnation;
        let entries = if self.is_operated { run.entries } else { &[] };
        for entry in entries {
            let Ok(Payload::Membership(bytes)) = Payload::decode(entry.payload.clone()) else { continue };
            let configs = Membership::decode(bytes).map(|membership| membership.configs).unwrap_or_default();
            let Some(leader) = self.leaders.get(&(incarnation, entry.log_id.term)) else { continue };
            // Of a change that another leader has begun it completes the second half.
            let [_, after] = &configs[..] else { continue };
            if !after.node_ids.contains(leader) {
                let what =
                    format!("{leader:016x} leads in term {} and takes its own vote away", entry.log_id.term);
                self.violation.get_or_insert(what);
            }
        }
    }

    /// No release that takes part is asked for more than it knows.
    fn check_level(&mut self, level: u32) {
        if let Some((host, disk)) = self.disks.iter().find(|(_, disk)| (1..level).contains(&disk.level_max)) {
            let what = format!("the feature level is {level}, and member {host} knows {}", disk.level_max);
            self.violation.get_or_insert(what);
        }
    }
}

impl Member {
    fn with_claims<T>(&self, work: impl FnOnce(&mut Claims) -> T) -> T {
        self.checks.with(|state| work(&mut state.disks.entry(self.host).or_default().claims))
    }

    /// Now and then, and where it matters most, compares what was promised with what the power would leave.
    fn check_durable(&self) {
        let is_due = self.checks.with(|state| {
            state.runs += 1;
            let was_cut = state.disks.get(&self.host).is_some_and(|disk| disk.claims.was_cut());
            was_cut || state.runs.is_multiple_of(DURABLE_LOOK_EVERY)
        });
        if !is_due {
            return;
        }
        let copy = self.dir.with_extension("durable");
        let checked = self.compare_durable(&copy);
        let removed = if copy.exists() { fs::remove_dir_all(&copy) } else { Ok(()) };
        let failed = match (checked, removed) {
            (Ok(Ok(())), Ok(())) => return,
            (Ok(Err(what)), _) => format!("member {}, if the power went now: {what}", self.host),
            (Err(error), _) | (_, Err(error)) => format!("the simulation itself failed: {error}"),
        };
        self.checks.with(|state| _ = state.violation.get_or_insert(failed));
    }

    fn compare_durable(&self, copy: &Path) -> io::Result<Result<(), String>> {
        // Where nothing would go, the log is what it is: what was promised may not even have been written.
        let copied = self.disk.copy_durable(&self.dir.join("log"), &copy.join("log"))?;
        let left = copied.map_or(&*self.dir, |()| copy);
        Ok(self.checks.with(|state| state.check_disk(self.host, left)))
    }
}

/// Without records, which only those have who are waited for.
fn hash_outcomes(outcomes: &[Outcome]) -> u64 {
    let mut outcomes = outcomes.to_vec();
    for outcome in &mut outcomes {
        if let Some(Answer::Written(written)) = &mut outcome.answer {
            written.previous.clear();
        }
    }
    hash_bytes(format!("{outcomes:?}").as_bytes())
}

impl Observer for Member {
    fn applied(&self, run: &AppliedRun<'_>) {
        for (at, entry) in run.entries.iter().enumerate() {
            let is_whole = at > 0 || run.commands_before == 0;
            let outcomes = run.outcomes.get(at).filter(|_| is_whole);
            let applied = Applied {
                term: entry.log_id.term,
                payload: hash_bytes(&entry.payload),
                outcomes: outcomes.map(|outcomes| hash_outcomes(outcomes)),
            };
            self.checks.with(|state| state.applied(self.host, entry.log_id.index, applied));
            let numbers = [self.host as u64, entry.log_id.index, entry.log_id.term, applied.payload];
            self.checks.trace.note("applied", &numbers, &[]);
        }
        self.checks.with(|state| state.check_level(run.store.feature_level()));
        self.checks.with(|state| state.check_membership(run));
        self.checks.with(|state| state.check_room(self.host, run));
        self.checks.with(|state| state.check_compaction(self.host, run.store));
        if let Some(last) = run.entries.last() {
            self.with_claims(|claims| claims.applied(last.log_id));
            self.check_durable();
        } else {
            self.checks.with(|state| state.installed(self.host));
            let numbers = [self.host as u64, run.store.revision()];
            self.checks.trace.note("installed", &numbers, &[]);
            self.checks.trace.tell("installed", format!("member {} has installed a snapshot", self.host));
        }
    }

    fn place_changed(&self, place: &Overview) {
        let host = self.host;
        self.checks.with(|state| state.enters(host, place.term));
        if place.is_leader() {
            self.checks.with(|state| state.leads(place));
            self.checks.trace.tell("leader", format!("member {host} leads in term {}", place.term));
        }
    }

    fn voted(&self, vote: Vote) {
        let host = self.host;
        if let Err(what) = self.with_claims(|claims| claims.voted(vote)) {
            self.checks.with(|state| {
                _ = state.violation.get_or_insert(format!("a vote of member {host} went back: {what}"));
            });
        }
    }

    fn appended(&self, last: LogId) {
        self.with_claims(|claims| claims.appended(last));
    }

    fn cut(&self, last: Option<LogId>, before: Option<LogId>) {
        self.with_claims(|claims| claims.cut(last, before));
    }

    fn serves(&self, node: Arc<dyn Glance>) {
        self.checks.with(|state| state.disks.entry(self.host).or_default().glance = Some(node));
    }
}
