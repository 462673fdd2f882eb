use std::time::Duration;

use kvorum_store::{Event, EventKind};
use tokio::time::timeout;

use super::*;

fn change(revision: u64, key: &'static str, value_bytes: usize) -> Arc<RevisionEvents> {
    let value = Bytes::from(vec![0; value_bytes]);
    let record = Record { key: key.into(), value, mod_revision: revision, ..Default::default() };
    let event = Event { kind: EventKind::Put, record, previous: None };
    Arc::new(RevisionEvents { revision, events: vec![event], is_cut: false })
}

/// What must come at once is waited for no longer than this.
async fn soon<T>(wait: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(5), wait).await.expect("it was not woken")
}

fn publish(hub: &WatchHub, revision: u64, key: &'static str) {
    hub.publish(vec![change(revision, key, 10)], revision);
}

fn revisions(look: Look) -> (Vec<u64>, u64) {
    match look {
        Look::Read { found, next } => (found.iter().map(|it| it.revision).collect(), next),
        other => panic!("not read: {other:?}"),
    }
}

/// Goal: the ring answers exactly what concerns a range, and says when it cannot know.
/// Method: changes of two keys, looked at from before, within and after the ring.
#[test]
fn a_look_finds_what_concerns_the_range() {
    let hub = WatchHub::new(5, 8 << 20);
    let range = KeyRange::key("a");
    assert!(matches!(hub.look(6, &range), Look::CaughtUp));
    for (revision, key) in [(6, "a"), (7, "b"), (8, "a")] {
        publish(&hub, revision, key);
    }
    assert_eq!(revisions(hub.look(6, &range)), (vec![6, 8], 9));
    assert_eq!(revisions(hub.look(7, &range)), (vec![8], 9));
    assert_eq!(revisions(hub.look(8, &KeyRange::key("b"))), (vec![], 9));
    assert!(matches!(hub.look(9, &range), Look::CaughtUp));
    assert!(matches!(hub.look(5, &range), Look::Behind), "from before the ring");
}

/// Goal: after a new history began nobody reads on across the gap as if nothing had been.
#[test]
fn a_gap_in_the_revisions_empties_the_ring() {
    let hub = WatchHub::new(5, 8 << 20);
    publish(&hub, 6, "a");
    hub.publish(Vec::new(), 6);
    assert_eq!(revisions(hub.look(6, &KeyRange::key("a"))), (vec![6], 7), "nothing new is no gap");
    hub.publish(vec![change(7, "a", 1), change(1_000_000_008, "a", 1)], 1_000_000_008);
    for from in [6, 7, 8, 1_000_000_008] {
        assert!(matches!(hub.look(from, &KeyRange::key("a")), Look::Behind), "{from}");
    }
    assert!(matches!(hub.look(1_000_000_009, &KeyRange::key("a")), Look::CaughtUp));
}

/// Goal: one look is bounded, and the next goes on without a gap.
#[test]
fn a_long_ring_is_read_in_parts() {
    let hub = WatchHub::new(0, 8 << 20);
    let last = REVISIONS_PER_READ_MAX as u64 * 2 + 1;
    hub.publish((1..=last).map(|revision| change(revision, "a", 1)).collect(), last);
    let (mut next, mut seen) = (1, Vec::new());
    while next <= last {
        let (found, after) = revisions(hub.look(next, &KeyRange::key("a")));
        assert!(found.len() <= REVISIONS_PER_READ_MAX);
        seen.extend(found);
        next = after;
    }
    assert_eq!(seen, (1..=last).collect::<Vec<_>>());
}

