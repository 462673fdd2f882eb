//! Cluster time on this node: the leader's, as far as this node has heard of it, and what has passed since.
//!
//! Only the monotonic clock is read, so a clock that jumps changes nothing. Keys expire by the time of
//! whoever leads, so what must hold is this: a member that becomes leader is not ahead of the one before,
//! or keys end early, and not far behind it, or they end late.
//!
//! - The leader says its time with everything that it appends. It is more by the time that a follower hears
//!   of it, so a follower that goes on from there is behind by the time the message took, and never ahead. It
//!   takes the quickest of the messages of the last moments: one that waited behind large entries says little.
//!   Older ones are forgotten, since two clocks do not run at the same speed.
//! - A new leader is followed from its first word on, also backwards: a member that led ahead of it must not
//!   be ahead of it when it leads again. No member goes back behind a stamp that it has applied.
//! - A stamp that was applied is a time that a leader had, so that no member is behind it. That is also all
//!   that is heard of a leader of a release which does not say its time: of such a one the first stamp is
//!   taken literally, and of the later ones those that are ahead. Were every stamp taken over, time would
//!   stand still for as long as each write takes to commit, and under load that is most of the time.
//! - A leader's own time goes on from where it was as a follower. Stamps that it has yet to apply when it is
//!   elected move it forward, like those of any other member.
//!
//! - Voters say with their answers what time they have, and of which leader. A member that was down, and is
//!   elected before it has heard of any leader, goes on from there: a majority that elects it has a member in
//!   the one that acknowledged the last leader's first entry, and heard of its time with that. The last
//!   leader's time counts, backwards too, and of those who followed it the one that is furthest: none of them
//!   is ahead of it.
//!
//! So a member that was down is behind by that time only where nobody leads and no other voter has heard of a
//! leader either, as when all of them were down.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// For how long the quickest message counts, up to twice: longer than several heartbeats take, and short
/// enough that clocks which differ by a thousandth part by less than a few milliseconds.
const WINDOW: Duration = Duration::from_secs(1);

/// Cluster time on this node.
pub struct ClusterClock {
    epoch: Instant,
    time: Mutex<Time>,
}

impl ClusterClock {
    /// Starts at the stamp the store has applied, in milliseconds.
    pub fn new(stamp_ms: u64) -> Self {
        ClusterClock { epoch: Instant::now(), time: Mutex::new(Time::new(stamp_ms, Duration::ZERO)) }
    }

    /// Takes note of the time, in milliseconds, that the leader of a term says that it has.
    pub fn heard(&self, term: u64, leader_ms: u64) {
        self.time().heard(term, leader_ms, self.epoch.elapsed());
    }

    /// Takes note of the time, in milliseconds, that another member says it has of the leader of a term.
    pub fn relayed(&self, term: u64, leader_ms: u64) {
        self.time().relayed(term, leader_ms, self.epoch.elapsed());
    }

    /// The term of the leader whose time this is, and cluster time now, in milliseconds.
    pub fn known(&self) -> (u64, u64) {
        let time = self.time();
        (time.authority(), time.now_ms(self.epoch.elapsed()))
    }

    /// Takes note that this node leads in a term: it follows nobody's time any more.
    pub fn leads(&self, term: u64) {
        self.time().leads(term);
    }

    /// Takes note of what was just applied: the store's time in milliseconds, and the term of the last
    /// entry that had a stamp, if there was one.
    pub fn applied(&self, term: Option<u64>, stamp_ms: u64) {
        self.time().applied(term, stamp_ms, self.epoch.elapsed());
    }

    /// Cluster time now, in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.time().now_ms(self.epoch.elapsed())
    }

    /// A panic while the lock was held has left a time that some leader had.
    fn time(&self) -> MutexGuard<'_, Time> {
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A member's idea of cluster time, as a function of what it hears and of its monotonic clock.
#[derive(Clone, Debug)]
struct Time {
    /// The last term whose leader's time was taken.
    term: u64,
    /// The last term in which this node led itself.
    led: u64,
    /// The last stamp that was applied: time never goes back behind it.
    floor_ms: u64,
    /// The time at a moment of the monotonic clock.
    base_ms: u64,
    base_at: Duration,
    /// What was heard of the present leader.
    window: Option<Window>,
}

