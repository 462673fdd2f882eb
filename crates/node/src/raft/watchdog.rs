//! Watches over what raft itself does not look at: whether the log's disk takes writes, whether the
//! store makes progress with what is committed, and whether raft's own core answers at all.
//!
//! openraft sends heartbeats whatever becomes of either, so that a leader whose disk hangs would lead on
//! with nothing ever acknowledged. After [`STALL_MAX`] such a member is not ready, and does not lead: it
//! hands over to a voter that lives and has caught up, which takes nothing from its own disk, and sends no
//! heartbeats, so that where there is no such voter the others elect one. Nor does it stand for election.
//! Once there is progress it takes part again. After [`HANG_MAX`] the process ends: what hangs for so long
//! does not come back, and a new process at least says so.
//!
//! So it is with a member whose data differs from what a majority holds, but for its end: it goes on to take
//! the log, which is in order, until it is replaced.
//!
//! What counts is progress, not age: a disk that is slow and takes one write after the other costs no
//! election, however many of them wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvorum_store::fatal::end_process;
use kvorum_store::log::Pending;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver as _;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::apply::AtWork;
use super::{OpenRaft, Raft, publish};
use crate::place::Stall;

/// Without progress for so long a member is not ready and does not lead: far above what a disk that only
/// stutters takes for a sync, and low enough that writes go on elsewhere within 5 s.
pub const STALL_MAX: Duration = Duration::from_secs(2);

/// Without progress for so long the process ends: longer than storage takes to fail over.
pub const HANG_MAX: Duration = Duration::from_secs(60);

/// How often it looks.
const PERIOD: Duration = Duration::from_millis(100);

/// What one look adds at most: when the process itself was held up, paused for example, it has not seen
/// the disk make no progress meanwhile.
const LOOK_MAX: Duration = Duration::from_millis(300);

/// How often the core is asked whether it is there.
const ASK_PERIOD: Duration = Duration::from_secs(1);

/// Without a leader for so long a corrupt member stands for election after all: it may be the only one left
/// that has all of the log. Who needs that log gets it, and leads.
const LEADERLESS_MAX: Duration = Duration::from_secs(10);

/// How often a corrupt member that leads for want of another tries to hand over.
const HAND_OVER_PERIOD: Duration = Duration::from_secs(1);

/// How long raft may take to note that it is to hand over.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(1);

/// What one look finds.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    log: Option<Pending>,
    apply: Option<AtWork>,
    /// How often the core has answered, while it has not answered the last question.
    core: Option<u64>,
    /// The log says so of what is held here.
    corrupt: bool,
}

/// How long something has been waiting without any progress.
#[derive(Debug)]
struct Standstill<P> {
    progress: Option<P>,
    lasted: Duration,
}

impl<P: PartialEq> Standstill<P> {
    fn new() -> Self {
        Standstill { progress: None, lasted: Duration::ZERO }
    }

    /// `progress` changes with any progress, and is none while nothing has to be done.
    fn look(&mut self, progress: Option<P>, passed: Duration) {
        let stands = progress.is_some() && progress == self.progress;
        self.lasted = if stands { self.lasted + passed.min(LOOK_MAX) } else { Duration::ZERO };
        self.progress = progress;
    }
}

/// What it knows from its looks so far.
#[derive(Debug)]
struct Watchdog {
    log: Standstill<u64>,
    apply: Standstill<AtWork>,
    /// The core may wait for the log, so that its progress is the core's.
    core: Standstill<(u64, Option<u64>)>,
    for_room: bool,
    corrupt: bool,
}

impl Watchdog {
    fn new() -> Watchdog {
        let (log, apply, core) = (Standstill::new(), Standstill::new(), Standstill::new());
        Watchdog { log, apply, core, for_room: false, corrupt: false }
    }

    fn look(&mut self, seen: Seen, passed: Duration) {
        let log = seen.log.map(|pending| pending.completed);
        self.log.look(log, passed);
        self.apply.look(seen.apply, passed);
        self.core.look(seen.core.map(|answered| (answered, log)), passed);
        self.for_room = seen.log.is_some_and(|pending| pending.for_room);
        self.corrupt = seen.corrupt;
    }

    /// What keeps this member from leading, if anything does.
    fn against_leading(&self) -> Option<Stall> {
        self.corrupt.then_some(Stall::Corrupt).or_else(|| self.stalled_for(STALL_MAX))
    }

    /// What stands still, if anything has for `limit`.
    fn stalled_for(&self, limit: Duration) -> Option<Stall> {
        if self.log.lasted >= limit {
            Some(if self.for_room { Stall::FullDisk } else { Stall::Log })
        } else if self.apply.lasted >= limit {
            Some(Stall::Apply)
        } else if self.core.lasted >= limit {
            Some(Stall::Core)
        } else {
            None
        }
    }