/// Goal: the ring's memory is bounded, and whoever falls out of it is told to read from disk.
#[test]
fn the_ring_forgets_the_oldest() {
    let mut ring = Ring::new(0, 10_000);
    for revision in 1..=100 {
        ring.extend(vec![change(revision, "a", 1_000)], revision);
        assert!(ring.bytes <= ring.bytes_max);
    }
    let range = KeyRange::key("a");
    assert!(matches!(ring.look(ring.start - 1, &range), Look::Behind));
    let (found, next) = revisions(ring.look(ring.start, &range));
    assert_eq!((found.first(), found.last(), next), (Some(&ring.start), Some(&100), 101));
    // One revision that is larger than the ring leaves it empty, and everybody reads from disk.
    ring.extend(vec![change(101, "a", 20_000)], 101);
    assert!(matches!(ring.look(101, &range), Look::Behind));
    assert!(matches!(ring.look(102, &range), Look::CaughtUp));
}

/// Goal: after a snapshot was installed nobody is served from before it.
#[test]
fn a_reset_sends_everybody_to_the_disk() {
    let hub = WatchHub::new(0, 8 << 20);
    publish(&hub, 1, "a");
    hub.reset(50);
    assert!(matches!(hub.look(1, &KeyRange::key("a")), Look::Behind));
    assert!(matches!(hub.look(51, &KeyRange::key("a")), Look::CaughtUp));
    assert_eq!(hub.revision(), 50);
}

/// Goal: a watcher wakes for what concerns it and for nothing else, knows meanwhile how far it is,
/// and misses nothing although it is woken by the first of several changes only.
/// Method: two watchers, changes of one's key, then of the other's.
#[tokio::test]
async fn watchers_wake_for_their_own_keys() {
    let hub = WatchHub::new(0, 8 << 20);
    tokio::spawn(hub.clone().dispatch());
    let a = hub.watch(KeyRange::key("a"));
    let b = hub.watch(KeyRange::prefix("b"));

    publish(&hub, 1, "a");
    publish(&hub, 2, "a");
    assert_eq!(soon(a.changed(1)).await, 1);
    assert_eq!(revisions(hub.look(1, a.range())), (vec![1, 2], 3));
    let idle = timeout(Duration::from_millis(20), b.changed(1)).await;
    assert!(idle.is_err(), "b is not concerned");
    assert_eq!(b.quiet_until(), Some(2));

    publish(&hub, 3, "b1");
    assert_eq!(soon(b.changed(1)).await, 3, "what came before was not its own");
}

/// Goal: a signal that comes for what a watcher has seen meanwhile does not take it back.
#[tokio::test]
async fn a_late_signal_does_not_repeat_events() {
    let hub = WatchHub::new(0, 8 << 20);
    let watcher = hub.watch(KeyRange::key("a"));
    publish(&hub, 1, "a");
    publish(&hub, 2, "a");
    // The watcher read both before they were dispatched.
    assert_eq!(revisions(hub.look(1, watcher.range())).1, 3);
    assert!(hub.dispatch_some());
    assert_eq!(soon(watcher.changed(3)).await, 3);
}

/// Goal: a reset, and a stop, wake watchers that nothing concerns.
#[tokio::test]
async fn a_reset_and_a_stop_wake_everybody() {
    let hub = WatchHub::new(0, 8 << 20);
    tokio::spawn(hub.clone().dispatch());
    let watcher = hub.watch(KeyRange::key("a"));
    hub.reset(50);
    let next = soon(watcher.changed(1)).await;
    assert!(matches!(hub.look(next, watcher.range()), Look::Behind), "the gap has to be read from disk");
    hub.stop();
    assert_eq!(soon(watcher.changed(51)).await, 51);
    assert!(hub.stopped());
}

/// Goal: a watcher that is gone costs nothing any more.
#[test]
fn a_dropped_watcher_leaves_the_index() {
    let hub = WatchHub::new(0, 8 << 20);
    let watchers: Vec<_> = ["a", "a", "b"].map(|key| hub.watch(KeyRange::key(key))).into();
    let ranges: Vec<_> = ["a", "b"].map(|key| hub.watch(KeyRange::prefix(key))).into();
    drop((watchers, ranges));
    let index = hub.lock_index();
    assert!(index.is_empty());
    assert_eq!(hub.watchers.load(Ordering::SeqCst), 0);
}