/// What was heard lately: the quickest messages of this window and of the one before.
#[derive(Clone, Copy, Debug)]
struct Window {
    begun: Duration,
    last: Duration,
    best: Heard,
    before: Option<Heard>,
}

/// The leader had this time or more at a moment of this node's clock.
#[derive(Clone, Copy, Debug)]
struct Heard {
    leader_ms: u64,
    at: Duration,
}

impl Heard {
    fn now_ms(self, now: Duration) -> u64 {
        self.leader_ms.saturating_add(now.saturating_sub(self.at).as_millis() as u64)
    }

    fn quicker(self, other: Heard, now: Duration) -> Heard {
        if other.now_ms(now) > self.now_ms(now) { other } else { self }
    }
}

impl Window {
    fn new(heard: Heard) -> Window {
        Window { begun: heard.at, last: heard.at, best: heard, before: None }
    }

    /// What is heard after a silence stands alone.
    fn hear(self, heard: Heard) -> Window {
        let now = heard.at;
        if now.saturating_sub(self.last) >= WINDOW {
            Window::new(heard)
        } else if now.saturating_sub(self.begun) >= WINDOW {
            Window { before: Some(self.best), ..Window::new(heard) }
        } else {
            Window { last: now, best: self.best.quicker(heard, now), ..self }
        }
    }

    fn now_ms(&self, now: Duration) -> u64 {
        self.before.map_or(self.best, |before| self.best.quicker(before, now)).now_ms(now)
    }
}

impl Time {
    fn new(stamp_ms: u64, now: Duration) -> Time {
        Time { term: 0, led: 0, floor_ms: stamp_ms, base_ms: stamp_ms, base_at: now, window: None }
    }

    fn now_ms(&self, now: Duration) -> u64 {
        self.base_ms.saturating_add(now.saturating_sub(self.base_at).as_millis() as u64)
    }

    fn heard(&mut self, term: u64, leader_ms: u64, now: Duration) {
        // One of an earlier term leads no more.
        if term < self.authority() {
            return;
        }
        let heard = Heard { leader_ms, at: now };
        let window = self.window.filter(|_| term == self.term);
        let window = window.map_or_else(|| Window::new(heard), |window| window.hear(heard));
        self.term = term;
        self.window = Some(window);
        self.set(window.now_ms(now), now);
    }

    /// The last term whose leader's time this goes on from.
    fn authority(&self) -> u64 {
        self.term.max(self.led)
    }

    fn relayed(&mut self, term: u64, leader_ms: u64, now: Duration) {
        if term > self.authority() {
            self.term = term;
            self.window = None;
            self.set(leader_ms, now);
        } else if term == self.authority() && leader_ms > self.now_ms(now) {
            self.set(leader_ms, now);
        }
    }

    fn leads(&mut self, term: u64) {
        self.led = self.led.max(term);
        self.window = None;
    }

    fn applied(&mut self, term: Option<u64>, stamp_ms: u64, now: Duration) {
        self.floor_ms = self.floor_ms.max(stamp_ms);
        // What a leader has yet to apply of those before it says nothing of its own time, which it has told others.
        let news = term.filter(|term| *term > self.authority());
        if let Some(term) = news {
            self.term = term;
            self.window = None;
        }
        if news.is_some() || stamp_ms > self.now_ms(now) {
            self.set(stamp_ms, now);
        }
    }

    fn set(&mut self, time_ms: u64, now: Duration) {
        (self.base_ms, self.base_at) = (time_ms.max(self.floor_ms), now);
    }
}

#[cfg(test)]
mod tests;
