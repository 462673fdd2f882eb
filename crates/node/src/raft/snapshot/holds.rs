//! What of the log must stay because a member that gets a snapshot will need it.
//!
//! A snapshot takes a while to be sent, verified and installed, and meanwhile the log grows. Were it
//! purged beyond the snapshot's position, the receiver would need another snapshot at once, and so on for
//! as long as the load lasts. So the entries behind a snapshot are held from before its checkpoint is
//! made, until the receiver has them; `housekeeping` purges none of them while the disk has room.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A member that has installed its snapshot, and takes nothing of the log for so long, is held for no
/// more: it is gone, or stands still. Opening a large state is well within it.
const STANDSTILL_MAX: Duration = Duration::from_secs(60);

/// Holds on the log; clones share them.
#[derive(Clone, Debug, Default)]
pub struct LogHolds(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next_number: u64,
    /// Snapshots that are made or sent, by number: the index of each. They end by themselves: see `snapshot`.
    transfers: BTreeMap<u64, u64>,
    /// Members that have installed a snapshot and catch up by the log.
    catching_up: BTreeMap<u64, CatchingUp>,
}

#[derive(Debug)]
struct CatchingUp {
    /// The last entry that the member is known to have.
    index: u64,
    /// Since when.
    since: Instant,
}

/// Holds the log behind one snapshot. Dropped, it lets go.
#[derive(Debug)]
pub struct Hold {
    holds: LogHolds,
    number: u64,
}

impl LogHolds {
    /// Holds the entries behind `index` for a snapshot that is to be made now.
    pub fn hold(&self, index: u64) -> Hold {
        let mut table = self.lock();
        let number = table.next_number;
        table.next_number += 1;
        table.transfers.insert(number, index);
        Hold { holds: self.clone(), number }
    }

    /// The last index up to which the log may be purged; `None`: nobody needs any of it.
    pub fn purge_max(&self) -> Option<u64> {
        let table = self.lock();
        let transfers = table.transfers.values().copied();
        transfers.chain(table.catching_up.values().map(|member| member.index)).min()
    }

    /// Looks at how far the members have come: `matched` has the last index of each, and is absent where
    /// this node does not lead. Who has the log up to `near`, has caught up.
    pub fn follow(&self, now: Instant, matched: Option<&BTreeMap<u64, u64>>, near: u64) {
        let mut table = self.lock();
        let Some(matched) = matched else {
            table.catching_up.clear();
            return;
        };
        table.catching_up.retain(|node_id, member| {
            // Who is no member any more needs nothing.
            let Some(index) = matched.get(node_id) else { return false };
            if *index > member.index {
                *member = CatchingUp { index: *index, since: now };
            }
            member.index < near && now.duration_since(member.since) < STANDSTILL_MAX
        });
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // A panic while the lock was held has left one hold more or less.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    /// The snapshot was made, at `index`, which is not before the one that was held.
    pub fn made_at(&self, index: u64) {
        let mut table = self.holds.lock();
        if let Some(held) = table.transfers.get_mut(&self.number) {
            *held = index.max(*held);
        }
    }

    /// The snapshot was installed by this member, which from now on catches up by the log.
    pub fn installed_by(self, node_id: u64, now: Instant) {
        let mut table = self.holds.lock();
        if let Some(index) = table.transfers.get(&self.number).copied() {
            table.catching_up.insert(node_id, CatchingUp { index, since: now });
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.lock().transfers.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    //! Goal: nothing is purged that a receiver of a snapshot will need, and a receiver that is gone, or
    //! stands still, holds nothing up. Method: the steps of a transfer, with a time that is told.
    use super::*;

    fn matched<const N: usize>(members: [(u64, u64); N]) -> BTreeMap<u64, u64> {
        members.into()
    }

    #[test]
    fn a_transfer_holds_the_log_until_the_receiver_has_caught_up() {
        let (holds, begun) = (LogHolds::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(holds.purge_max(), None);
        let hold = holds.hold(90);
        assert_eq!(holds.purge_max(), Some(90), "from before the checkpoint is made");
        hold.made_at(100);
        holds.follow(at(500), Some(&matched([(2, 0)])), 900);
        assert_eq!(holds.purge_max(), Some(100), "however long it takes to be sent");
        hold.installed_by(2, at(500));
        // The leader may not have heard yet how far the receiver is.
        holds.follow(at(501), Some(&matched([(2, 0)])), 900);
        assert_eq!(holds.purge_max(), Some(100));
        for step in 1..8 {
            holds.follow(at(501 + 50 * step), Some(&matched([(2, 100 + 100 * step)])), 900);
            assert_eq!(holds.purge_max(), Some(100 + 100 * step));
        }
        holds.follow(at(902), Some(&matched([(2, 900)])), 900);
        assert_eq!(holds.purge_max(), None, "it has caught up");
    }

    #[test]
    fn several_receivers_hold_what_the_last_of_them_needs() {
        let (holds, now) = (LogHolds::default(), Instant::now());
        let (first, second) = (holds.hold(100), holds.hold(200));
        assert_eq!(holds.purge_max(), Some(100));
        first.installed_by(2, now);
        holds.follow(now, Some(&matched([(2, 300), (3, 0)])), 900);
        assert_eq!(holds.purge_max(), Some(200));
        drop(second);
        assert_eq!(holds.purge_max(), Some(300), "a transfer that failed holds nothing");
    }

    #[test]
    fn who_is_gone_or_stands_still_holds_nothing() {
        let (holds, begun) = (LogHolds::default(), Instant::now());
        let installed = |node_id| holds.hold(100).installed_by(node_id, begun);
        installed(2);
        let still = matched([(2, 100)]);
        holds.follow(begun + STANDSTILL_MAX - Duration::from_secs(1), Some(&still), 900);
        assert_eq!(holds.purge_max(), Some(100));
        holds.follow(begun + STANDSTILL_MAX, Some(&still), 900);
        assert_eq!(holds.purge_max(), None, "it stands still");
        installed(2);
        holds.follow(begun, Some(&matched([(3, 100)])), 900);
        assert_eq!(holds.purge_max(), None, "it is no member any more");
        installed(2);
        holds.follow(begun, None, 900);
        assert_eq!(holds.purge_max(), None, "another node leads");
    }
}