    /// Why the process has to end, if it has to. A full disk is waited for: whoever makes room finds the
    /// member as it was.
    fn hangs(&self) -> Option<Stall> {
        self.stalled_for(HANG_MAX).filter(|stall| *stall != Stall::FullDisk)
    }
}

/// Asks the core, one question at a time, and counts what was asked and answered.
#[derive(Debug)]
struct Questions {
    asked: u64,
    answered: Arc<AtomicU64>,
    last: Instant,
}

impl Questions {
    fn new() -> Questions {
        Questions { asked: 0, answered: Arc::default(), last: Instant::now() }
    }

    /// How many were answered, while the last one is not; asks the next one in time.
    fn look(&mut self, raft: &Raft) -> Option<u64> {
        let answered = self.answered.load(Ordering::Relaxed);
        if answered < self.asked {
            return Some(answered);
        }
        if self.last.elapsed() >= ASK_PERIOD
            && let Ok(core) = raft.core()
        {
            self.last = Instant::now();
            self.asked += 1;
            let (core, answered, this) = (core.raft.clone(), self.answered.clone(), self.asked);
            // A core that has ended is another's to see, who ends the process.
            tokio::spawn(async move {
                if core.with_raft_state(|_| ()).await.is_ok() {
                    answered.store(this, Ordering::Relaxed);
                }
            });
        }
        None
    }
}

/// Watches until the node stops.
pub fn start(raft: Raft) {
    tokio::spawn(async move {
        let mut stopping = raft.watch_stopping();
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut watchdog, mut last, mut stalled) = (Watchdog::new(), Instant::now(), None);
        let mut questions = Questions::new();
        let mut handed_over = Instant::now();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            let passed = std::mem::replace(&mut last, Instant::now()).elapsed();
            let seen = Seen {
                log: raft.inner.log.pending(),
                apply: raft.inner.applier.at_work(),
                core: questions.look(&raft),
                corrupt: raft.store().is_corrupt(raft.overview().node_id),
            };
            watchdog.look(seen, passed);
            raft.metrics().log.stall_seconds.set(watchdog.log.lasted.as_secs_f64());
            raft.metrics().apply_stall_seconds.set(watchdog.apply.lasted.as_secs_f64());
            raft.metrics().core_stall_seconds.set(watchdog.core.lasted.as_secs_f64());
            if let Some(stall) = watchdog.hangs() {
                end_process(last_words(&raft, stall));
            }
            let now = watchdog.against_leading();
            match (stalled, now) {
                (None, Some(stall)) => step_back(&raft, stall),
                (Some(_), None) => take_part(&raft),
                (before, now) if before != now => _ = raft.inner.stalled.send_replace(now),
                _ => {}
            }
            stalled = now;
            publish::look_again(&raft);
            if now == Some(Stall::Corrupt) && handed_over.elapsed() >= HAND_OVER_PERIOD {
                handed_over = Instant::now();
                bridge(&raft);
            }
        }
    });
}

/// What a corrupt member does where nobody else can lead.
fn bridge(raft: &Raft) {
    let Ok(core) = raft.core() else { return };
    let leaderless = raft.overview().leaderless_since.is_some_and(|since| since.elapsed() > LEADERLESS_MAX);
    core.raft.runtime_config().elect(leaderless);
    core.raft.runtime_config().heartbeat(leaderless);
    if core.raft.server_metrics().borrow_watched().state == ServerState::Leader
        && let Ok(to) = raft.successor(0)
    {
        hand_over(core.raft.clone(), to);
    }
}

fn hand_over(raft: OpenRaft, to: u64) {
    tracing::warn!(to = format!("{to:016x}"), "handing leadership over");
    // Where it fails the others elect a leader all the same, for want of heartbeats.
    tokio::spawn(async move { timeout(TRANSFER_TIMEOUT, raft.trigger().transfer_leader(to)).await });
}

fn last_words(raft: &Raft, stall: Stall) -> String {
    let (dir, seconds) = (raft.inner.data_dir.path().display(), HANG_MAX.as_secs());
    let next = match stall {
        Stall::Core => "start this node again, and report it with the log above",
        _ => {
            "look at the disk and at what the kernel says of it, then start this node again, or replace the member"
        }
    };
    format!(
        "{stall}, for {seconds} s now, in {dir}: the process ends, and the other members go on without it; {next}"
    )
}

/// From now on this node neither leads nor stands for election, whatever openraft thinks.
fn step_back(raft: &Raft, stall: Stall) {
    let Ok(core) = raft.core() else { return };
    core.raft.runtime_config().elect(false);
    core.raft.runtime_config().heartbeat(false);
    let led = raft.overview().is_leader();
    let successor = if led { raft.successor(0).ok() } else { None };
    raft.inner.stalled.send_replace(Some(stall));
    publish::publish(raft);
    let lasts = match stall {
        Stall::Corrupt => String::new(),
        _ => format!(", for {} s now", STALL_MAX.as_secs()),
    };
    tracing::error!("{stall}{lasts}: this member is not ready, and does not lead");
    match successor {
        Some(to) => hand_over(core.raft.clone(), to),
        None if led => tracing::warn!("no other voter is live and caught up: the others are to elect one"),
        None => {}
    }
}