fn deletion(revision: u64, prefix: &str, keys: usize) -> Arc<RevisionEvents> {
    let event = |at: usize| {
        let key = format!("{prefix}{at:06}").into();
        let record = Record { key, mod_revision: revision, ..Default::default() };
        Event { kind: EventKind::Delete, record, previous: None }
    };
    Arc::new(RevisionEvents { revision, events: (0..keys).map(event).collect(), is_cut: false })
}

/// Goal: a revision larger than the ring wakes those whom it concerns and nobody else, sends nobody else
/// to the disk, and leaves the ring to what comes before and after it.
/// Method: the deletion of 100,000 keys of one range, between two small changes of others.
#[tokio::test]
async fn a_revision_larger_than_the_ring_concerns_only_its_range() {
    let hub = WatchHub::new(0, 8 << 20);
    let others: Vec<_> = (0..2000).map(|at| hub.watch(KeyRange::prefix(format!("other{at:04}/")))).collect();
    let key = hub.watch(KeyRange::key("k"));
    let concerned = [hub.watch(KeyRange::prefix("gone")), hub.watch(KeyRange::key("gone000007"))];
    hub.publish(vec![change(1, "k", 10)], 1);
    hub.publish(vec![deletion(2, "gone", 100_000)], 2);
    hub.publish(vec![change(3, "k", 10)], 3);
    while hub.dispatch_some() {}

    for other in &others {
        assert_eq!(other.quiet_until(), Some(3), "{:?}", other.range());
        assert_eq!(revisions(hub.look(1, other.range())), (vec![], 4), "it is not sent to the disk");
    }
    assert_eq!(soon(key.changed(1)).await, 1);
    assert_eq!(revisions(hub.look(1, key.range())), (vec![1, 3], 4));
    for watcher in &concerned {
        assert_eq!(soon(watcher.changed(1)).await, 2);
        assert!(matches!(hub.look(2, watcher.range()), Look::Behind));
        assert_eq!(revisions(hub.look(3, watcher.range())), (vec![], 4), "back at the ring");
    }
    let both = KeyRange::prefix("");
    assert_eq!(revisions(hub.look(1, &both)), (vec![1], 2), "what comes before is not read from disk");
    assert!(matches!(hub.look(2, &both), Look::Behind));
    assert_eq!(revisions(hub.look(3, &both)), (vec![3], 4));
}

/// Goal: a revision whose values were left on the disk is read from there, however small it is in memory.
#[tokio::test]
async fn a_revision_without_all_values_is_read_from_disk() {
    let hub = WatchHub::new(1, 1 << 20);
    let cut = RevisionEvents { is_cut: true, ..(*deletion(2, "k", 1)).clone() };
    hub.publish(vec![Arc::new(cut), deletion(3, "k", 1)], 3);
    assert!(matches!(hub.look(2, &KeyRange::prefix("k")), Look::Behind));
    assert_eq!(revisions(hub.look(3, &KeyRange::prefix("k"))), (vec![3], 4));
    assert_eq!(revisions(hub.look(2, &KeyRange::prefix("other"))), (vec![], 4));
}

/// Goal: the summary of a large revision misses nothing, whatever its keys, and is exact for few of them.
#[test]
fn a_summary_covers_every_key() {
    for (keys, bytes_max) in [(1, 1 << 20), (1000, 1 << 20), (5000, 1 << 20), (5000, 10_000), (5000, 1)] {
        let events = deletion(9, "k", keys);
        let summary = Summary::of(&events, bytes_max);
        assert!(summary.bytes <= bytes_max || summary.spans.len() == 1);
        for event in &events.events {
            assert!(summary.concerns(&KeyRange::key(event.record.key.clone())));
            assert!(summary.concerns(&KeyRange::prefix(event.record.key.clone())));
        }
        for outside in ["a", "j", "l", "k9"] {
            assert!(!summary.concerns(&KeyRange::prefix(outside)), "{outside}");
        }
        if keys <= SPANS_MAX && bytes_max > 10_000 {
            assert!(!summary.concerns(&KeyRange::prefix("k0000000")), "within what it touches");
        }
    }
}
