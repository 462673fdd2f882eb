//! Which cluster may follow the operator's own image and template: one at a time, and none while any
//! other is not as wanted.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// After a start, every cluster is looked at before one may follow: another may be half-way.
const FIRST_LOOKS: Duration = Duration::from_secs(30);

/// A cluster's namespace and name.
pub type Key = (String, String);

/// See the module.
#[derive(Debug)]
pub struct Upgrades {
    since: Instant,
    holder: Option<Key>,
    unsettled: BTreeSet<Key>,
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
        Upgrades { since: now, holder: None, unsettled: BTreeSet::new() }
    }

    /// This cluster follows.
    pub fn may_follow(&self, key: &Key) -> bool {
        self.holder.as_ref() == Some(key)
    }

    /// Takes note of a look, and chooses who follows next.
    pub fn looked(&mut self, key: &Key, look: Look, now: Instant) {
        match look {
            Look::Unsettled => _ = self.unsettled.insert(key.clone()),
            Look::Settled | Look::Pending => _ = self.unsettled.remove(key),
        }
        match (&self.holder, look) {
            (Some(holder), Look::Settled) if holder == key => self.holder = None,
            (None, Look::Pending)
                if self.unsettled.is_empty() && now.duration_since(self.since) > FIRST_LOOKS =>
            {
                self.holder = Some(key.clone());
            }
            _ => {}
        }
    }

    /// The cluster is gone.
    pub fn forget(&mut self, key: &Key) {
        self.unsettled.remove(key);
        self.holder.take_if(|holder| holder == key);
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
        upgrades.looked(&key("a"), Look::Pending, begun);
        assert!(!upgrades.may_follow(&key("a")), "others may be half-way");
        upgrades.looked(&key("c"), Look::Unsettled, begun);
        upgrades.looked(&key("a"), Look::Pending, later);
        assert!(!upgrades.may_follow(&key("a")), "c is in trouble");
        upgrades.looked(&key("c"), Look::Settled, later);
        upgrades.looked(&key("a"), Look::Pending, later);
        upgrades.looked(&key("b"), Look::Pending, later);
        assert!(upgrades.may_follow(&key("a")) && !upgrades.may_follow(&key("b")));
        upgrades.looked(&key("a"), Look::Unsettled, later);
        upgrades.looked(&key("b"), Look::Pending, later);
        assert!(!upgrades.may_follow(&key("b")), "a is not done");
        upgrades.looked(&key("a"), Look::Settled, later);
        upgrades.looked(&key("b"), Look::Pending, later);
        assert!(upgrades.may_follow(&key("b")));
    }
}
