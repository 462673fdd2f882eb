//! Which cluster may follow the operator's own image and template: one at a time, and none while any other is under way.
//! The first that is not as wanted in time stops all others, since it may be the new release that is to blame. One
//! that has not begun to follow is waited for as long, and no longer: it may be broken for ever, for reasons of its own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a cluster may take to be as wanted.
const SETTLES_WITHIN: Duration = Duration::from_secs(600);

/// After a start, every cluster is looked at before one may follow: another may be half-way.
const FIRST_LOOKS: Duration = Duration::from_secs(30);

/// A cluster's namespace and name.
pub type Key = (String, String);

/// See the module.
#[derive(Debug)]
pub struct Upgrades {
    since: Instant,
    /// Who follows, and since when.
    holder: Option<(Key, Instant)>,
    /// Clusters that are not as wanted, since when.
    unsettled: BTreeMap<Key, Instant>,
}

/// What a look at a cluster showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// All is as wanted, and as this operator makes it.
    Settled,
    /// All is as wanted, and this operator would make pods otherwise.
    Pending,
    /// Something is under way, or broken.
    Unsettled,
}

impl Upgrades {
    /// None may follow yet.
    pub fn new(now: Instant) -> Upgrades {
        Upgrades { since: now, holder: None, unsettled: BTreeMap::new() }
    }

    /// This cluster follows.
    pub fn may_follow(&self, key: &Key) -> bool {
        self.holder.as_ref().is_some_and(|(holder, _)| holder == key)
    }

    /// Who follows and should have been as wanted by now.
    pub fn stopped_at(&self, now: Instant) -> Option<&Key> {
        let (holder, since) = self.holder.as_ref()?;
        (now.duration_since(*since) >= SETTLES_WITHIN).then_some(holder)
    }

    /// Takes note of a look, and chooses who follows next. `begun`: it is on record that it follows, whichever operator
    /// began that.
    pub fn looked(&mut self, key: &Key, look: Look, begun: bool, now: Instant) {
        match look {
            Look::Unsettled => _ = self.unsettled.entry(key.clone()).or_insert(now),
            Look::Settled | Look::Pending => _ = self.unsettled.remove(key),
        }
        let waited_for = |since: &Instant| now.duration_since(*since) < SETTLES_WITHIN;
        match (&self.holder, look) {
            (Some((holder, _)), Look::Settled) if holder == key => self.holder = None,
            (None, Look::Unsettled | Look::Pending) if begun => self.holder = Some((key.clone(), now)),
            (None, Look::Pending)
                if !self.unsettled.values().any(waited_for)
                    && now.duration_since(self.since) > FIRST_LOOKS =>
            {
                self.holder = Some((key.clone(), now));
            }
            _ => {}
        }
    }

    /// The cluster is gone.
    pub fn forget(&mut self, key: &Key) {
        self.unsettled.remove(key);
        self.holder.take_if(|(holder, _)| holder == key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: never two at once, and a cluster in trouble stops the rest.
    #[test]
    fn one_cluster_follows_at_a_time() {
        let key = |name: &str| ("default".to_owned(), name.to_owned());
        let begun = Instant::now();
        let later = begun + FIRST_LOOKS * 2;
        let mut upgrades = Upgrades::new(begun);
        upgrades.looked(&key("a"), Look::Pending, false, begun);
        assert!(!upgrades.may_follow(&key("a")), "others may be half-way");
        upgrades.looked(&key("c"), Look::Unsettled, false, begun);
        upgrades.looked(&key("a"), Look::Pending, false, later);
        assert!(!upgrades.may_follow(&key("a")), "c is in trouble");
        upgrades.looked(&key("c"), Look::Settled, false, later);
        upgrades.looked(&key("a"), Look::Pending, false, later);
        upgrades.looked(&key("b"), Look::Pending, false, later);
        assert!(upgrades.may_follow(&key("a")) && !upgrades.may_follow(&key("b")));
        upgrades.looked(&key("a"), Look::Unsettled, false, later);
        upgrades.looked(&key("b"), Look::Pending, false, later);
        assert!(!upgrades.may_follow(&key("b")), "a is not done");
        upgrades.looked(&key("a"), Look::Settled, false, later);
        upgrades.looked(&key("b"), Look::Pending, false, later);
        assert!(upgrades.may_follow(&key("b")));
    }

    /// Goal: a cluster that is broken for reasons of its own stops nobody for ever; one that broke while it followed
    /// does, also for an operator that was started anew.
    #[test]
    fn only_whoever_follows_stops_the_rest() {
        let key = |name: &str| ("default".to_owned(), name.to_owned());
        let begun = Instant::now();
        let after = |times: u32| begun + FIRST_LOOKS * 2 + SETTLES_WITHIN * times;
        let mut upgrades = Upgrades::new(begun);
        upgrades.looked(&key("broken"), Look::Unsettled, false, begun);
        upgrades.looked(&key("a"), Look::Pending, false, after(0));
        assert!(!upgrades.may_follow(&key("a")), "it may be under way");
        upgrades.looked(&key("broken"), Look::Unsettled, false, after(1));
        upgrades.looked(&key("a"), Look::Pending, false, after(1));
        assert!(upgrades.may_follow(&key("a")));
        upgrades.looked(&key("a"), Look::Unsettled, true, after(1));
        assert_eq!(upgrades.stopped_at(after(1)), None);
        upgrades.looked(&key("a"), Look::Unsettled, true, after(9));
        upgrades.looked(&key("b"), Look::Pending, false, after(9));
        assert!(!upgrades.may_follow(&key("b")), "the new release may be to blame");
        assert_eq!(upgrades.stopped_at(after(9)), Some(&key("a")));
        let mut anew = Upgrades::new(after(9));
        anew.looked(&key("b"), Look::Pending, false, after(9));
        anew.looked(&key("a"), Look::Unsettled, true, after(9));
        anew.looked(&key("b"), Look::Pending, false, after(11));
        assert!(!anew.may_follow(&key("b")) && anew.may_follow(&key("a")));
    }
}
