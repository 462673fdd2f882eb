//! What alive and ready mean.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvorum_proto::admin::v1 as admin;
use tokio::time::{Instant, sleep};

use crate::place::{Overview, Positions};
use crate::raft::{Raft, WeakRaft};

/// A node is ready through an election of this length: others have no leader either, and taking all
/// of them out of service helps nobody.
const LEADERLESS_MAX: Duration = Duration::from_secs(10);

/// Entries a ready node may be behind what it knows to be committed: some seconds of full load.
const LAG_ENTRIES_MAX: u64 = 20_000;

/// With committed entries to apply and none applied for so long, the node hangs.
const STALL_MAX: Duration = Duration::from_secs(60);

/// Between two attempts to find out whether a node that was just started serves.
const FIRST_READ_PAUSE: Duration = Duration::from_millis(100);
/// How long each of them may take.
const FIRST_READ_MAX: Duration = Duration::from_secs(2);

/// Answers for a node's health; clones share what they know.
#[derive(Clone)]
pub struct Health {
    raft: Raft,
    leaving: Arc<AtomicBool>,
    /// Set once a read was answered through the leader, which is when clients can be sent here.
    serves: Arc<AtomicBool>,
    progress: Arc<Mutex<Progress>>,
}

/// A [`Health`] that does not keep the node.
#[derive(Clone)]
pub struct WeakHealth {
    raft: WeakRaft,
    leaving: Arc<AtomicBool>,
    serves: Arc<AtomicBool>,
    progress: Arc<Mutex<Progress>>,
}

impl WeakHealth {
    /// The node's health, unless it has stopped.
    pub fn upgrade(&self) -> Option<Health> {
        let WeakHealth { raft, leaving, serves, progress } = self.clone();
        Some(Health { raft: raft.upgrade().ok()?, leaving, serves, progress })
    }
}

impl Health {
    /// The same, without keeping the node.
    pub fn downgrade(&self) -> WeakHealth {
        let Health { raft, leaving, serves, progress } = self.clone();
        WeakHealth { raft: raft.downgrade(), leaving, serves, progress }
    }

    /// The health of a node, which is not ready once `leaving` is set, nor before it serves.
    pub fn new(raft: Raft, leaving: Arc<AtomicBool>) -> Health {
        let progress = Progress { applied: 0, since: Instant::now() };
        Health { raft, leaving, serves: Arc::default(), progress: Arc::new(Mutex::new(progress)) }
    }

    /// Finds out when this node, which was just started, serves: it knows the leader, reaches it, and has
    /// applied all that was committed by then. Returns then, or when the node stops.
    pub async fn watch_start(self, stop: impl Future<Output = ()>) {
        let served = async {
            while self.raft.read_barrier(Instant::now() + FIRST_READ_MAX).await.is_err() {
                sleep(FIRST_READ_PAUSE).await;
            }
            self.serves.store(true, Ordering::Relaxed);
        };
        tokio::select! {
            () = served => {}
            () = stop => {}
        }
    }

    /// The node's part in consensus.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// Whether clients should be sent here, else why not.
    pub fn ready(&self) -> Result<(), String> {
        if self.leaving.load(Ordering::Relaxed) {
            return Err("this node is shutting down".into());
        }
        if let Some(stall) = self.raft.stalled() {
            return Err(format!("{stall}; this node is not ready until that has changed"));
        }
        ready(&self.raft.overview(), self.raft.positions(), Instant::now(), || {
            self.raft.silent_voters().len()
        })?;
        if self.raft.is_closed() {
            return Err("the cluster lets no client in before it is declared what clients may do".into());
        }
        if !self.serves.load(Ordering::Relaxed) {
            return Err("this node was just started and has not caught up with the leader yet".into());
        }
        Ok(())
    }

    /// Whether the process makes progress, else what hangs.
    pub fn alive(&self) -> Result<(), String> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.alive(self.raft.positions(), Instant::now())
    }
}

