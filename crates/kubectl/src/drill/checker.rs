//! Writers with keys of their own, which check that what was acknowledged stays, and measure for how long nothing is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use kvorum_client::{Client, KeyRange};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Each writer goes round so many keys.
const KEYS: u64 = 32;
/// Between two writes of one writer: the drill is no load test.
const PAUSE: Duration = Duration::from_millis(5);
/// How long the last calls may take after the end.
const END_MAX: Duration = Duration::from_secs(30);

/// What was found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Writes that were acknowledged.
    pub(super) acknowledged: u64,
    /// Writes of which nobody knows whether they took place.
    pub(super) unknown: u64,
    /// Writes that failed.
    pub(super) failed: u64,
    /// Broken promises: what was read, and what should have been.
    pub(super) broken: Vec<String>,
}

/// Writers at work, one for each way into the cluster.
pub(super) struct Checker {
    prefix: String,
    pace: Arc<Mutex<Pace>>,
    stop: watch::Sender<bool>,
    writers: Vec<JoinHandle<Writer>>,
    reader: Client,
}

impl Checker {
    /// Begins. Keys begin with the prefix.
    pub(super) fn start(prefix: String, clients: Vec<Client>, reader: Client) -> Checker {
        let pace = Arc::new(Mutex::new(Pace::new(Instant::now())));
        let (stop, stopped) = watch::channel(false);
        let writers = clients.into_iter().enumerate().map(|(i, client)| {
            let writer = Writer { prefix: format!("{prefix}{i}/"), ..Writer::default() };
            tokio::spawn(writer.run(client, Arc::clone(&pace), stopped.clone()))
        });
        let writers = writers.collect();
        Checker { prefix, pace, stop, writers, reader }
    }

    /// Forgets how long writes were interrupted before.
    pub(super) fn begin(&self) {
        locked(&self.pace).begin(Instant::now());
    }

    /// The longest time without an acknowledgement since then.
    pub(super) fn interruption(&self) -> Duration {
        locked(&self.pace).longest(Instant::now())
    }

    /// Ends, reads everything, and takes the keys away again.
    pub(super) async fn finish(self) -> Result<Found, kvorum_client::Error> {
        let _ = self.stop.send(true);
        let mut found = Found::default();
        for writer in self.writers {
            match tokio::time::timeout(END_MAX, writer).await {
                Ok(Ok(writer)) => writer.check(&self.reader, &mut found).await?,
                Ok(Err(_)) | Err(_) => found.broken.push("a writer has not come to its end".into()),
            }
        }
        self.reader.delete_range(KeyRange::prefix(self.prefix)).await?;
        Ok(found)
    }
}

/// When writes were acknowledged, whoever wrote.
struct Pace {
    last: Instant,
    longest: Duration,
}

impl Pace {
    fn new(now: Instant) -> Pace {
        Pace { last: now, longest: Duration::ZERO }
    }

    fn begin(&mut self, now: Instant) {
        *self = Pace::new(now);
    }

    fn acknowledged(&mut self, now: Instant) {
        self.longest = self.longest(now);
        self.last = now;
    }

    fn longest(&self, now: Instant) -> Duration {
        self.longest.max(now.saturating_duration_since(self.last))
    }
}

fn locked(pace: &Mutex<Pace>) -> MutexGuard<'_, Pace> {
    pace.lock().expect("no thread panics while it holds this lock")
}

/// What one writer knows of its keys.
#[derive(Default)]
struct Writer {
    prefix: String,
    slots: BTreeMap<u64, Slot>,
    found: Found,
}

/// What was written last to a key.
#[derive(Debug, Default, Clone, Copy)]
struct Slot {
    /// Acknowledged.
    sure: u64,
    /// At most that: it may have taken place.
    tried: u64,
}

impl Slot {
    /// A value that a reader may find.
    fn allows(self, value: u64) -> bool {
        (self.sure..=self.tried.max(self.sure)).contains(&value)
    }
}

impl Writer {
    async fn run(mut self, client: Client, pace: Arc<Mutex<Pace>>, stop: watch::Receiver<bool>) -> Writer {
        let mut value = 0;
        while !*stop.borrow() {
            value += 1;
            let slot = self.slots.entry(value % KEYS).or_default();
            slot.tried = value;
            let key = format!("{}{}", self.prefix, value % KEYS);
            match client.set(key, value.to_string()).await {
                Ok(_) => {
                    slot.sure = value;
                    self.found.acknowledged += 1;
                    locked(&pace).acknowledged(Instant::now());
                }
                Err(kvorum_client::Error::OutcomeUnknown { .. }) => self.found.unknown += 1,
                Err(_) => self.found.failed += 1,
            }
            tokio::time::sleep(PAUSE).await;
        }
        self
    }

    async fn check(self, client: &Client, found: &mut Found) -> Result<(), kvorum_client::Error> {
        found.acknowledged += self.found.acknowledged;
        found.unknown += self.found.unknown;
        found.failed += self.found.failed;
        for (slot, expected) in self.slots {
            let key = format!("{}{slot}", self.prefix);
            let kv = client.get(key.clone()).await?.kv;
            let value =
                kv.and_then(|kv| std::str::from_utf8(&kv.value).ok()?.parse().ok()).unwrap_or_default();
            if !expected.allows(value) {
                found.broken.push(format!("{key} has {value}, though {} was acknowledged", expected.sure));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: an interruption that still lasts counts, and one from before a fault does not.
    #[test]
    fn the_longest_silence_is_measured() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut pace = Pace::new(begun);
        pace.acknowledged(at(500));
        pace.begin(at(510));
        pace.acknowledged(at(520));
        pace.acknowledged(at(720));
        pace.acknowledged(at(730));
        assert_eq!(pace.longest(at(731)), Duration::from_millis(200));
        assert_eq!(pace.longest(at(1_730)), Duration::from_millis(1_000), "it lasts");
    }

    /// Goal: a write that was acknowledged and is gone is found; one of unknown outcome may be either.
    #[test]
    fn what_was_acknowledged_must_be_there() {
        let slot = Slot { sure: 3, tried: 35 };
        assert!(slot.allows(3) && slot.allows(35));
        assert!(!slot.allows(0) && !slot.allows(2) && !slot.allows(36));
    }
}
