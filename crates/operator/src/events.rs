//! Events by which people are told what is done with a KvCluster.
//!
//! A recorder of kube's counts events of one reason as one, with the text of the first, whatever the others say: where
//! members are added in turn, people would read of the first alone, and of a wait what was waited for at its beginning. So a
//! text that is new has another recorder, which has seen nothing yet.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::upgrade::Key;

/// So many texts of a reason have an event of their own within [`PERIOD`]. What is said beyond that counts as the last of
/// them: a text with a number in it that changes at each look makes no event at each look.
const TEXTS_MAX: u32 = 20;
/// As long as a recorder counts on.
const PERIOD: Duration = Duration::from_secs(360);

/// What was said last, by cluster and reason; `R` is a recorder.
#[derive(Debug)]
pub struct Events<R> {
    said: BTreeMap<(Key, String), Said<R>>,
}

#[derive(Debug)]
struct Said<R> {
    text: String,
    recorder: R,
    /// When the first of `count` texts was said.
    since: Instant,
    count: u32,
}

impl<R> Default for Events<R> {
    fn default() -> Events<R> {
        Events { said: BTreeMap::new() }
    }
}

impl<R: Clone> Events<R> {
    /// The recorder for this text: the one of before where that has said the same, and otherwise a new one.
    pub fn recorder(
        &mut self,
        cluster: &Key,
        reason: &str,
        text: &str,
        now: Instant,
        new: impl FnOnce() -> R,
    ) -> R {
        let key = (cluster.clone(), reason.to_owned());
        let before = self.said.remove(&key);
        let lasts = before.as_ref().is_some_and(|said| now.duration_since(said.since) < PERIOD);
        let (since, count) = match &before {
            Some(said) if lasts => (said.since, said.count),
            _ => (now, 0),
        };
        let said = match before {
            Some(said) if said.text == text || count >= TEXTS_MAX => Said { since, count, ..said },
            _ => Said { text: text.to_owned(), recorder: new(), since, count: count + 1 },
        };
        self.said.entry(key).insert_entry(said).get().recorder.clone()
    }

    /// The cluster is gone.
    pub fn forget(&mut self, cluster: &Key) {
        self.said.retain(|(of, _), _| of != cluster);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        ("default".into(), name.into())
    }

    /// Goal: people read each text, and what is said again and again is counted. Method: which recorder has which text.
    #[test]
    fn each_text_has_an_event_of_its_own() {
        let (mut events, now, mut made) = (Events::default(), Instant::now(), 0);
        let mut recorder = |cluster: &str, reason: &str, text: &str| {
            events.recorder(&key(cluster), reason, text, now, || {
                made += 1;
                made
            })
        };
        assert_eq!(recorder("demo", "AddLearner", "demo-1"), 1);
        assert_eq!(recorder("demo", "Wait", "for the certificates"), 2);
        assert_eq!(recorder("demo", "AddLearner", "demo-1"), 1, "it is counted");
        assert_eq!(recorder("demo", "AddLearner", "demo-2"), 3);
        assert_eq!(recorder("demo", "Wait", "for the certificates"), 2, "each reason by itself");
        assert_eq!(recorder("other", "Wait", "for the certificates"), 4, "each cluster by itself");
        events.forget(&key("demo"));
        assert_eq!(events.said.len(), 1);
    }

    /// Goal: a text that changes at each look floods no namespace, and is told of later all the same. Method: a number that
    /// counts, a look a second.
    #[test]
    fn a_text_that_changes_at_each_look_is_no_flood() {
        let (mut events, begun, mut made) = (Events::default(), Instant::now(), 0);
        for second in 0..3600 {
            let now = begun + Duration::from_secs(second);
            events.recorder(&key("demo"), "Wait", &second.to_string(), now, || made += 1);
        }
        assert_eq!(made, 10 * TEXTS_MAX);
        assert_eq!(events.said.len(), 1);
    }
}