fn ready(overview: &Overview, at: Positions, now: Instant, silent: impl Fn() -> usize) -> Result<(), String> {
    if let Some(reason) = &overview.status_only {
        return Err(format!("this node serves nothing but its status: {reason}"));
    }
    if overview.state == admin::State::Unjoined {
        return Err("this node has not joined a cluster yet".into());
    }
    if !overview.in_config {
        return Err("this node is no member of its cluster".into());
    }
    if let Some(since) = overview.leaderless_since
        && now.duration_since(since) > LEADERLESS_MAX
    {
        // Who may ask this is told no addresses.
        let why = match silent() {
            0 => String::new(),
            silent => format!("; {silent} other voters do not answer, and the log says which and why"),
        };
        return Err(format!("no leader for {} s{why}", now.duration_since(since).as_secs()));
    }
    let behind = at.committed.saturating_sub(at.applied);
    if behind > LAG_ENTRIES_MAX {
        return Err(format!("{behind} committed entries are still to be applied"));
    }
    Ok(())
}

/// How far the last look found the node.
struct Progress {
    applied: u64,
    since: Instant,
}

impl Progress {
    fn alive(&mut self, at: Positions, now: Instant) -> Result<(), String> {
        if at.applied != self.applied || at.applied >= at.committed {
            *self = Progress { applied: at.applied, since: now };
        }
        let stalled = now.duration_since(self.since);
        if stalled > STALL_MAX {
            return Err(format!(
                "nothing was applied for {} s, though entry {} is committed and only {} is applied",
                stalled.as_secs(),
                at.committed,
                at.applied
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::place::StatusOnly;

    use super::*;

    fn overview() -> Overview {
        Overview {
            state: admin::State::Follower,
            in_config: true,
            leaderless_since: None,
            ..Overview::unjoined(1)
        }
    }

    fn at(applied: u64, committed: u64) -> Positions {
        Positions { applied, committed, last_log: committed }
    }

    /// Goal: a load balancer sends clients only where they are served, and keeps sending them
    /// through an election. Method: a table of places in the cluster.
    #[test]
    fn ready_means_a_member_that_is_not_far_behind() {
        let now = Instant::now();
        let ready = |overview: &Overview, at, now| ready(overview, at, now, || 2);
        assert_eq!(ready(&overview(), at(7, 7), now), Ok(()));
        assert_eq!(ready(&overview(), at(7, 7 + LAG_ENTRIES_MAX), now), Ok(()));
        assert!(ready(&overview(), at(7, 8 + LAG_ENTRIES_MAX), now).is_err());
        assert!(ready(&Overview::unjoined(1), at(0, 0), now).is_err());
        let reason = Some(StatusOnly::OldIncarnation { found: 1, wanted: 2 });
        let aside = ready(&Overview { status_only: reason, ..overview() }, at(7, 7), now);
        assert!(aside.is_err_and(|reason| reason.contains("--incarnation-min")));
        assert!(ready(&Overview { in_config: false, ..overview() }, at(7, 7), now).is_err());
        let electing = Overview { leaderless_since: Some(now), ..overview() };
        assert_eq!(ready(&electing, at(7, 7), now + LEADERLESS_MAX), Ok(()));
        let error = ready(&electing, at(7, 7), now + LEADERLESS_MAX + Duration::from_secs(1));
        assert_eq!(
            error,
            Err("no leader for 11 s; 2 other voters do not answer, and the log says which and why".into())
        );
    }

    /// Goal: only a node that hangs is killed: not an idle one, not one that is slow.
    #[test]
    fn alive_means_that_something_moves_or_nothing_has_to() {
        let begun = Instant::now();
        let late = begun + STALL_MAX * 2;
        let mut progress = Progress { applied: 5, since: begun };
        assert_eq!(progress.alive(at(5, 5), late), Ok(()), "idle");
        assert_eq!(progress.alive(at(5, 9), late + STALL_MAX), Ok(()), "just at the limit");
        assert!(progress.alive(at(5, 9), late + STALL_MAX * 2).is_err(), "stuck");
        assert_eq!(progress.alive(at(6, 9), late + STALL_MAX * 2), Ok(()), "slow");
    }
}
