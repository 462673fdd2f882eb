//! Whether this node is in touch with those it needs: a follower with its leader, a leader with a majority.
//!
//! openraft goes on naming the leader it knows, and goes on leading, for as long as no later term turns up. On a
//! member that is cut off none ever does, since pre-votes raise no term; and a member that was removed is not even
//! told of it. Such a one must not say that it is ready, nor that it knows the leader; and a leader that hears from
//! no majority takes no writes of which nobody could say what becomes of them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::metrics::RaftServerMetrics;
use openraft::{Instant as _, ServerState};
use tokio::time::Instant;

use super::types::TypeConfig;
use super::{OpenRaft, RaftOptions};

/// Election timeouts without a word after which this node is out of touch: by then a follower stands for election, and
/// the others may have elected another leader.
const TIMEOUTS: u32 = 2;

/// What this node has heard of its leader, and since when it leads itself.
#[derive(Debug, Default)]
pub struct Contact(Mutex<Known>);

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The last term of which a leader's message came, whose it was, and when the last one came.
    leader: Option<(u64, u64, Instant)>,
    /// The last term in which this node led, and since when.
    led: Option<(u64, Instant)>,
    /// What was found at the last look.
    out_of_touch: bool,
}

/// What is to be known of this node to tell whether it is in touch.
#[derive(Clone, Copy, Debug)]
struct Place {
    term: u64,
    leads: bool,
    /// It votes, and nobody else does.
    alone: bool,
    /// When the last message was sent that a majority has acknowledged.
    acknowledged: Option<Instant>,
}

impl Contact {
    /// Takes note of a leader's message. Who was heard of first in a term leads it. Answers whether that is news: this
    /// node was out of touch before.
    pub fn heard(&self, term: u64, node_id: u64, now: Instant) -> bool {
        let mut known = self.lock();
        match &mut known.leader {
            Some((before, _, _)) if *before > term => return false,
            Some((before, leader, at)) if *before == term => {
                if *leader == node_id {
                    *at = now;
                }
            }
            leader => *leader = Some((term, node_id, now)),
        }
        known.out_of_touch
    }

    /// The last term of which a leader's message came, and whose it was.
    pub fn leader(&self) -> Option<(u64, u64)> {
        self.lock().leader.map(|(term, node_id, _)| (term, node_id))
    }

    /// Since when this node is out of touch, if it is.
    pub fn lost_since(
        &self,
        raft: &OpenRaft,
        server: &RaftServerMetrics<TypeConfig>,
        options: &RaftOptions,
        now: Instant,
    ) -> Option<Instant> {
        let acknowledged = raft.data_metrics().borrow_watched().last_quorum_acked;
        let mut voters = server.membership_config.membership().voter_ids();
        let place = Place {
            term: server.vote.leader_id.term,
            leads: server.state == ServerState::Leader,
            alone: voters.next() == Some(server.id) && voters.next().is_none(),
            acknowledged: acknowledged.and_then(|at| now.checked_sub(at.into_inner().elapsed())),
        };
        self.look(place, Duration::from_millis(options.election_timeout_ms) * TIMEOUTS, now)
    }

    /// What the last look has found.
    pub fn was_lost(&self) -> bool {
        self.lock().out_of_touch
    }

    fn look(&self, place: Place, silence_max: Duration, now: Instant) -> Option<Instant> {
        let mut known = self.lock();
        let last = match place {
            Place { leads: true, alone: true, .. } => now,
            Place { leads: true, term, acknowledged, .. } => {
                if known.led.is_none_or(|(led, _)| led != term) {
                    known.led = Some((term, now));
                }
                let led = known.led.map_or(now, |(_, since)| since);
                acknowledged.map_or(led, |acknowledged| acknowledged.max(led))
            }
            Place { term, .. } => match known.leader {
                Some((heard, _, at)) if heard == term => at,
                // It may know the leader from before it was started; nothing was heard of it.
                _ => {
                    known.out_of_touch = true;
                    return Some(now);
                }
            },
        };
        known.out_of_touch = now.saturating_duration_since(last) > silence_max;
        known.out_of_touch.then_some(last)
    }

    /// A panic while the lock was held has left what it guards whole: it is only ever replaced.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE_MAX: Duration = Duration::from_secs(2);

    fn follower(term: u64) -> Place {
        Place { term, leads: false, alone: false, acknowledged: None }
    }

    /// Goal: a follower is in touch while it hears of the leader of its term. Method: messages and looks at moments.
    #[test]
    fn a_follower_is_in_touch_with_its_leader() {
        let (contact, start) = (Contact::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let lost = |term, ms| contact.look(follower(term), SILENCE_MAX, at(ms));
        assert_eq!(lost(3, 0), Some(at(0)), "it was just started");
        assert!(contact.heard(3, 1, at(10)), "it was out of touch");
        assert_eq!(lost(3, 10), None);
        assert!(!contact.heard(3, 1, at(1000)));
        assert_eq!(lost(3, 3000), None);
        assert_eq!(lost(3, 3001), Some(at(1000)), "from the last message on");
        assert_eq!(lost(4, 3001), Some(at(3001)), "nothing was heard of the leader of the new term");
        assert!(contact.heard(4, 2, at(3100)));
        assert!(
            contact.heard(3, 1, at(3150)) || lost(4, 3150).is_none(),
            "an old leader's word counts for nothing"
        );
        contact.heard(4, 9, at(9000));
        assert_eq!(
            (lost(4, 9000), contact.leader()),
            (Some(at(3100)), Some((4, 2))),
            "nor does a second leader's"
        );
    }

    /// Goal: a leader is in touch while a majority answers it. Method: the same.
    #[test]
    fn a_leader_is_in_touch_with_a_majority() {
        let (contact, start) = (Contact::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let leader = |acknowledged| Place { term: 3, leads: true, alone: false, acknowledged };
        let lost = |place, ms| contact.look(place, SILENCE_MAX, at(ms));
        assert_eq!(lost(leader(None), 1000), None, "it was just elected");
        assert_eq!(lost(leader(None), 3001), Some(at(1000)), "and nobody has answered yet");
        assert_eq!(lost(leader(Some(at(2900))), 3001), None);
        assert_eq!(lost(leader(Some(at(2900))), 4901), Some(at(2900)));
        let alone = Place { alone: true, ..leader(None) };
        assert_eq!(lost(alone, 100_000), None, "it is all there is");
    }
}