fn take_part(raft: &Raft) {
    let Ok(core) = raft.core() else { return };
    core.raft.runtime_config().elect(true);
    core.raft.runtime_config().heartbeat(true);
    raft.inner.stalled.send_replace(None);
    publish::publish(raft);
    tracing::warn!("there is progress again: this member takes part as before");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(completed: u64) -> Seen {
        Seen { log: Some(Pending { completed, for_room: false }), ..Seen::default() }
    }

    fn apply(ended: u64, cpu_ns: u64) -> Seen {
        Seen { apply: Some(AtWork::new(ended, cpu_ns)), ..Seen::default() }
    }

    /// When something was so first, in seconds, and what.
    type First = Option<(f64, Stall)>;

    /// Looks so long at what a function of the seconds since the beginning says; answers when what stalled
    /// first, and when what hung first, in seconds.
    fn watch(seconds: u64, seen: impl Fn(f64) -> Seen) -> (First, First) {
        let mut watchdog = Watchdog::new();
        let (mut stalled, mut hung) = (None, None);
        for look in 0..=seconds * 10 {
            let at = look as f64 / 10.0;
            watchdog.look(seen(at), PERIOD);
            stalled = stalled.or(watchdog.stalled_for(STALL_MAX).map(|stall| (at, stall)));
            hung = hung.or(watchdog.hangs().map(|stall| (at, stall)));
        }
        (stalled, hung)
    }

    /// Goal: what stands still is told after 2 s, and ends the process after 60 s; what is slow does
    /// neither. Method: a table of disks and stores, each watched for 100 s.
    #[test]
    fn what_stands_still_is_told_from_what_is_slow() {
        let nothing = (None, None);
        assert_eq!(watch(100, |_| Seen::default()), nothing, "an idle node");
        let hangs = |stall| (Some((2.0, stall)), Some((60.0, stall)));
        assert_eq!(watch(100, |_| log(7)), hangs(Stall::Log), "a sync that never ends");
        assert_eq!(watch(100, |_| apply(7, 7)), hangs(Stall::Apply), "an apply that never ends");
        let core = |answered| Seen { core: Some(answered), ..Seen::default() };
        assert_eq!(watch(100, |_| core(7)), hangs(Stall::Core), "a core that never answers");
        assert_eq!(watch(100, |at| core((at / 1.9) as u64)), nothing, "a core that answers late");
        let waits = |completed| Seen { core: Some(7), ..log(completed) };
        assert_eq!(watch(100, |_| waits(3)), hangs(Stall::Log), "a core that waits for a disk that hangs");
        assert_eq!(watch(100, |at| waits((at / 1.9) as u64)), nothing, "a core that waits for a slow disk");
        assert_eq!(watch(100, |at| log((at / 0.3) as u64)), nothing, "300 ms a sync, every sync");
        assert_eq!(watch(100, |at| log((at / 1.9) as u64)), nothing, "1.9 s a sync, every sync");
        let (stalled, hung) = watch(100, |at| log((at / 10.0) as u64));
        assert_eq!((stalled, hung), (Some((2.0, Stall::Log)), None), "10 s a sync");
        assert_eq!(watch(100, |at| apply(1, (at * 1e9) as u64)), nothing, "one run of 100 s, at work");
        let full = |completed| Seen { log: Some(Pending { completed, for_room: true }), ..Seen::default() };
        let (stalled, hung) = watch(100, |_| full(3));
        assert_eq!((stalled, hung), (Some((2.0, Stall::FullDisk)), None), "a full disk");
        // The log behind the first second's write is on the disk again after five.
        let (stalled, hung) =
            watch(100, |at| if (1.0..5.0).contains(&at) { log(1) } else { Seen::default() });
        assert_eq!((stalled, hung), (Some((3.0, Stall::Log)), None));
    }

    /// Goal: a process that was stopped for a minute does not blame its disk. Method: a look that comes
    /// a minute late, and then progress, or none.
    #[test]
    fn a_pause_of_the_process_is_no_standstill() {
        let mut watchdog = Watchdog::new();
        watchdog.look(log(1), PERIOD);
        watchdog.look(log(1), Duration::from_secs(70));
        assert_eq!((watchdog.stalled_for(STALL_MAX), watchdog.hangs()), (None, None));
        watchdog.look(log(2), PERIOD);
        assert_eq!(watchdog.log.lasted, Duration::ZERO);
        (0..20).for_each(|_| watchdog.look(log(2), PERIOD));
        assert_eq!(watchdog.stalled_for(STALL_MAX), Some(Stall::Log));
    }
}
